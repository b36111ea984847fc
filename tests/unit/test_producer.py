"""Group commit: one call in flight, everybody's messages kept once, nobody left waiting."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import fastq
from fastq.exceptions import OperationalError
from fastq.producer import NO_RETRY, Producer, RetryPolicy
from fastq.producer import lane as lane_module
from fastq.producer import producer as producer_module
from fastq.records import Opening, Publication

QUICK = RetryPolicy(max_retries=3, interval_step_s=0.0)


class FakeBroker:
    """Keep what is published, once per (producer, number); fail as told."""

    url = "fake://"

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, list[bytes]]] = []
        self.kept: dict[tuple[str, int], list[bytes]] = {}
        self.opened: list[list[str]] = []
        self.failures: list[BaseException] = []
        self.lose_replies = 0
        self.before: Callable[[int], object] = lambda n: None
        self.busy = threading.Lock()
        self.closed = False
        self.offset_ms = 0

    def now_ms(self) -> int:
        return int(time.time() * 1000) + self.offset_ms

    def publish(
        self, producer: str, number: int, publications: Sequence[Publication], openings: Sequence[Opening] = ()
    ) -> None:
        assert self.busy.acquire(blocking=False), "two calls in flight"
        try:
            self.opened.append([opening.id for opening in openings])
            self.calls.append((producer, number, [p.message for p in publications]))
            self.before(len(self.calls))
            if self.failures:
                raise self.failures.pop(0)
            self.kept.setdefault((producer, number), [p.message for p in publications])
            if self.lose_replies:
                self.lose_replies -= 1
                raise OperationalError("reply lost")
        finally:
            self.busy.release()

    def close(self) -> None:
        self.closed = True

    @property
    def messages(self) -> list[bytes]:
        return [message for batch in self.kept.values() for message in batch]


def make() -> tuple[Producer, FakeBroker]:
    broker = FakeBroker()
    return Producer(lambda: broker), broker  # type: ignore[arg-type, return-value]


def one(text: str) -> tuple[Publication]:
    return (Publication("default", text.encode()),)


def spawn(n: int, work: Callable[[int], object]) -> list[threading.Thread]:
    threads = [threading.Thread(target=work, args=(i,)) for i in range(n)]
    for thread in threads:
        thread.start()
    return threads


def finish(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


def until(condition: Callable[[], object], deadline_s: float = 20) -> None:
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_alone_a_call_is_one_message() -> None:
    producer, broker = make()
    for i in range(3):
        producer.publish(one(str(i)), (str(i),), QUICK)
    assert [(number, messages) for _, number, messages in broker.calls] == [(1, [b"0"]), (2, [b"1"]), (3, [b"2"])]
    assert {name for name, _, _ in broker.calls} == {producer.name}


def test_joins_are_opened_in_the_call_of_their_members() -> None:
    producer, broker = make()
    body = one("body")[0]
    inside, go = threading.Event(), threading.Event()

    def hold(n: int) -> None:
        if n == 1:
            inside.set()
            assert go.wait(20)

    broker.before = hold
    first = spawn(1, lambda _: producer.publish(one("a"), ("a",), QUICK))
    assert inside.wait(20)

    def publish(i: int) -> None:
        producer.publish(one(f"m{i}"), (f"m{i}",), QUICK, [Opening(f"j{i}", 1, body)])

    rest = spawn(2, publish)
    until(lambda: len(producer._lane().queue) == 2)
    go.set()
    finish(first + rest)
    assert [sorted(ids) for ids in broker.opened] == [[], ["j0", "j1"]]
    assert sorted(broker.calls[1][2]) == [b"m0", b"m1"]
    broker.lose_replies = 1
    asyncio.run(producer.apublish(one("b"), ("b",), QUICK, [Opening("j", 1, body)]))
    assert broker.opened[2:] == [["j"], ["j"]] and len(broker.kept) == 3


def test_callers_that_come_during_a_call_share_the_next() -> None:
    producer, broker = make()
    inside, go = threading.Event(), threading.Event()

    def hold(n: int) -> None:
        if n == 1:
            inside.set()
            assert go.wait(20)

    broker.before = hold
    first = spawn(1, lambda i: producer.publish(one("first"), ("first",), QUICK))
    assert inside.wait(20)
    others = spawn(20, lambda i: producer.publish(one(str(i)), (str(i),), QUICK))
    until(lambda: len(producer._lane().queue) == 20)
    go.set()
    finish(first + others)
    assert [len(messages) for _, _, messages in broker.calls] == [1, 20]
    assert sorted(broker.messages) == sorted([b"first", *(str(i).encode() for i in range(20))])
    lane = producer._lane()
    assert not lane.leading and not lane.queue and lane.open is None


def test_many_threads_keep_every_message_once() -> None:
    producer, broker = make()

    def work(i: int) -> None:
        for j in range(50):
            producer.publish(one(f"{i}.{j}"), (f"{i}.{j}",), QUICK)

    finish(spawn(16, work))
    assert sorted(broker.messages) == sorted(f"{i}.{j}".encode() for i in range(16) for j in range(50))
    numbers = [number for _, number, _ in broker.calls]
    assert numbers == sorted(set(numbers))


def test_a_batch_is_a_thousand_messages_at_most() -> None:
    producer, broker = make()
    inside, go = threading.Event(), threading.Event()

    def hold(n: int) -> None:
        if n == 1:
            inside.set()
            assert go.wait(20)

    broker.before = hold
    first = spawn(1, lambda i: producer.publish(one("x"), ("x",), QUICK))
    assert inside.wait(20)
    big = tuple(Publication("q", b"m") for _ in range(400))
    others = spawn(6, lambda i: producer.publish(big, (), QUICK))
    until(lambda: len(producer._lane().queue) == 6)
    go.set()
    finish(first + others)
    assert [len(messages) for _, _, messages in broker.calls] == [1, 800, 800, 800]


def test_a_lost_reply_is_repeated_under_the_same_number() -> None:
    producer, broker = make()
    broker.lose_replies = 2
    producer.publish(one("a"), ("a",), QUICK)
    assert [(number, messages) for _, number, messages in broker.calls] == [(1, [b"a"])] * 3
    assert broker.messages == [b"a"]


def test_given_up_it_says_which_tasks_are_unknown() -> None:
    producer, broker = make()
    broker.failures = [OperationalError(f"down {i}") for i in range(4)]
    with pytest.raises(OperationalError, match=r"down 3 \(it is unknown whether the broker kept a, b, c and 1 more\)") as caught:
        producer.publish(one("a"), ("a", "b", "c", "d"), QUICK)
    assert caught.value.task_ids == ("a", "b", "c", "d")
    assert len(broker.calls) == 4
    producer.publish(one("b"), ("b",), QUICK)
    assert broker.calls[-1][1] == 2, "the number of a failed call is not used again"


def test_pauses_follow_the_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    producer, broker = make()
    broker.failures = [OperationalError("x") for _ in range(5)]
    producer.publish(
        one("a"), ("a",), RetryPolicy.of({"max_retries": 5, "interval_start": 0, "interval_step": 0.4, "interval_max": 1})
    )
    assert pauses == [0.0, 0.4, 0.8, 1.0, 1.0]
    assert RetryPolicy.of({"max_retries": None}).pause_s(10_000) == 1.0
    assert NO_RETRY.pause_s(1) is None
    with pytest.raises(ValueError, match=r"unknown keys .'interval'."):
        RetryPolicy.of({"interval": 3})


def test_followers_of_a_failed_call_each_have_an_error_of_their_own() -> None:
    producer, broker = make()
    inside, go = threading.Event(), threading.Event()

    def hold(n: int) -> None:
        if n == 1:
            inside.set()
            assert go.wait(20)
        else:
            broker.failures.append(OperationalError("down"))

    broker.before = hold
    errors: dict[str, BaseException] = {}

    def work(i: int) -> None:
        try:
            producer.publish(one(str(i)), (str(i),), NO_RETRY)
        except OperationalError as exc:
            errors[str(i)] = exc

    first = spawn(1, lambda i: producer.publish(one("first"), ("first",), NO_RETRY))
    assert inside.wait(20)
    others = spawn(5, work)
    until(lambda: len(producer._lane().queue) == 5)
    go.set()
    finish(first + others)
    assert {name: exc.task_ids for name, exc in errors.items()} == {str(i): (str(i),) for i in range(5)}  # type: ignore[attr-defined]
    assert len({id(exc) for exc in errors.values()}) == 5


def test_different_retry_policies_do_not_share_a_call() -> None:
    producer, broker = make()
    inside, go = threading.Event(), threading.Event()

    def hold(n: int) -> None:
        if n == 1:
            inside.set()
            assert go.wait(20)

    broker.before = hold
    first = spawn(1, lambda i: producer.publish(one("x"), ("x",), QUICK))
    assert inside.wait(20)
    others = spawn(4, lambda i: producer.publish(one(str(i)), (str(i),), NO_RETRY if i % 2 else QUICK))
    until(lambda: len(producer._lane().queue) == 4)
    go.set()
    finish(first + others)
    assert sorted(broker.messages) == [b"0", b"1", b"2", b"3", b"x"]
    for _, _, messages in broker.calls[1:]:
        assert len({int(message) % 2 for message in messages}) == 1


def test_a_fault_in_the_transport_reaches_every_caller() -> None:
    producer, broker = make()
    broker.failures = [ValueError("a bug")]
    with pytest.raises(ValueError, match="a bug"):
        producer.publish(one("a"), ("a",), QUICK)
    producer.publish(one("b"), ("b",), QUICK)
    assert broker.messages == [b"b"]


def test_an_interrupted_leader_leaves_its_followers_messages_to_the_next() -> None:
    producer, broker = make()
    inside, go, again = threading.Event(), threading.Event(), threading.Event()

    def hold(n: int) -> None:
        if n == 1:
            inside.set()
            assert go.wait(20)
        elif n == 2:
            broker.failures.append(KeyboardInterrupt())
            again.set()

    broker.before = hold
    ended: dict[int, BaseException | None] = {}

    def work(i: int) -> None:
        try:
            producer.publish(one(str(i)), (str(i),), QUICK)
            ended[i] = None
        except KeyboardInterrupt as exc:
            ended[i] = exc

    first = spawn(1, lambda i: producer.publish(one("first"), ("first",), QUICK))
    assert inside.wait(20)
    others = spawn(5, work)
    until(lambda: len(producer._lane().queue) == 5)
    go.set()
    finish(first + others)
    assert again.is_set()
    interrupted = [i for i, exc in ended.items() if exc is not None]
    assert len(interrupted) == 1 and len(ended) == 5
    second, third = broker.calls[1:3]
    assert second == third, "repeated as it was, under its own number"
    kept = broker.messages
    assert len(kept) == len(set(kept))
    assert {str(i).encode() for i in ended if i not in interrupted} <= set(kept)
    lane = producer._lane()
    assert not lane.leading and not lane.queue


def test_an_interrupted_follower_withdraws_what_was_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    producer, broker = make()
    inside, go = threading.Event(), threading.Event()

    def hold(n: int) -> None:
        if n == 1:
            inside.set()
            assert go.wait(20)

    broker.before = hold
    first = spawn(1, lambda i: producer.publish(one("first"), ("first",), QUICK))
    assert inside.wait(20)
    gate = producer_module.make_gate

    def interrupted() -> Any:
        def wait() -> None:
            raise KeyboardInterrupt

        return wait, lambda: None

    monkeypatch.setattr(producer_module, "make_gate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        producer.publish(one("withdrawn"), ("withdrawn",), QUICK)
    monkeypatch.setattr(producer_module, "make_gate", gate)
    other = spawn(1, lambda i: producer.publish(one("other"), ("other",), QUICK))
    until(lambda: len(producer._lane().queue) == 1)
    go.set()
    finish(first + other)
    assert broker.messages == [b"first", b"other"]


def test_an_interrupted_heir_hands_the_lead_on(monkeypatch: pytest.MonkeyPatch) -> None:
    producer, broker = make()
    inside, go, woken = threading.Event(), threading.Event(), threading.Event()

    def hold(n: int) -> None:
        if n == 1:
            inside.set()
            assert go.wait(20)

    broker.before = hold
    first = spawn(1, lambda i: producer.publish(one("first"), ("first",), QUICK))
    assert inside.wait(20)
    gate = producer_module.make_gate

    def interrupted() -> Any:
        def wait() -> None:
            assert woken.wait(20)
            raise KeyboardInterrupt

        return wait, woken.set

    caught: list[BaseException] = []

    def heir(i: int) -> None:
        try:
            producer.publish(one("heir"), ("heir",), QUICK)
        except KeyboardInterrupt as exc:
            caught.append(exc)

    monkeypatch.setattr(producer_module, "make_gate", interrupted)
    second = spawn(1, heir)
    until(lambda: len(producer._lane().queue) == 1)
    monkeypatch.setattr(producer_module, "make_gate", gate)
    third = spawn(1, lambda i: producer.publish(one("third"), ("third",), QUICK))
    until(lambda: len(producer._lane().queue) == 2)
    go.set()
    finish(first + second + third)
    assert caught and broker.messages == [b"first", b"third"]
    assert not producer._lane().leading


class Crowd:
    """One call in flight, then callers that queue behind it at gates of the test's own.

    ``at_gate[name]`` takes the real wait of that caller's gate and may block or raise around it.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.producer, self.broker = make()
        self.inside, self.go = threading.Event(), threading.Event()
        self.log: list[tuple[str, str]] = []
        self.at_gate: dict[str, Callable[[Callable[[], object]], object]] = {}
        self.ended: dict[str, BaseException | None] = {}
        self.threads: list[threading.Thread] = []
        gate = producer_module.make_gate
        self.broker.before = self._hold

        def watched() -> tuple[Callable[..., object], Callable[[], object]]:
            wait, wake = gate()
            name = threading.current_thread().name

            def logged_wait() -> None:
                around = self.at_gate.get(name)
                around(wait) if around is not None else wait()
                self.log.append(("up", name))

            def logged_wake() -> None:
                self.log.append(("wake", name))
                wake()

            return logged_wait, logged_wake

        monkeypatch.setattr(producer_module, "make_gate", watched)
        self.start("first")
        assert self.inside.wait(20)

    def _hold(self, n: int) -> None:
        if n == 1:
            self.inside.set()
            assert self.go.wait(20)

    def start(self, name: str) -> None:
        """Let a caller publish its own name, and wait until it has queued."""
        queued = len(self.producer._lane().queue)

        def work() -> None:
            try:
                self.producer.publish(one(name), (name,), QUICK)
                self.ended[name] = None
            except BaseException as exc:
                self.ended[name] = exc

        self.threads.append(threading.Thread(target=work, name=name))
        self.threads[-1].start()
        if len(self.threads) > 1:
            until(lambda: len(self.producer._lane().queue) == queued + 1)

    def finish(self) -> None:
        finish(self.threads)
        lane = self.producer._lane()
        assert not lane.leading and not lane.passing and not lane.queue and not lane.chain and lane.open is None


def test_threads_are_woken_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane_module, "CHAIN_S", 60.0)
    crowd = Crowd(monkeypatch)
    for i in range(20):
        crowd.start(str(i))
    crowd.go.set()
    crowd.finish()
    assert crowd.log == [(what, str(i)) for i in range(20) for what in ("wake", "up")]


def test_a_chain_that_takes_too_long_is_broken_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane_module, "CHAIN_S", -1.0)
    crowd = Crowd(monkeypatch)
    stuck = threading.Event()

    def sleepy(wait: Callable[[], object]) -> None:
        wait()
        assert stuck.wait(20)

    crowd.at_gate["b"] = sleepy
    for name in "abcd":
        crowd.start(name)
    crowd.go.set()
    until(lambda: {"a", "c", "d"} <= set(crowd.ended))
    assert "b" not in crowd.ended
    crowd.producer.publish(one("e"), ("e",), QUICK)
    stuck.set()
    crowd.finish()
    assert sorted(crowd.broker.messages) == [b"a", b"b", b"c", b"d", b"e", b"first"]


@pytest.mark.parametrize("woken", [True, False], ids=["holding the chain", "before the chain reaches it"])
def test_a_follower_interrupted_while_the_chain_passes_leaves_nobody_waiting(monkeypatch: pytest.MonkeyPatch, woken: bool) -> None:
    """Actors: ``b``, woken by the leader ``a``, is slow to go on; ``c`` is interrupted, before or after ``b`` wakes it."""
    monkeypatch.setattr(lane_module, "CHAIN_S", 60.0)
    crowd = Crowd(monkeypatch)
    b_awake, b_go = threading.Event(), threading.Event()

    def slow(wait: Callable[[], object]) -> None:
        wait()
        b_awake.set()
        assert b_go.wait(20)

    def interrupted(wait: Callable[[], object]) -> None:
        if woken:
            wait()
        else:
            assert b_awake.wait(20)
        raise KeyboardInterrupt

    crowd.at_gate |= {"b": slow, "c": interrupted}
    for name in "abcd":
        crowd.start(name)
    crowd.go.set()
    assert b_awake.wait(20)
    crowd.start("e")  # the lead comes to it at the end of the chain
    if not woken:
        until(lambda: "c" in crowd.ended)
    b_go.set()
    crowd.finish()
    assert isinstance(crowd.ended.pop("c"), KeyboardInterrupt)
    assert set(crowd.ended.values()) == {None} and set(crowd.ended) == {"first", "a", "b", "d", "e"}
    assert [messages for _, _, messages in crowd.broker.calls] == [[b"first"], [b"a", b"b", b"c", b"d"], [b"e"]]


def test_whoever_is_interrupted_nobody_is_left_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    producer, broker = make()
    gate = producer_module.make_gate
    chance = random.Random(1)

    def shaky() -> tuple[Callable[..., object], Callable[[], object]]:
        wait, wake = gate()
        fate = chance.random()

        def risky() -> None:
            if fate < 0.1:
                wait(timeout=0.0001)
                raise KeyboardInterrupt
            wait()
            if fate < 0.2:
                raise KeyboardInterrupt

        return risky, wake

    def call(n: int) -> None:
        time.sleep(0.0001)  # on the way to the server: the others come meanwhile
        if chance.random() < 0.1:
            raise KeyboardInterrupt

    broker.before = call
    monkeypatch.setattr(producer_module, "make_gate", shaky)
    returned: list[bytes] = []

    def work(i: int) -> None:
        for j in range(100):
            with contextlib.suppress(KeyboardInterrupt):
                producer.publish(one(f"{i}.{j}"), (), QUICK)
                returned.append(f"{i}.{j}".encode())

    finish(spawn(12, work))
    kept = broker.messages
    assert len(kept) == len(set(kept)) and set(returned) <= set(kept)
    assert len(returned) > 600 and len(broker.calls) < 600, "most have shared calls"
    lane = producer._lane()
    assert not lane.leading and not lane.passing and not lane.queue and not lane.chain and lane.open is None


def test_greenlets_that_time_out_leave_nobody_waiting(tmp_path: Path) -> None:
    script = tmp_path / "greenlets.py"
    script.write_text(
        "from gevent import monkey\n"
        "monkey.patch_all()\n"
        "import random, gevent, time\n"
        "from fastq.producer import Producer, RetryPolicy\n"
        "from fastq.records import Publication\n"
        "kept, returned, chance = {}, [], random.Random(1)\n"
        "class Broker:\n"
        "    def now_ms(self): return int(time.time() * 1000)\n"
        "    def close(self): pass\n"
        "    def publish(self, producer, number, publications):\n"
        "        gevent.sleep(0.0002 * chance.random())\n"
        "        kept.setdefault(number, [p.message for p in publications])\n"
        "        gevent.sleep(0.0002 * chance.random())\n"
        "producer = Producer(Broker)\n"
        "def work(i):\n"
        "    for j in range(20):\n"
        "        with gevent.Timeout(0.001 * chance.random() if chance.random() < 0.3 else 30, False):\n"
        "            producer.publish((Publication('q', b'%d.%d' % (i, j)),), (), RetryPolicy())\n"
        "            returned.append(b'%d.%d' % (i, j))\n"
        "greenlets = [gevent.spawn(work, i) for i in range(100)]\n"
        "assert len(gevent.joinall(greenlets, timeout=30)) == 100\n"
        "messages = [m for batch in kept.values() for m in batch]\n"
        "assert len(messages) == len(set(messages)) and set(returned) <= set(messages)\n"
        "assert 1400 <= len(returned) < 2000, len(returned)\n"
        "lane = producer._lane()\n"
        "assert not lane.leading and not lane.passing and not lane.queue and not lane.chain and lane.open is None\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(fastq.__file__).parent.parent)}
    subprocess.run([sys.executable, str(script)], check=True, env=environment, timeout=60)


def test_interrupted_alone_it_can_go_on() -> None:
    producer, broker = make()
    broker.failures = [KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        producer.publish(one("a"), ("a",), QUICK)
    producer.publish(one("b"), ("b",), QUICK)
    assert broker.messages == [b"b"]


def test_the_clock_is_the_brokers() -> None:
    producer, broker = make()
    broker.offset_ms = -3_600_000
    assert abs(producer.now_ms() - broker.now_ms()) < 5_000
    assert broker.calls == [], "asking for the time publishes nothing"
    broker.offset_ms = 7_200_000
    producer.publish(one("a"), ("a",), QUICK)
    assert abs(producer.now_ms() - broker.now_ms()) < 5_000


def test_coroutines_of_several_loops_share_calls() -> None:
    producer, broker = make()

    async def many(loop: int) -> None:
        await asyncio.gather(*(producer.apublish(one(f"{loop}.{i}"), (str(i),), QUICK) for i in range(100)))

    finish(spawn(4, lambda n: asyncio.run(many(n))))
    assert sorted(broker.messages) == sorted(f"{n}.{i}".encode() for n in range(4) for i in range(100))
    assert len(broker.calls) < 400


def test_threads_and_coroutines_share_calls() -> None:
    producer, broker = make()

    async def many() -> None:
        await asyncio.gather(*(producer.apublish(one(f"loop.{i}"), (), QUICK) for i in range(50)))

    def work(n: int) -> None:
        if n == 0:
            asyncio.run(many())
        else:
            for i in range(50):
                producer.publish(one(f"{n}.{i}"), (), QUICK)

    finish(spawn(4, work))
    assert len(broker.messages) == len(set(broker.messages)) == 200


def test_a_coroutine_gets_the_error_too() -> None:
    producer, broker = make()
    broker.failures = [OperationalError("down")]
    with pytest.raises(OperationalError, match="down") as caught:
        asyncio.run(producer.apublish(one("a"), ("a",), NO_RETRY))
    assert caught.value.task_ids == ("a",)


def test_flush_sends_what_a_loop_has_accepted_but_not_awaited() -> None:
    producer, _ = make()

    async def forget() -> None:
        task = asyncio.ensure_future(producer.apublish(one("a"), ("a",), QUICK))
        await asyncio.sleep(0)
        task.cancel()

    for _ in range(20):
        asyncio.run(forget())
    assert producer.flush()
    assert not producer._lane().queue


def test_closing_sends_what_is_queued_and_a_later_publish_connects_again() -> None:
    producer, broker = make()
    producer.publish(one("a"), (), QUICK)
    producer.close()
    assert broker.closed
    producer.publish(one("b"), (), QUICK)
    assert broker.messages == [b"a", b"b"]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 warns of what this is about
def test_a_fork_starts_afresh_even_while_a_call_is_in_flight() -> None:
    producer, broker = make()
    inside, go = threading.Event(), threading.Event()

    def hold(n: int) -> None:
        if n == 1:
            inside.set()
            assert go.wait(20)

    broker.before = hold
    name = producer.name
    leader = spawn(1, lambda i: producer.publish(one("parent"), (), QUICK))
    assert inside.wait(20)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:  # the child: every lock of the parent is held for ever here
        status = 1
        try:
            fresh = FakeBroker()
            producer._open_broker = lambda: fresh  # type: ignore[assignment, return-value]
            producer.publish(one("child"), (), QUICK)
            own = producer.name
            ok = fresh.calls == [(own, 1, [b"child"])] and own != name and not broker.closed
            os.write(write, b"ok" if ok else repr(fresh.calls).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    assert os.read(read, 1000) == b"ok"
    os.close(read)
    assert os.waitpid(pid, 0)[1] == 0
    go.set()
    finish(leader)
    assert producer.name == name
    assert broker.messages == [b"parent"]


def test_nothing_accepted_is_lost_at_exit(tmp_path: Path) -> None:
    script = tmp_path / "leaving.py"
    script.write_text(
        "import asyncio, threading\n"
        "from fastq import FastQ\n"
        f"app = FastQ('leaving', broker='sqlite:///{tmp_path}/x.db')\n"
        "@app.task\ndef work(i): pass\n"
        "async def main():\n"
        "    tasks = [asyncio.create_task(work.adelay(i)) for i in range(200)]\n"
        "    await work.adelay(0)\n"  # the clock is known: the others queue at their first step
        "    loop = asyncio.get_running_loop()\n"
        "    loop.call_soon(loop.stop)\n"
        "    await asyncio.sleep(60)\n"
        "loop = asyncio.new_event_loop()\n"
        "task = loop.create_task(main())\n"
        "loop.run_forever()\n"
        "import os, sys\n"
        "sys.stderr = open(os.devnull, 'w')\n"  # asyncio complains of the tasks left pending, as it should
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(fastq.__file__).parent.parent)}
    subprocess.run([sys.executable, str(script)], check=True, env=environment, timeout=60)
    app = fastq.FastQ(broker=f"sqlite:///{tmp_path}/x.db", set_as_current=False)
    from fastq.transports import open_inspector

    inspector = open_inspector(app.broker_url, app.transport_options())
    assert inspector.depth("default")["ready"] == 201
    inspector.close()
