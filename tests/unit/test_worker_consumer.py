"""The loop of a worker process: exactly once under lost calls, fencing, stopping, counting, several queues."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fastq import _core, signals
from fastq._core import HELD, RETURNED, STARTED
from fastq.records import RETURN, Lease, Settlement
from tests.unit.worker_rig import DEADLINE_S, Rig, message, rig, wait_for


class Ran:
    """A task that counts its runs."""

    def __init__(self) -> None:
        self.runs: Counter[Any] = Counter()
        self._lock = threading.Lock()

    def __call__(self, n: Any = 0) -> Any:
        with self._lock:
            self.runs[n] += 1
        return n

    @property
    def total(self) -> int:
        return sum(self.runs.values())


class Blocked:
    """A task that waits to be let go."""

    def __init__(self) -> None:
        self.started = threading.Semaphore(0)
        self.gate = threading.Event()
        self.ids: list[Any] = []

    def __call__(self, n: Any = 0) -> str:
        self.ids.append(n)
        self.started.release()
        assert self.gate.wait(3 * DEADLINE_S)  # longer than any test waits for what must happen meanwhile
        return "let go"

    def await_start(self) -> None:
        assert self.started.acquire(timeout=DEADLINE_S)


def measured(made: Rig, *names: str) -> None:
    """Make these names measured short, and the window wide."""
    for name in names:
        entry = made.registry.get(name)
        assert entry is not None
        for _ in range(10):
            made.window.note(entry.index, 1_000)
            made.window.size()


# --- exactly once ---


def sees(ran: Ran, total: int) -> bool:
    return ran.total >= total


def lose(how: str, at: int) -> Callable[[int, str], str]:
    """Lose one call."""
    return lambda number, name: how if number == at else ""


@pytest.mark.parametrize("queues", [("default",), ("a", "b")])
@pytest.mark.parametrize("how", ["request", "reply"])
def test_a_call_lost_anywhere_loses_nothing_and_runs_nothing_twice(how: str, queues: tuple[str, ...]) -> None:
    total = 200
    at = calls = 0
    while at <= calls:
        ran = Ran()
        with rig({"t": ran}, start=False, fails=lose(how, at), queues=queues) as made:
            for i, queue in enumerate(queues):
                mine = range(i, total, len(queues))
                made.publish(*[message("t", n, id=f"t{n}") for n in mine], queue=queue)
            made.start()
            wait_for(partial(sees, ran, total), f"200 runs with the {how} of call {at} lost")
            wait_for(made.settled_all, f"all to be settled with the {how} of call {at} lost")
            made.stop()
            made.join()
            assert set(ran.runs.values()) == {1} and len(ran.runs) == total
            assert made.leased() == [] and made.board.held() == []
            assert made.backend is not None and None not in made.backend.get([f"t{n}" for n in range(total)])
            calls = max(calls, len(made.trouble.calls)) if at == 0 else calls
        at += 1
    assert calls >= 4


@pytest.mark.parametrize("how", ["request", "reply"])
def test_a_bad_connection_loses_nothing_on_a_file(how: str, tmp_path: Path) -> None:
    ran = Ran()
    fails = lambda number, name: how if number % 3 == 1 else ""  # noqa: E731
    with rig({"t": ran}, url=f"sqlite:///{tmp_path}/q.db", slots=4, fails=fails) as made:
        made.publish(*[message("t", n) for n in range(200)])
        wait_for(lambda: ran.total >= 200, "200 runs")
        wait_for(made.settled_all, "all to be settled")
        assert set(ran.runs.values()) == {1}
        assert made.leased() == []


def test_nothing_works_until_the_broker_is_there() -> None:
    ran = Ran()
    with rig({"t": ran}, start=False) as made:
        made.trouble.down = True
        made.publish(message("t"))
        made.start()
        wait_for(lambda: made.trouble.calls.count("open") >= 3, "three attempts")
        made.trouble.down = False
        wait_for(made.settled_all)
        assert ran.total == 1


def test_an_idle_process_makes_no_calls_and_is_woken() -> None:
    ran = Ran()
    with rig({"t": ran}) as made:
        wait_for(lambda: made.trouble.calls, "the first fetch")
        wait_for(lambda: made.notifier.armed, "sleep")
        before = len(made.trouble.calls)
        made.publish(message("t"))
        wait_for(made.settled_all)
        wait_for(lambda: made.notifier.armed, "sleep")
        assert ran.total == 1 and len(made.trouble.calls) - before <= 3


# --- reconnecting ---


def test_what_was_leased_for_a_reply_lost_for_good_is_given_back_after_a_reconnect() -> None:
    ran = Ran()
    with rig({"t": ran}) as made:
        wait_for(lambda: made.notifier.armed, "sleep")
        made.trouble.down = True
        made.publish(message("t"))  # wakes it into a fetch that fails
        wait_for(lambda: len(made.trouble.calls) > 4, "attempts")
        # a failover to a server that has seen a later call of this process
        with made.trouble.store.lock:
            held = made.trouble.store.queue("default").leased.setdefault(made.process, {})
            held["0:900:0"] = type(held)() or _held(made)
        made.trouble.down = False
        wait_for(made.settled_all)
        assert ran.total == 2


def _held(made: Rig) -> Any:
    from fastq.transports.memory.queue import Held

    return Held(0, 900, message("t", 7))


def test_what_is_not_leased_any_more_is_not_started_after_a_reconnect() -> None:
    block, ran = Blocked(), Ran()
    with rig({"block": block, "t": ran}, slots=1, prefetch=5, start=False) as made:
        made.feeder.patience_s = 60.0
        measured(made, "block", "t")
        made.publish(message("block"), *[message("t", n) for n in range(3)])
        made.start()
        block.await_start()
        wait_for(lambda: len(made.leased()) == 4)
        with made.trouble.store.lock:  # a failover rolled the lease of the last back
            held = made.trouble.store.queue("default").leased[made.process]
            del held[list(held)[-1]]
        made.trouble.down = True
        made.publish(message("t", 99))
        made.consumer._exchange.lost_connection = True
        made.trouble.down = False
        made.notifier.armed = True
        made.notifier.notify()
        wait_for(lambda: "leased" in made.trouble.calls, "the comparison")
        block.gate.set()
        wait_for(made.settled_all)
        assert dict(ran.runs) == {0: 1, 1: 1, 99: 1}


# --- fencing ---


def condemn(made: Rig) -> None:
    made.broker.condemn([Lease(queue, made.process, "") for queue in made.queues])


@pytest.mark.parametrize("store", ["memory", "sqlite"])
def test_a_fenced_process_goes_on_under_a_new_name(store: str, tmp_path: Path) -> None:
    ran = Ran()
    with rig({"t": ran}, url="" if store == "memory" else f"sqlite:///{tmp_path}/q.db") as made:
        made.publish(message("t", 1))
        wait_for(lambda: ran.total == 1)
        wait_for(made.settled_all)
        condemn(made)
        made.publish(message("t", 2))
        wait_for(lambda: ran.total == 2)
        wait_for(made.settled_all)
        assert made.said("fenced") == [made.names[0]] and len(made.names) == 2
        made.publish(message("t", 3))
        wait_for(lambda: ran.total == 3)


@pytest.mark.parametrize("store", ["memory", "sqlite"])
def test_what_runs_while_fenced_is_settled_under_the_old_name(store: str, tmp_path: Path) -> None:
    block, ran = Blocked(), Ran()
    with rig({"block": block, "t": ran}, slots=2, url="" if store == "memory" else f"sqlite:///{tmp_path}/q.db") as made:
        made.publish(message("block", id="long"))
        block.await_start()
        condemn(made)
        made.publish(message("t", 1))
        wait_for(lambda: ran.total == 1)
        block.gate.set()
        assert made.result("long")[0] == "SUCCESS"
        wait_for(made.settled_all)
        # a message without a result may come after; the old name has settled exactly one, and is forgotten
        assert [s.id for name, batch in made.trouble.settled if name == made.names[0] for s in batch] == ["long"]
        wait_for(lambda: not made.consumer._holdings.former and not len(made.consumer._holdings.held))
        assert block.ids == [0]


def test_an_idle_process_that_was_taken_for_dead_finds_out_within_a_lease() -> None:
    """Its host was asleep; another node has taken its registration away, so nobody will ever wake it."""
    ran = Ran()
    with rig({"t": ran}, lease_ms=150) as made:
        wait_for(lambda: made.notifier.armed, "sleep")
        made.broker.condemn([Lease("default", made.process, "")])
        made.broker.release("default", made.process, {})
        made.publish(message("t"))
        wait_for(lambda: ran.total == 1)
        assert len(made.names) == 2


def test_what_waits_while_fenced_is_not_started() -> None:
    block, ran = Blocked(), Ran()
    with rig({"block": block, "t": ran}, slots=2, prefetch=5, lease_ms=200, start=False) as made:
        made.feeder.patience_s = 60.0
        measured(made, "block", "t")
        made.publish(message("block", id="long"), *[message("t", n) for n in range(3)])
        made.start()
        block.await_start()
        wait_for(lambda: ran.total == 2 and len(made.leased()) == 2, "one to wait behind the long one")
        made.broker.condemn([Lease("default", made.process, "")])
        assert made.broker.release("default", made.process, {}) == 2
        # the long one has been taken for lost and runs again; what waited behind it must not run in both places
        block.await_start()
        block.gate.set()
        wait_for(made.settled_all)
        assert dict(ran.runs) == {0: 1, 1: 1, 2: 1} and len(block.ids) == 2
        wait_for(lambda: made.settler.fenced == 1)


def test_a_lost_call_under_a_former_name_loses_no_outcome_of_either() -> None:
    block, ran = Blocked(), Ran()
    lost: list[int] = []

    def fails(number: int, name: str) -> str:
        if name == "settle" and block.gate.is_set() and len(lost) < 3:
            lost.append(number)
            return "request"
        return ""

    with rig({"block": block, "t": ran}, slots=3, fails=fails) as made:
        made.publish(message("block", 1, id="old"))
        block.await_start()
        condemn(made)
        made.publish(message("block", 2, id="new"))
        block.await_start()
        assert len(made.names) == 2
        block.gate.set()
        assert made.result("old")[0] == made.result("new")[0] == "SUCCESS"
        wait_for(made.settled_all)
        assert len(lost) == 3 and sorted(block.ids) == [1, 2]


def test_a_process_whose_new_names_do_not_live_asks_no_faster_than_it_backs_off() -> None:
    ran = Ran()
    with rig({"t": ran}, start=False) as made:
        real, entered = made.broker.renew, threading.Event()
        made.broker.renew = lambda *args: real(*args) if entered.is_set() else []  # type: ignore[method-assign]
        made.start()
        made.publish(message("t"))
        wait_for(lambda: len(made.names) >= 3, "three names")
        entered.set()
        wait_for(made.settled_all)
        assert len(made.names) < 10


# --- stopping ---


def test_a_warm_stop_finishes_what_runs_and_gives_back_the_rest() -> None:
    block, ran = Blocked(), Ran()
    with rig({"block": block, "t": ran}, slots=1, prefetch=3, start=False) as made:
        made.feeder.patience_s = 60.0
        measured(made, "block", "t")
        made.publish(message("block", id="long"), *[message("t", n, id=f"t{n}") for n in range(3)])
        made.start()
        block.await_start()
        wait_for(lambda: len(made.leased()) == 4)
        made.stop()
        wait_for(lambda: made.inspector.depth("default")["ready"] == 3, "the give-back")
        block.gate.set()
        made.join()
        assert made.result("long")[0] == "SUCCESS"
        assert [_core.task_id(m) for m in made.inspector.peek("default", 9)] == ["t0", "t1", "t2"]
        assert ran.total == 0 and made.leased() == [] and made.said("stopped") == ["warm"]


def test_a_stopping_process_is_not_idle_any_more_at_once() -> None:
    block = Blocked()
    with rig({"block": block}, slots=2) as made:
        made.publish(message("block"))
        block.await_start()
        queue = made.trouble.store.queue("default")
        wait_for(lambda: made.process in queue.idle, "registration")
        made.stop()
        wait_for(lambda: made.process not in queue.idle, "leaving")
        block.gate.set()
        made.join()


def test_what_an_unanswered_fetch_leased_goes_back_while_a_stopping_process_still_runs() -> None:
    block = Blocked()
    ready = threading.Event()

    def fails(number: int, name: str) -> str:
        return "reply" if ready.is_set() and not made.consumer._orders.stopping else ""

    with rig({"block": block}, slots=2, start=False, fails=lambda number, name: fails(number, name)) as made:
        made.start()
        made.publish(message("block"))
        block.await_start()
        wait_for(lambda: made.notifier.armed, "sleep")
        ready.set()
        made.publish(message("block", id="fetched"))
        wait_for(lambda: len(made.leased()) == 2 or made.settler.unanswered, "the fetch")
        wait_for(lambda: len(made.leased()) == 2, "the lease")
        made.stop()
        wait_for(lambda: made.inspector.depth("default")["ready"] == 1, "the give-back")
        assert block.ids == [0]
        block.gate.set()
        made.join()


@pytest.mark.parametrize("second", [True, False])
def test_a_warm_stop_without_the_broker_ends_after_a_lease_or_at_the_second_signal(second: bool) -> None:
    block = Blocked()
    with rig({"block": block}, lease_ms=60_000 if second else 300) as made:
        made.publish(message("block"))
        block.await_start()
        made.trouble.down = True
        made.consumer.request_stop()
        block.gate.set()
        if second:
            before = len(made.trouble.calls)
            wait_for(lambda: len(made.trouble.calls) > before + 1, "attempts")
            made.consumer.request_stop("cold")
            made.consumer.request_stop("warm")  # does not turn it back
        made.join()
        assert made.consumer.stopped_cold is second
        assert len(made.leased()) == 1


def test_a_cold_stop_waits_for_nobody() -> None:
    block = Blocked()
    with rig({"block": block}) as made:
        made.publish(message("block"))
        block.await_start()
        made.stop("cold")
        made.join()
        assert made.consumer.stopped_cold and len(made.leased()) == 1
        block.gate.set()


@pytest.mark.parametrize("named", [True, False])
def test_a_process_whose_supervisor_is_gone_stops_cold(named: bool) -> None:
    with rig({"t": Ran()}, start=False) as made:
        if named:
            made.start()
            wait_for(lambda: made.notifier.armed, "sleep")
        else:
            made._thread.start()
            made._supervisor.start()
        made.link._sock.shutdown(2)
        made.join()
        assert made.consumer.stopped_cold


def test_a_stop_before_the_start_ends_it() -> None:
    with rig({"t": Ran()}, start=False) as made:
        made.consumer.request_stop()
        made._thread.start()
        made._supervisor.start()
        made.join()
        assert not made.consumer.stopped_cold


# --- counting ---


@pytest.mark.parametrize("slots", [1, 3])
def test_max_tasks_is_exact_whatever_is_refused_or_given_back(slots: int) -> None:
    ran = Ran()
    with rig({"t": ran}, slots=slots, max_tasks=50, start=False) as made:
        measured(made, "t")
        for n in range(100):
            made.publish(message("t", n), message("unknown"), message("t", expires_ms=1))
        made.start()
        made.join()
        assert ran.total == 50
        assert made.said("recycle") == ["max tasks"] and not made.consumer.stopped_cold
        assert made.leased() == [] and made.inspector.depth("default")["ready"] > 0


def test_what_the_supervisor_gave_back_is_not_counted_and_not_held() -> None:
    block, ran = Blocked(), Ran()
    with rig({"block": block, "t": ran}, slots=1, prefetch=3, max_tasks=4, start=False) as made:
        made.feeder.patience_s = 60.0
        measured(made, "block", "t")
        made.publish(message("block", id="long"), *[message("t", n) for n in range(3)])
        made.start()
        block.await_start()
        wait_for(lambda: len([r for r in made.board.held() if r[3] == HELD]) == 3)
        wait_for(lambda: made.said("holding"), "word of it")
        assert made.board.counter("watched") == 1
        for record, tag, _, state, _, _ in made.board.held():
            if state == HELD:
                assert made.board.give_back(record)
                made.broker.settle(made.process, [Settlement("default", tag, "", RETURN)], results=False)
        made.board.set_counter("watched", 0)
        block.gate.set()
        made.join()  # having run as many as it may: the ones given back are fetched, and run, by the same process
        assert ran.total == 3 and set(ran.runs.values()) == {1}
        assert made.leased() == [] and made.board.held() == []


def test_the_supervisor_is_told_of_deliveries_that_wait_in_slots() -> None:
    """One slot blocks the hub or holds the GIL; the others were given something and cannot start it."""
    with rig({"t": Ran()}, slots=4, start=False) as made:

        def take(batch: Sequence[Any]) -> None:
            made.pool.free -= 1

        made.pool.submit = take  # type: ignore[method-assign]
        made.publish(message("t"), message("t"))
        made.start()
        wait_for(lambda: made.said("holding"), "word of it")
        assert [r[3] for r in made.board.held()] == [HELD, HELD]
        made.pool.free = made.pool.slots


def test_what_was_given_back_in_a_busy_process_is_forgotten_while_it_is_busy() -> None:
    block, ran = Blocked(), Ran()
    with rig({"block": block, "t": ran}, slots=2, start=False) as made:
        made.publish(message("block", id="long"))
        made.start()
        block.await_start()
        queue_index = 0
        d = _core.deliveries("default", ["0:77:0"], [message("t")], made.registry)
        made.consumer._board.hold(d, queue_index, 1)
        made.consumer._holdings.held.add("default", ["0:77:0"], d)
        made.consumer._holdings.taken += 1
        made.consumer._holdings.watched = True
        assert made.board.give_back(d[0].record)
        made.publish(message("t"))
        wait_for(lambda: d[0] not in made.consumer._holdings.held, "the sweep")
        assert RETURNED not in [r[3] for r in made.board.held()] and STARTED in [r[3] for r in made.board.held()]
        block.gate.set()


# --- last chance ---


def test_a_process_runs_one_delivery_on_its_last_chance_and_then_the_next() -> None:
    block = Blocked()
    with rig({"block": block}, slots=4) as made:
        made.publish(*[message("block", n, deliveries=2) for n in range(2)])
        block.await_start()
        made.publish(message("block", 5))
        block.await_start()
        assert block.ids == [0, 5]
        block.gate.set()
        wait_for(made.settled_all)
        assert block.ids == [0, 5, 1] and not made.consumer._holdings.last_chances


def test_a_last_chance_lost_with_a_name_does_not_bar_the_next() -> None:
    ran = Ran()
    with rig({"t": ran}, start=False) as made:
        d = _core.deliveries("default", ["0:1:0"], [message("t", deliveries=2)], made.registry)
        made.consumer._board.hold(d, 0, 1)
        made.consumer._holdings.held.add("default", ["0:1:0"], d)
        made.consumer._holdings.last_chances.add(d[0])
        made.consumer._exchange.lost_connection = True  # and the store knows nothing of it
        made.publish(message("t", deliveries=2))
        made.start()
        wait_for(made.settled_all)
        assert ran.total == 1


# --- several queues ---


def test_the_same_tag_on_two_queues_is_two_deliveries() -> None:
    block = Blocked()
    with rig({"block": block}, slots=2, queues=("a", "b"), start=False) as made:
        made.publish(message("block", 1), queue="a")
        made.publish(message("block", 2), queue="b")
        made.start()
        block.await_start()
        block.await_start()
        tags = [tag for tag, _ in made.leased()]
        assert len(made.consumer._holdings.held) == 2, tags
        assert len(set(tags)) == 1, "this test needs a store that numbers tags per queue"
        block.gate.set()
        wait_for(made.settled_all)
        wait_for(lambda: not len(made.consumer._holdings.held))


# --- law 5 ---


def test_what_waits_behind_a_task_that_turns_out_long_goes_back_in_order_and_stays_there() -> None:
    block, ran = Blocked(), Ran()
    with rig({"block": block, "t": ran}, slots=1, start=False) as made:
        measured(made, "block", "t")
        made.publish(message("block"), *[message("t", n, id=f"t{n}") for n in range(300)])
        made.start()
        block.await_start()
        wait_for(lambda: made.inspector.depth("default")["ready"] == 300, "the give-back")
        assert [_core.task_id(m) for m in made.inspector.peek("default", 300)] == [f"t{n}" for n in range(300)]
        before = len(made.trouble.fetches)
        wait_for(lambda: made.notifier.armed, "sleep")
        # it fetches nothing more until its slot is free: carrying messages to and fro would keep them from everybody else
        assert not made.consumer._want() and len(made.trouble.fetches) == before
        block.gate.set()
        wait_for(made.settled_all)
        assert set(ran.runs.values()) == {1} and ran.total == 300


def test_before_an_unknown_name_starts_on_one_slot_all_that_ran_is_settled_and_the_rest_given_back() -> None:
    block, ran = Blocked(), Ran()
    with rig({"unknown": block, "t": ran}, slots=1, start=False) as made:
        measured(made, "t")
        made.publish(*[message("t", n, id=f"t{n}") for n in range(5)], message("unknown"), *[message("t", n) for n in range(9, 12)])
        made.start()
        block.await_start()
        assert made.backend is not None and None not in made.backend.get([f"t{n}" for n in range(5)])
        wait_for(lambda: made.inspector.depth("default")["ready"] == 3, "the give-back")
        assert len(made.leased()) == 1
        block.gate.set()
        wait_for(made.settled_all)


@pytest.mark.parametrize(("prefetch", "held"), [(0, 1), (2, 3)])
def test_prefetch_bounds_what_is_held_beyond_the_slots(prefetch: int, held: int) -> None:
    block = Blocked()
    with rig({"block": block}, slots=1, prefetch=prefetch, start=False) as made:
        made.feeder.patience_s = 60.0
        measured(made, "block")
        made.publish(*[message("block", n) for n in range(20)])
        made.start()
        block.await_start()
        wait_for(lambda: made.notifier.armed, "sleep")
        assert len(made.leased()) == held
        block.gate.set()
        wait_for(made.settled_all)


# --- a thousand slots ---


def test_a_thousand_slots_all_run_at_once() -> None:
    count = threading.Semaphore(0)
    gate = None

    async def park(n: int) -> None:
        import asyncio

        nonlocal gate
        gate = gate or asyncio.Event()
        count.release()
        if n == 1_199:
            gate.set()
        await gate.wait()

    with rig({"park": park}, pool="asyncio", slots=1_200, entry={"is_async": True}) as made:
        made.publish(*[message("park", n) for n in range(1_200)])
        wait_for(made.settled_all)
        made.stop()
        made.join()
        assert made.board.counter("done") == 1_200 and made.leased() == []


# --- wakes ---


def test_a_wake_that_comes_during_a_check_is_not_lost() -> None:
    ran = Ran()
    with rig({"t": ran}, start=False, lease_ms=150) as made:
        real = made.trouble.wake
        kept: list[bool] = []

        def wake(process: str) -> Any:
            channel = real(process)
            drain, check = channel.drain, channel.check

            def checked() -> None:  # as on Redis: the answer is awaited, and a wake that comes first is kept inside
                check()
                if not kept:
                    made.publish(message("t"))
                    assert drain()
                    kept.append(True)

            def drained() -> bool:
                if kept == [True]:
                    kept.append(False)
                    return True
                return bool(drain())

            channel.check = checked  # type: ignore[method-assign]
            channel.drain = drained  # type: ignore[method-assign]
            return channel

        made.trouble.wake = wake  # type: ignore[method-assign]
        made.start()
        wait_for(lambda: ran.total == 1)


# --- orders ---


def test_an_order_given_before_a_message_was_sent_is_obeyed_before_that_is_taken_in() -> None:
    happened: list[str] = []
    started = threading.Event()

    def order_and_send(number: int, name: str) -> str:
        if name == "fetch" and not happened:  # this process has read what it was ordered, and is on its way to the broker
            happened.append("asks")
            assert started.wait(DEADLINE_S)
            made.send({"order": {"do": "note"}})
            made.publish(message("task"))
        return ""

    def received(**kwargs: Any) -> None:
        happened.append("takes in")

    signals.task_received.connect(received)
    with rig({"task": lambda: happened.append("runs")}, start=False, fails=order_and_send) as made:
        made.consumer.obey["note"] = lambda order: happened.append("obeys")
        made.start()
        started.set()
        wait_for(lambda: len(happened) == 4, "order and task")
    assert happened == ["asks", "obeys", "takes in", "runs"]


def test_what_comes_from_a_queue_that_was_given_up_before_goes_back() -> None:
    ran, started, asked = Ran(), threading.Event(), list[str]()

    def order_and_send(number: int, name: str) -> str:
        if name == "fetch" and not asked:
            asked.append(name)
            assert started.wait(DEADLINE_S)
            made.send({"order": {"do": "queues", "known": ["a", "b"], "taken": ["b"], "change": 1, "anew": False}})
            made.publish(message("task", 1), message("task", 2), queue="a")
        return ""

    with rig({"task": ran}, start=False, queues=("a", "b"), fails=order_and_send) as made:
        made.start()
        started.set()
        wait_for(lambda: made.said("takes") == [1], "the change")
        made.publish(message("task", 3), queue="b")
        wait_for(lambda: ran.total, "the task from the queue that is left")
        wait_for(lambda: made.inspector.depth("a") == {"ready": 2, "delayed": 0, "leased": 0, "dead": 0}, "all to go back")
        assert [_core.peek(one).deliveries for one in made.inspector.peek("a", 9)] == [0, 0], "they are not charged"
        assert ran.runs == {3: 1}


# --- logging ---


def test_what_is_received_is_logged_only_where_asked(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "fastq.worker.consumer"), rig({"t": Ran()}) as made:
        made.publish(message("t", id="abc"))
        wait_for(made.settled_all)
    assert "Task t[abc] received" in caplog.messages
