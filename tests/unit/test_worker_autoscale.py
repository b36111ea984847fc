"""The policy of autoscaling, and what the autoscaler makes of a node."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from click.testing import CliRunner

from fastq.cli.worker import command as worker_command
from fastq.exceptions import ImproperlyConfigured, OperationalError
from fastq.worker.autoscale import LOOK_S, Autoscaler, Bounds, Look, Past, decide, keepalive_s
from fastq.worker.capacity import Capacity, CapacityError
from fastq.worker.hello import Hello, configure, introduce
from fastq.worker.loop import Loop
from fastq.worker.options import WorkerOptions
from tests.unit.test_worker_banner import HELLO, application

BOUNDS = Bounds(8, 2)
KEEP_S = 30.0


def sizes(*looks: Look, bounds: Bounds = BOUNDS) -> list[int]:
    """Return the size after each look; a look takes place with the size that the one before it has decided on."""
    past, size, result = Past(), looks[0].size, []
    for look in looks:
        size, past = decide(bounds, replace(look, size=size), past, KEEP_S)
        result.append(size)
    return result


def busy(now_s: float, ready: int, size: int = 2, processes: int = 1) -> Look:
    return Look(now_s, size, 0, ready, processes)


def idle(now_s: float, slots: int, size: int = 8, processes: int = 1) -> Look:
    return Look(now_s, size, slots, 0, processes)


def test_it_grows_when_work_has_waited_from_one_look_to_the_next_by_as_much_as_waits() -> None:
    assert sizes(busy(0, 3), busy(LOOK_S, 3)) == [2, 5]


def test_it_never_grows_above_the_most() -> None:
    assert sizes(busy(0, 1000), busy(LOOK_S, 1000), busy(2 * LOOK_S, 1000), busy(3 * LOOK_S, 1000)) == [2, 8, 8, 8]


def test_work_that_is_gone_at_the_next_look_has_not_waited() -> None:
    assert sizes(busy(0, 5), busy(LOOK_S, 0), busy(2 * LOOK_S, 5), busy(2.2 * LOOK_S, 5)) == [2, 2, 2, 2]


def test_it_does_not_grow_while_a_slot_is_idle() -> None:
    assert sizes(Look(0, 2, 1, 9), Look(LOOK_S, 2, 1, 9), Look(2 * LOOK_S, 2, 1, 9)) == [2, 2, 2]


def test_slots_of_several_processes_share_what_waits() -> None:
    assert sizes(busy(0, 7, processes=3), busy(LOOK_S, 7, processes=3)) == [2, 5]


def test_it_shrinks_by_what_was_idle_at_all_looks_of_the_keepalive() -> None:
    assert sizes(idle(0, 5), idle(10, 3), idle(29, 6), idle(30, 6)) == [8, 8, 8, 5]


def test_one_busy_moment_starts_the_keepalive_again() -> None:
    assert sizes(idle(0, 5), idle(29, 0), idle(31, 5), idle(60, 5), idle(61, 5)) == [8, 8, 8, 8, 3]


def test_it_never_shrinks_below_the_fewest() -> None:
    assert sizes(idle(0, 8), idle(30, 8), idle(31, 2), idle(70, 2)) == [8, 2, 2, 2]


def test_idle_slots_of_several_processes_are_taken_from_each() -> None:
    assert sizes(idle(0, 7, processes=2), idle(30, 7, processes=2)) == [8, 5]


def test_bounds_that_have_moved_hold_at_once() -> None:
    assert sizes(idle(0, 8, size=9)) == [8]
    assert sizes(busy(0, 0, size=1)) == [2]


# --- the autoscaler ---


class Board:
    def __init__(self) -> None:
        self.running = 0

    def active(self) -> list[int]:
        return [0] * self.running

    def counter(self, which: str) -> int:
        return 0


class Process:
    def __init__(self, *, ready: bool = True, spent: bool = False) -> None:
        self.board = Board()
        self.ready, self.spent = ready, spent


class Node:
    """A node of prefork over nothing."""

    def __init__(self, bounds: Sequence[int] = (4, 1), size: int = 1) -> None:
        self.crew = [Process() for _ in range(size)]
        self.waiting = 0
        self.asked = 0
        self.down = False
        self.paused: set[str] = set()
        hello = replace(HELLO, concurrency=size, processes=size)
        self.capacity = Capacity(hello, order=lambda *a, **k: 0, processes=self.resize, slots=lambda n: None)
        self.scaler = Autoscaler(
            Loop(),
            self.capacity,
            bounds=bounds,
            processes=lambda: self.crew,  # type: ignore[arg-type,return-value]
            queues=lambda: ("default", "mail"),
            reachable=lambda: not self.down,
            inspector=lambda: self,  # type: ignore[arg-type,return-value]
            paused=lambda: self.paused,
        )

    def resize(self, processes: int) -> None:
        del self.crew[processes:]
        self.crew += [Process(ready=False) for _ in range(processes - len(self.crew))]

    def depth(self, queue: str) -> dict[str, Any]:
        if self.down:
            raise OperationalError("down")
        self.asked += 1
        return {"ready": self.waiting if queue == "default" else 0}

    def close(self) -> None:
        pass

    def look(self, times: int = 2) -> None:
        for _ in range(times):
            self.scaler._past = replace(self.scaler._past, waiting_s=0.0) if self.scaler._past.waiting_s else self.scaler._past
            self.scaler._look()

    def work(self) -> None:
        for process in self.crew:
            process.ready, process.board.running = True, 1


def test_the_broker_is_asked_only_when_no_slot_is_idle() -> None:
    node = Node()
    node.waiting = 5
    node.look()
    assert node.asked == 0 and node.capacity.size == 1
    node.work()
    node.look()
    assert node.asked == 4 and node.capacity.size == 4 and len(node.crew) == 4


def test_what_is_in_a_paused_queue_does_not_wait() -> None:
    node = Node()
    node.work()
    node.waiting, node.paused = 5, {"default"}
    node.look(4)
    assert node.capacity.size == 1
    node.paused.clear()
    node.look()
    assert node.capacity.size == 4


def test_processes_that_are_still_being_started_are_idle() -> None:
    node = Node()
    node.work()
    node.waiting = 1
    node.look()
    assert node.capacity.size == 2
    node.look(5)
    assert node.capacity.size == 2, "the second process is going to take what waits"
    node.work()
    node.look()
    assert node.capacity.size == 3


def test_processes_that_end_count_neither_as_busy_nor_as_idle() -> None:
    node = Node(size=2)
    node.work()
    node.crew[1].spent = True
    node.crew.append(Process())
    node.waiting = 1
    node.look()
    assert node.capacity.size == 2
    node.crew[2].board.running = 1
    node.look()
    assert node.capacity.size == 3


def test_nothing_changes_while_the_broker_is_away() -> None:
    node = Node()
    node.work()
    node.waiting = 5
    node.look(1)
    node.down = True
    node.look(5)
    assert node.capacity.size == 1


def test_bounds_are_changed_while_it_runs_and_the_size_follows() -> None:
    node = Node(size=2)
    assert node.scaler.update(10, 3) == Bounds(10, 3) and node.capacity.size == 3
    assert node.scaler.update(2, None) == Bounds(2, 2) and node.capacity.size == 2
    assert node.scaler.update(None, 4) == Bounds(4, 4) and node.capacity.size == 4
    with pytest.raises(CapacityError, match="min=5 is more than max=2"):
        node.scaler.update(2, 5)
    with pytest.raises(CapacityError, match="at least 1"):
        node.scaler.update(2, 0)


def test_a_size_that_was_asked_for_by_hand_stretches_the_bounds() -> None:
    node = Node(bounds=(4, 2), size=2)
    node.scaler.stretch(6)
    assert node.scaler.bounds == Bounds(6, 2)
    node.scaler.stretch(1)
    assert node.scaler.bounds == Bounds(6, 1)


def test_a_node_that_was_not_to_scale_itself_can_be_told_to() -> None:
    node = Node(bounds=(), size=2)
    node.scaler.start()
    assert node.scaler.bounds is None
    assert node.scaler.update(5, 1) == Bounds(5, 1) and node.scaler._timer is not None


def test_the_keepalive_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert keepalive_s() == 30.0
    monkeypatch.setenv("AUTOSCALE_KEEPALIVE", "1.5")
    assert keepalive_s() == 1.5
    for wrong in ("soon", "-1", "inf"):
        monkeypatch.setenv("AUTOSCALE_KEEPALIVE", wrong)
        with pytest.raises(ImproperlyConfigured, match=r"AUTOSCALE_KEEPALIVE='.*expected seconds"):
            keepalive_s()


# --- the command line ---


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--autoscale", "3,10"], "MIN (10) is more than MAX (3). The larger number comes first: 10,3."),
        (["--autoscale", "many"], "'many' is not MAX,MIN"),
        (["--autoscale", "1,2,3"], "'1,2,3' is not MAX,MIN"),
        (["--autoscale", "4,0"], "MIN is 0: a worker runs one task at least"),
        (["--autoscale", "4", "-P", "solo"], "--autoscale and the solo pool exclude each other"),
    ],
)
def test_bounds_that_make_no_sense_are_refused(arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(worker_command, arguments)
    assert done.exit_code == 2 and said in " ".join(done.output.split()), done.output


def test_min_left_out_is_one() -> None:
    bounds = next(option.type for option in worker_command.params if option.name == "autoscale")
    assert bounds.convert("4", None, None) == (4, 1) and bounds.convert("4,4", None, None) == (4, 4)


def test_autoscale_takes_the_place_of_concurrency_and_solo_by_a_setting_is_refused_too() -> None:
    app = application(worker_pool="prefork")
    hello = introduce(app, configure(app, WorkerOptions(autoscale=(8, 3), concurrency=5)))
    assert (hello.concurrency, hello.processes, hello.autoscale) == (3, 3, (8, 3))
    assert Hello.from_message(json.loads(json.dumps(hello.to_message()))) == hello
    options = WorkerOptions(pool="threads", autoscale=(90, 3), processes=2)
    assert WorkerOptions.from_json(options.to_json()) == options
    threads = introduce(app, configure(app, options))
    assert (threads.processes, threads.slots, threads.room) == (2, 3, 90)
    with pytest.raises(ImproperlyConfigured, match="--autoscale with the solo pool"):
        configure(application(worker_pool="solo"), WorkerOptions(autoscale=(8, 3)))


# --- sizes ---


def capacity(**hello: Any) -> tuple[Capacity, list[Any]]:
    told: list[Any] = []

    def order(order: Any, *, standing: str = "", only: int | None = None) -> int:
        told.append((order, standing))
        return 1

    return Capacity(replace(HELLO, **hello), order=order, processes=told.append, slots=told.append), told


def test_prefork_is_resized_in_processes_and_other_pools_in_slots() -> None:
    prefork, told = capacity()
    prefork.resize(7)
    assert told == [7] and (prefork.size, prefork.slots) == (7, 1)
    threads, told = capacity(pool="threads", processes=2, slots=4)
    threads.resize(6)
    assert told == [6, ({"do": "slots", "n": 6}, "slots")] and (threads.size, threads.slots) == (6, 6)


def test_what_a_node_cannot_be_is_refused_with_the_reason() -> None:
    with pytest.raises(CapacityError, match="at least 1 is needed"):
        capacity()[0].resize(0)
    with pytest.raises(CapacityError, match="the solo pool runs one task at a time"):
        capacity(pool="solo", processes=1)[0].resize(2)
    threads, _ = capacity(pool="threads", processes=1, slots=4)
    threads.resize(20)
    with pytest.raises(CapacityError, match="21 slots in each process are more than the 20 that this worker has room for"):
        threads.resize(21)
    assert threads.size == 20
    assert capacity(pool="threads", processes=1, slots=4, autoscale=(50, 4))[0].room == 50
    prefork, told = capacity(processes=2)
    with pytest.raises(CapacityError, match="100000 processes are more than the 256 that this worker has room for"):
        prefork.resize(100_000)
    assert told == [] and prefork.size == 2
    assert capacity(processes=100)[0].room == 400
    assert capacity(processes=3, autoscale=(1000, 3))[0].room == 1000
