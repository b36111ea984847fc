"""Waiting for results: one inbox, whoever waits; nothing is missed when it breaks."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import queue
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from fastq import _core
from fastq.exceptions import OperationalError
from fastq.waiting import mailroom, waiter
from fastq.waiting.waiter import Waiter


@pytest.fixture(autouse=True)
def no_slow_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be found by the slow poll that should have been found at once."""
    monkeypatch.setattr(mailroom, "POLL_FIRST_S", 600.0)


def record(state: str = "SUCCESS", size: int = 0) -> bytes:
    return _core.encode_result(state, "application/x-msgpack", _core.packb("x" * size), None, 1, None)


class Result:
    """As much of an AsyncResult as the waiter sees."""

    def __init__(self, id: str) -> None:
        self.id = id
        self.epoch = -1
        self.record: bytes | None = None

    def arrived(self) -> bool:
        return self.record is not None and _core.decode_result(self.record)[0] == "SUCCESS"

    def deliver(self, record: bytes) -> bool:
        self.record = record
        return self.arrived()


class Store:
    """Records and inboxes."""

    def __init__(self) -> None:
        self.records: dict[str, bytes] = {}
        self.reads: list[list[str]] = []
        self.inboxes: list[Inbox] = []
        self.refuse = 0
        self.waiter = Waiter(self.get, self.inbox)

    def get(self, ids: Sequence[str]) -> list[bytes | None]:
        self.reads.append(list(ids))
        return [self.records.get(id) for id in ids]

    def inbox(self) -> Inbox:
        inbox = Inbox(self)
        self.inboxes.append(inbox)
        return inbox

    def put(self, id: str, what: bytes, *, told: bool = True, inline: bool = True) -> None:
        self.records[id] = what
        if told and self.inboxes and self.inboxes[-1].opened:
            self.inboxes[-1].arrivals.put([(id, what if inline else None)])

    def sent(self, *ids: str) -> list[Result]:
        results = [Result(id) for id in ids]
        for result in results:
            self.waiter.expect(result)
        return results


class Inbox:
    def __init__(self, store: Store) -> None:
        self.store = store
        self.arrivals: queue.Queue[list[tuple[str, bytes | None]] | BaseException] = queue.Queue()
        self.opened = False
        self.closed = False
        self.reading = threading.Event()
        self.waits: list[float | None] = []

    def open(self) -> None:
        if self.store.refuse:
            self.store.refuse -= 1
            raise OperationalError("refused")
        self.opened = True

    def fileno(self) -> int:
        return -1

    def read(self, timeout_s: float | None) -> list[tuple[str, bytes | None]]:
        self.waits.append(timeout_s)
        self.reading.set()
        try:
            found = self.arrivals.get(timeout=timeout_s) if timeout_s else self.arrivals.get_nowait()
        except queue.Empty:
            return []
        if isinstance(found, BaseException):
            raise found
        return found

    def close(self) -> None:
        self.closed = True


def until(condition: Callable[[], object], deadline_s: float = 20) -> None:
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def start(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_what_was_stored_before_the_subscription_is_read_once_and_together() -> None:
    store = Store()
    results = store.sent(*(f"{i}" for i in range(600)))
    for i in range(600):
        store.put(f"{i}", record())
    for result in results:
        assert store.waiter.wait([result], 5) == ([result] if result.id == "0" else []) or result.arrived()
    assert all(result.arrived() for result in results)
    assert len(store.reads) <= 4
    assert len(store.inboxes) == 1


def test_what_is_sent_after_the_subscription_is_never_read() -> None:
    store = Store()
    (first,) = store.sent("first")
    store.put("first", record())
    store.waiter.wait([first], 5)
    reads = len(store.reads)
    results = store.sent(*(f"{i}" for i in range(100)))
    for result in results:
        store.put(result.id, record())
    for result in results:
        store.waiter.wait([result], 5)
        assert result.arrived()
    assert len(store.reads) == reads


def test_large_records_are_read_when_their_word_comes() -> None:
    store = Store()
    (first,) = store.sent("first")
    store.waiter.wait([first], 0)
    (result,) = store.sent("a")
    store.put("a", record(size=10_000), inline=False)
    assert store.waiter.wait([result], 5) == [result]
    assert result.arrived()


def test_time_is_over_when_it_is() -> None:
    store = Store()
    (result,) = store.sent("a")
    began = time.monotonic()
    assert store.waiter.wait([result], 0.05) == []
    assert 0.04 < time.monotonic() - began < 5
    assert store.waiter.wait([result], 0) == []
    store.put("a", record(), told=False)
    assert store.waiter.wait([result], 0) == [result], "a last look finds what nobody told"


def test_a_state_that_is_not_final_does_not_end_the_wait() -> None:
    store = Store()
    (result,) = store.sent("a")
    store.waiter.wait([result], 0)
    store.put("a", record("PROGRESS"))
    assert store.waiter.wait([result], 0.02) == []
    store.put("a", record())
    assert store.waiter.wait([result], 5) == [result]


def test_after_a_broken_connection_everything_waited_for_is_read_again() -> None:
    store = Store()
    results = store.sent("a", "b")
    done: list[Any] = []
    thread = start(lambda: done.extend(store.waiter.wait(results, 20)))
    until(lambda: store.inboxes and store.inboxes[0].reading.is_set())
    store.put("a", record(), told=False)
    store.refuse = 2
    store.inboxes[0].arrivals.put(OperationalError("gone"))
    until(lambda: len(store.inboxes) == 4 and store.inboxes[-1].reading.is_set())
    assert store.inboxes[0].closed
    assert results[0].arrived()
    store.put("b", record())
    thread.join(20)
    assert done == results


def test_what_was_sent_before_a_break_is_read_before_it_is_waited_for() -> None:
    store = Store()
    old, other = store.sent("old", "other")
    store.waiter.wait([other], 0)
    (sent,) = store.sent("sent")
    store.inboxes[0].arrivals.put(OperationalError("gone"))
    store.put("sent", record(), told=False)
    store.put("other", record(), told=False)
    assert store.waiter.wait([other], 5) == [other]
    assert store.waiter.wait([sent], 5) == [sent] or sent.arrived()
    assert not old.arrived()


def test_an_inbox_that_stays_away_is_told_to_every_waiter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailroom, "GIVE_UP_S", 0.1)
    store = Store()
    store.refuse = 10_000
    errors: list[BaseException] = []

    def work(id: str) -> None:
        try:
            store.waiter.wait(store.sent(id), 20)
        except OperationalError as exc:
            errors.append(exc)

    threads = [start(lambda i=i: work(f"{i}")) for i in range(3)]  # type: ignore[misc]
    for thread in threads:
        thread.join(20)
    assert len(errors) == 3
    assert store.waiter.wait(store.sent("x"), 0.05) == [], "with less time the time ends it"


def test_a_half_open_connection_is_found_by_the_slow_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailroom, "POLL_FIRST_S", 0.02)
    store = Store()
    results = store.sent("a", "b")
    store.waiter.wait(results, 0)
    threads = [start(lambda r=r: store.waiter.wait([r], 20)) for r in results]  # type: ignore[misc]
    store.put("a", record(), told=False)
    store.put("b", record(), told=False)
    for thread in threads:
        thread.join(20)
    assert all(result.arrived() for result in results)


def test_the_lead_goes_on_to_those_who_still_wait() -> None:
    store = Store()
    ids = [f"{i}" for i in range(20)]
    results = store.sent(*ids)
    store.waiter.wait([results[0]], 0)
    threads = [start(lambda r=r: store.waiter.wait([r], 20)) for r in results]  # type: ignore[misc]
    state = store.waiter._room()
    until(lambda: len(state.tickets) == 20)
    for id in ids:
        store.put(id, record())
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert all(result.arrived() for result in results)
    assert not state.leading and not state.tickets and not state.waiting


def test_an_interrupted_leader_leaves_a_fresh_inbox_to_the_next() -> None:
    store = Store()
    a, b = store.sent("a", "b")
    caught: list[BaseException] = []

    def leader() -> None:
        try:
            store.waiter.wait([a], 20)
        except KeyboardInterrupt as exc:
            caught.append(exc)

    first = start(leader)
    until(lambda: store.inboxes and store.inboxes[0].reading.is_set())
    second = start(lambda: store.waiter.wait([b], 20))
    until(lambda: len(store.waiter._room().tickets) == 2)
    store.inboxes[0].arrivals.put(KeyboardInterrupt())
    first.join(20)
    until(lambda: len(store.inboxes) == 2 and store.inboxes[1].reading.is_set())
    store.put("b", record())
    second.join(20)
    assert caught and b.arrived() and store.inboxes[0].closed


def test_many_are_waited_for_as_they_come() -> None:
    store = Store()
    results = store.sent("a", "b", "c")
    store.waiter.wait(results, 0)
    store.put("b", record())
    assert store.waiter.wait(results, 5, first=True) == [results[1]]
    store.put("c", record())
    store.put("a", record())
    assert sorted(r.id for r in store.waiter.wait(results, 5)) == ["a", "c"]


def test_two_objects_of_one_id_both_get_it() -> None:
    store = Store()
    one, two = store.sent("a", "a")
    three = Result("a")
    store.waiter.wait([one, two], 0)
    threads = [start(lambda r=r: store.waiter.wait([r], 20)) for r in (one, two)]  # type: ignore[misc]
    until(lambda: len(store.waiter._room().tickets) == 2)
    store.put("a", record())
    for thread in threads:
        thread.join(20)
    assert one.arrived() and two.arrived()
    assert store.waiter.wait([three], 5) == [three], "one that was not sent from here is polled for"


def test_results_of_others_are_polled_for_with_back_off(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    store = Store()

    def sleep(pause_s: float) -> None:
        pauses.append(pause_s)
        if len(pauses) == 15:
            store.put("a", record())

    monkeypatch.setattr(time, "sleep", sleep)
    result = Result("a")
    assert store.waiter.wait([result], None) == [result]
    assert pauses[0] == waiter.FOREIGN_FIRST_S and pauses[-1] == waiter.FOREIGN_MOST_S
    assert pauses == sorted(pauses)
    assert store.inboxes == []


def test_results_nobody_holds_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailroom, "SWEEP_AT", 100)
    store = Store()
    state = store.waiter._room()
    state.sweep_at = 100
    held = store.sent("held")
    for i in range(1000):
        store.sent(f"{i}")
    assert len(state.sent) <= 110
    assert "held" in state.sent
    store.waiter.wait(held, 0)
    store.put("999", record())
    store.put("held", record())
    assert store.waiter.wait(held, 5) == held


def test_coroutines_wait_through_a_reader_thread() -> None:
    store = Store()
    results = store.sent(*(f"{i}" for i in range(50)))

    async def work() -> None:
        waits = [asyncio.ensure_future(store.waiter.await_([result], 20)) for result in results]
        while not (store.inboxes and store.inboxes[0].reading.is_set()):
            await asyncio.sleep(0.001)
        for result in results:
            store.put(result.id, record())
        await asyncio.gather(*waits)

    asyncio.run(work())
    assert all(result.arrived() for result in results)
    assert store.waiter._room().tickets == {}


def test_coroutines_of_several_loops_and_threads_wait_together() -> None:
    store = Store()
    results = store.sent(*(f"{i}" for i in range(30)))

    def loop(part: list[Result]) -> None:
        async def work() -> None:
            await asyncio.gather(*(store.waiter.await_([result], 20) for result in part))

        asyncio.run(work())

    threads = [start(lambda: loop(results[:10])), start(lambda: loop(results[10:20]))]
    threads += [start(lambda r=r: store.waiter.wait([r], 20)) for r in results[20:]]  # type: ignore[misc]
    until(lambda: len(store.waiter._room().tickets) == 30)
    until(lambda: store.inboxes and store.inboxes[0].reading.is_set())
    for result in results:
        store.put(result.id, record())
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert all(result.arrived() for result in results)


def test_a_coroutines_time_is_over_and_it_can_be_cancelled() -> None:
    store = Store()
    (result,) = store.sent("a")

    async def work() -> None:
        assert await store.waiter.await_([result], 0.02) == []
        waiting = asyncio.ensure_future(store.waiter.await_([result], None))
        await asyncio.sleep(0.02)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        foreign = Result("f")
        assert await store.waiter.await_([foreign], 0.02) == []
        store.records["f"] = record()
        assert await store.waiter.await_([foreign], 5) == [foreign]
        store.put("a", record())
        assert await store.waiter.await_([result], 5) == [result]

    asyncio.run(work())
    assert store.waiter._room().tickets == {}


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 warns of what this is about
def test_after_a_fork_results_of_the_parent_are_polled_for() -> None:
    store = Store()
    (result,) = store.sent("a")
    leader = start(lambda: store.waiter.wait([result], 20))
    until(lambda: store.inboxes and store.inboxes[0].reading.is_set())
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            store.records["a"] = record()
            inboxes = len(store.inboxes)
            ok = store.waiter.wait([result], 5) == [result] and len(store.inboxes) == inboxes
            (own,) = store.sent("own")
            store.records["own"] = record()
            ok = ok and store.waiter.wait([own], 5) == [own] and len(store.inboxes) == inboxes + 1
            os.write(write, b"ok" if ok else b"no")
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    assert os.read(read, 10) == b"ok"
    os.close(read)
    assert os.waitpid(pid, 0)[1] == 0
    store.put("a", record())
    leader.join(20)
    assert result.arrived()


@pytest.mark.parametrize("step", ["sweep", "open"])
def test_results_may_be_sent_while_all_are_looked_at(step: str) -> None:
    """Until Python 3.12 making a list of pairs may collect garbage, and what that runs lets another thread in."""
    store = Store()
    room = store.waiter._room()
    results = [Result(f"a{i}") for i in range(5000)]
    for result in results:
        room.sent[result.id] = weakref.ref(result)
    numbers = itertools.count()

    def other_thread(phase: str, info: dict[str, int]) -> None:
        result = Result(f"b{next(numbers)}")
        results.append(result)
        room.sent[result.id] = weakref.ref(result)

    threshold = gc.get_threshold()
    gc.callbacks.append(other_thread)
    gc.set_threshold(50)
    try:
        if step == "sweep":
            room.sweep()
        else:
            room._open(None)
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(other_thread)
    assert {"a0", "a4999"} <= room.sent.keys()
