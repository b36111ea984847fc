"""Time limits: what a process notes of its runs, what its supervisor makes of that, and how a killed task is settled."""

from __future__ import annotations

import os
import pickle
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from fastq import _core
from fastq.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded
from fastq.pools import make_pool
from fastq.records import DEAD
from fastq.remote import decode_exception, encode_exception
from fastq.serialization import Serializers
from fastq.worker.board import Board, open_deadlines
from fastq.worker.deadlines import Deadline, Deadlines
from fastq.worker.limits import KILL_AFTER_S, Limits, TaskTimedOut, check, soft_error
from fastq.worker.link import Link
from fastq.worker.loop import Loop
from fastq.worker.overdue import Overdue
from fastq.worker.reaper import Snapshot
from fastq.worker.timeouts import TIME_LIMIT, Overrun, Timeouts
from tests.unit.test_worker_banner import HELLO
from tests.unit.test_worker_keeper import Node
from tests.unit.worker_fakes import FakeBroker, message

QUEUES = ("default", "other")


def deliver(*ids: str, queue: str = "default", **options: Any) -> list[_core.Delivery]:
    messages = [message(id=id, **options) for id in ids]
    return _core.deliveries(queue, [f"0:1:{i}" for i in range(len(ids))], messages, _core.Registry([]))


@pytest.fixture
def board() -> Iterator[Board]:
    made = Board()
    yield made
    made.close()


# --- in the worker process ---


class FakeAlarm:
    def __init__(self, after_s: float, error: type[BaseException], hard: bool, awaited: bool) -> None:
        self.after_s, self.error, self.hard, self.awaited = after_s, error, hard, awaited
        self.rung = False
        self.cancelled = 0
        #: strikes that come while it is being cancelled
        self.on_its_way: list[BaseException] = []

    def cancel(self) -> bool:
        if self.on_its_way:
            self.rung = True
            raise self.on_its_way.pop()
        self.cancelled += 1
        return self.rung


class FakePool:
    def __init__(self) -> None:
        self.alarms: list[FakeAlarm] = []

    def alarm(self, after_s: float, error: type[BaseException], *, hard: bool, awaited: bool) -> FakeAlarm:
        self.alarms.append(FakeAlarm(after_s, error, hard, awaited))
        return self.alarms[-1]


def limits(**more: Any) -> tuple[FakePool, Limits]:
    pool = FakePool()
    return pool, Limits(pool, **more)  # type: ignore[arg-type]


def test_a_run_has_an_alarm_for_each_of_its_limits() -> None:
    pool, made = limits()
    (d,) = deliver("a")
    made.begin(d, 1.0, 2.0)
    assert [(a.after_s, a.hard, a.awaited) for a in pool.alarms] == [(2.0, True, False), (1.0, False, False)]
    assert isinstance(pool.alarms[0].error(), TaskTimedOut) and isinstance(pool.alarms[1].error(), SoftTimeLimitExceeded)
    assert made.end(d) is None
    assert [a.cancelled for a in pool.alarms] == [1, 1]


def test_a_soft_limit_that_is_not_below_the_hard_one_is_none() -> None:
    pool, made = limits()
    (d,) = deliver("a")
    made.begin(d, 2.0, 2.0)
    assert [a.hard for a in pool.alarms] == [True]


def test_the_end_of_a_run_without_limits_is_what_the_task_made_it() -> None:
    _, made = limits()
    (d,) = deliver("a")
    error = ValueError()
    assert made.end(d) is None and made.end(d, error) is error


@pytest.mark.parametrize("exc", [None, ValueError("of its own"), TaskTimedOut()])
def test_a_task_that_was_over_its_hard_limit_has_failed_whatever_it_made_of_it(exc: BaseException | None) -> None:
    pool, made = limits()
    (d,) = deliver("a")
    made.begin(d, None, 2.5)
    pool.alarms[0].rung = True
    error = made.end(d, exc)
    assert isinstance(error, TimeLimitExceeded) and error.args == (2.5,)


def test_a_task_during_which_no_alarm_could_ring_is_late_by_the_clock() -> None:
    pool, made = limits()
    (d,) = deliver("a")
    made.begin(d, None, 0.001)
    time.sleep(0.002)
    assert isinstance(made.end(d), TimeLimitExceeded) and not pool.alarms[0].rung


def test_a_task_that_was_over_its_soft_limit_ends_as_it_likes() -> None:
    pool, made = limits()
    (d,) = deliver("a", "b")[:1]
    made.begin(d, 1.0, 2.5)
    pool.alarms[1].rung = True
    assert made.end(d) is None


def test_a_strike_that_comes_while_the_run_is_being_ended_changes_its_end_only_if_it_is_hard() -> None:
    for at, error, late in ((1, soft_error(1.0)(), False), (0, TaskTimedOut(), True)):
        pool, made = limits()
        (d,) = deliver("a")
        made.begin(d, 1.0, 2.0)
        pool.alarms[at].on_its_way.append(error)
        assert (made.end(d) is not None) is late
        assert all(a.cancelled for a in pool.alarms)


def test_a_soft_error_crosses_processes_as_its_own_class() -> None:
    error = soft_error(1.5)()
    assert repr(error) == "SoftTimeLimitExceeded(1.5)" and str(error) == "SoftTimeLimitExceeded(1.5,)"
    serializers = Serializers(task="msgpack", result="msgpack", accept=("msgpack",))
    content_type, body, _ = encode_exception(error, serializers)
    revived = decode_exception(content_type, body, None, serializers)
    assert type(revived) is SoftTimeLimitExceeded and revived.args == (1.5,)
    with pytest.raises(pickle.PicklingError):  # nothing pickles it, but if something did it would not be by a wrong class
        pickle.dumps(error)


def test_only_the_first_of_many_runs_calls_the_supervisor(board: Board) -> None:
    region = board.region(0, 4)
    calls: list[int] = []
    pool, made = limits(kill_after_s=1.0, deadlines=open_deadlines(board.fd, 0, 4), call=lambda: calls.append(1))
    batch = deliver("a", "b", "c", "d", "e")
    region.hold(batch, 0, 1)
    supervisor = board.deadlines(0, 4)
    made.begin(batch[0], None, 60.0)
    assert len(calls) == 1
    supervisor.look(time.monotonic_ns())
    made.begin(batch[1], None, 61.0)
    assert len(calls) == 1, "it is due behind what the supervisor looks at next"
    made.begin(batch[2], None, 1.0)
    assert len(calls) == 2
    for d in batch[:3]:
        made.end(d)
    assert supervisor.look(time.monotonic_ns()) == ([], 0), "nothing is entered any more, nobody looks"
    made.begin(batch[3], None, 100.0)
    assert len(calls) == 3
    assert [a.hard for a in pool.alarms] == [True] * 4


def test_a_prefork_process_leaves_hard_limits_to_its_supervisor(board: Board) -> None:
    region = board.region(0, 1)
    pool, made = limits(kill_after_s=KILL_AFTER_S["prefork"], deadlines=open_deadlines(board.fd, 0, 1))
    noted, unnoted = deliver("a", "b")
    region.hold([noted], 0, 1)
    made.begin(noted, None, 60.0)
    assert pool.alarms == []
    made.begin(unnoted, None, 60.0)
    assert [a.hard for a in pool.alarms] == [True], "one that the board has no record of is interrupted as far as the pool can"


def test_more_runs_than_rows_are_left_to_the_pool() -> None:
    table = Deadlines(memoryview(bytearray(Deadlines.size(1))), 1)
    row, unseen = table.put(Deadline(5, 1, 1.0, 0))
    assert (row, unseen) == (0, True)
    assert table.put(Deadline(6, 2, 1.0, 0)) == (-1, False)
    table.drop(row)
    assert table.put(Deadline(6, 2, 1.0, 0))[0] == 0


def test_a_call_of_the_supervisor_arrives_between_other_messages_or_not_at_all() -> None:
    ours, theirs = Link.pair(patience_s=0)
    link = Link(theirs)
    assert link.send({"first": 1}) and link.interject({"limits": True}) and link.send({"last": 2})
    assert ours.receive() == [{"first": 1}, {"limits": True}, {"last": 2}]
    while link.interject({"limits": True}):  # nobody reads
        pass
    assert all(said == {"limits": True} for said in ours.receive())
    ours.close()
    assert not link.interject({"limits": True})
    link.close()


# --- in the supervisor ---


def test_a_deadline_is_seen_in_another_process(board: Board) -> None:
    board.region(1, 2)
    pid = os.fork()
    if pid == 0:
        open_deadlines(board.fd, 1, 2).put(Deadline(123, 7, 2.5, 99))
        os._exit(0)
    os.waitpid(pid, 0)
    assert board.deadlines(1, 2).look(200) == ([Deadline(123, 7, 2.5, 99)], 0)
    assert board.deadlines(1, 2).look(100) == ([], 123)
    board.deadlines(1, 2).clear()
    assert board.deadlines(1, 2).look(200) == ([], 0)


class Watched:
    """A process with one run on its board."""

    def __init__(self, board: Board, due_s: float) -> None:
        self.loop = Loop()
        self.region = board.region(0, 2)
        self.kills = 0
        self.batch = deliver("a", "b")
        self.region.hold(self.batch, 1, 1)
        self.region.claim(self.batch[0].record, 2)
        self.worker = open_deadlines(board.fd, 0, 2)
        due_ns = time.monotonic_ns() + round(due_s * 1e9)
        self.row, _ = self.worker.put(Deadline(due_ns, self.batch[0].record, 0.5, check("a")))
        self.overdue = Overdue(self.loop, self.region, board.deadlines(0, 2), QUEUES, self.kill)
        self.overdue.look()

    def kill(self) -> None:
        self.kills += 1
        self.loop.stop()

    def turn_for(self, wait_s: float) -> None:
        self.loop.after(wait_s, self.loop.stop)
        self.loop.run()


def test_a_process_is_killed_when_a_run_is_overdue_and_not_before(board: Board) -> None:
    began_s = time.monotonic()
    watched = Watched(board, 0.2)
    assert watched.kills == 0
    watched.turn_for(20)
    assert watched.kills == 1 and time.monotonic() - began_s >= 0.2
    assert watched.overdue.overruns == [Overrun("other", "0:1:0", 0.5, check("a"))]
    watched.overdue.look()
    assert watched.kills == 1


def test_a_run_that_has_ended_kills_nobody(board: Board) -> None:
    for how in ("dropped", "finished"):
        watched = Watched(board, 0.05)
        if how == "dropped":
            watched.worker.drop(watched.row)
        else:
            watched.region.finish(watched.batch[0].record)
        watched.turn_for(0.1)
        assert watched.kills == 0 and watched.overdue.overruns == []
        watched.region.clear()
        board.deadlines(0, 2).clear()


# --- what becomes of it ---


def lease(broker: FakeBroker, *ids: str, **options: Any) -> list[str]:
    return broker.lease("default", "p", *(message(id=id, **options) for id in ids))


def made(broker: FakeBroker, **hello: Any) -> Timeouts:
    return Timeouts(replace(HELLO, backend_url="disabled://", **hello), broker, lambda: None)


def test_a_killed_task_is_a_dead_letter_and_its_neighbours_are_left() -> None:
    broker = FakeBroker()
    tag, other = lease(broker, "a", "b")
    made(broker).settle("p", [Overrun("default", tag, 1.5, check("a"))])
    (dead,) = broker.dead
    assert (dead.id, dead.verdict, dead.reason, dead.result) == ("a", DEAD, TIME_LIMIT, None)
    assert dead.detail is not None
    detail = _core.unpackb(dead.detail)
    assert detail["error"].startswith("TimeLimitExceeded: it had run for 1.5 s") and detail["process"] == "p"
    assert list(broker.held["default", "p"]) == [other]


def test_another_task_under_the_same_tag_is_left_alone() -> None:
    """A process that was fenced has two names, and each numbers its calls from 1."""
    broker = FakeBroker()
    (tag,) = lease(broker, "a")
    made(broker).settle("p", [Overrun("default", tag, 1.5, check("b")), Overrun("default", "0:9:9", 1.5, check("a"))])
    assert broker.dead == [] and list(broker.held["default", "p"]) == [tag]


class Shared:
    def shares(self, broker: object) -> bool:
        return True


@pytest.mark.parametrize(
    ("options", "unstored", "stored"), [({}, (), True), ({"ignore_result": True}, (), False), ({}, ("tasks.add",), False)]
)
def test_its_result_is_a_failure_if_results_are_kept(options: dict[str, Any], unstored: tuple[str, ...], stored: bool) -> None:
    broker = FakeBroker()
    (tag,) = lease(broker, "a", **options)
    hello = replace(HELLO, backend_url="redis://", unstored=unstored)
    timeouts = Timeouts(hello, broker, lambda: Shared())  # type: ignore[arg-type, return-value]
    timeouts.settle("p", [Overrun("default", tag, 1.5, check("a"))])
    (dead,) = broker.dead
    assert (dead.result is not None) is stored
    if dead.result is not None:
        state, content_type, body, *_ = _core.decode_result(dead.result)
        error = decode_exception(content_type, body, None, Serializers(task="msgpack", result="msgpack", accept=("msgpack",)))
        assert state == "FAILURE" and type(error) is TimeLimitExceeded and error.args == (1.5,)


def test_what_follows_a_killed_task_is_told() -> None:
    broker = FakeBroker()
    (tag,) = lease(broker, "a", flow={"join": ["join", "0", "default"]})
    made(broker).settle("p", [Overrun("default", tag, 1.5, check("a"))])
    (dead,) = broker.dead
    (count,) = dead.effects.counts
    assert (count.join, count.task_id, count.failed) == ("join", "a", True)


def test_it_is_settled_before_the_rest_goes_back_uncharged() -> None:
    node = Node(backend_url="disabled://").connect()
    broker = node.broker
    tag, _ = lease(broker, "a", "b")
    broker.calls.clear()
    broker.down = True
    node.keeper.bury("p", Snapshot({"default": {tag, "0:1:1"}}), overruns=[Overrun("default", tag, 1.5, check("a"))])
    assert broker.dead == [] and node.keeper.unburied == 1, "it is kept until the broker answers"
    broker.down = False
    node.turn_until(lambda: not node.keeper.unburied)
    assert [d.id for d in broker.dead] == ["a"]
    assert broker.calls.index("settle") < broker.calls.index("release")
    assert [(_core.peek(m).id, _core.peek(m).deliveries) for m in broker.ready["default"]] == [("b", 0)]


# --- on a real pool ---


def test_limits_on_a_thread_end_its_task_and_nothing_else() -> None:
    pool = make_pool("threads", 1)
    made = Limits(pool)
    ends: list[tuple[str, str]] = []
    over = threading.Event()

    class Run:
        def run(self, slot: int, batch: Any) -> None:
            for d in batch:
                ended: BaseException | None = None
                made.begin(d, 0.05 if d.id == "soft" else None, 0.05 if d.id == "hard" else 20.0)
                try:
                    end_s = time.monotonic() + 20
                    while d.id != "none" and time.monotonic() < end_s:
                        try:
                            time.sleep(0.001)
                        except Exception:
                            if d.id == "hard":
                                continue
                            raise
                except BaseException as error:
                    ended = error
                ends.append((d.id, repr(made.end(d, ended))))

        async def run_async(self, slot: int, batch: Any) -> None:
            raise NotImplementedError

    def consume() -> None:
        for d in deliver("soft", "hard", "none"):
            pool.submit([d])
            assert pool.stop(20)
        over.set()

    pool.start(Run(), lambda: None)
    pool.main(consume)
    assert over.is_set()
    assert ends == [("soft", "SoftTimeLimitExceeded(0.05)"), ("hard", "TimeLimitExceeded(0.05)"), ("none", "None")]


def test_a_killed_task_whose_flow_is_damaged_ends_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    broker = FakeBroker()
    (tag,) = lease(broker, "a", flow={"join": ["a join without its queue"]})
    made(broker).settle("p", [Overrun("default", tag, 1.5, check("a"))])
    (dead,) = broker.dead
    assert (dead.id, dead.effects) == ("a", None) and "what follows it cannot be read" in caplog.text
