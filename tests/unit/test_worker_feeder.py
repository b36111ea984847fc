"""How much is held, and which slot runs what: nothing waits here that could run elsewhere."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest

from fastq import _core
from fastq._core import BatchWindow, Delivery, Entry, Registry
from fastq.worker.feeder import MAX_FETCH, Feeder
from fastq.worker.held import Held
from tests.core.runs import new_board
from tests.unit.worker_rig import message

REGISTRY = Registry([Entry("short", print), Entry("long", print)])
_numbers = itertools.count()


class Slots:
    """A pool that runs nothing."""

    def __init__(self, slots: int) -> None:
        self.slots = self.free = slots
        self.batches: list[Sequence[Delivery]] = []

    def submit(self, batch: Sequence[Delivery]) -> None:
        assert self.free > 0
        self.free -= 1
        self.batches.append(batch)


class Fed:
    def __init__(self, slots: int = 1, prefetch: int | None = None, *, measured: bool = True) -> None:
        self.pool = Slots(slots)
        self.window = BatchWindow()
        self.board = new_board(slots, 4096)
        self.held = Held(["q"])
        self.feeder = Feeder(self.pool, self.window, prefetch)  # type: ignore[arg-type]
        entry = REGISTRY.get("short")
        assert entry is not None
        for _ in range(12 if measured else 0):
            self.window.note(entry.index, 10_000)
            self.window.size()

    def add(self, *names: str, recorded: bool = True) -> list[Delivery]:
        tags = [f"0:{next(_numbers)}:0" for _ in names]
        batch = _core.deliveries("q", tags, [message(name) for name in names], REGISTRY)
        if recorded:
            self.board.hold(batch, 0, 1)
        self.held.add("q", tags, batch)
        self.feeder.add(batch)
        return batch

    def feed(self) -> list[Delivery]:
        return self.feeder.feed(self.held)


def test_one_per_free_slot_while_nothing_is_measured() -> None:
    fed = Fed(slots=5, measured=False)
    assert fed.feeder.want(True, 0) == 5
    fed.pool.free = 0
    assert fed.feeder.want(True, 5) == 0


def test_short_tasks_are_fetched_ahead_even_while_all_slots_are_busy() -> None:
    fed = Fed(slots=2)
    assert fed.feeder.want(True, 0) == MAX_FETCH
    fed.pool.free = 0
    assert fed.feeder.want(True, 2) > 2
    assert fed.feeder.want(False, 2) == 0  # the queue is empty: there is nothing to be ahead of
    fed.add("short")
    assert fed.feeder.want(True, 2) == 0  # one fetch ahead, not two


@pytest.mark.parametrize("prefetch", [0, 1, 7])
def test_an_explicit_prefetch_bounds_all_that_is_held(prefetch: int) -> None:
    fed = Fed(slots=3, prefetch=prefetch)
    for held in range(20):
        fed.pool.free = max(0, 3 - held)
        assert fed.feeder.want(True, held) == max(0, 3 + prefetch - held)


def test_short_tasks_are_spread_evenly_and_in_order() -> None:
    fed = Fed(slots=3)
    batch = fed.add(*["short"] * 8)
    assert fed.feed() == []
    assert [len(b) for b in fed.pool.batches] == [3, 3, 2]
    assert [d for b in fed.pool.batches for d in b] == batch
    assert fed.feeder.holding and not fed.feeder.ready


def test_an_unknown_name_has_a_slot_to_itself() -> None:
    fed = Fed(slots=3)
    a, b, c, d = fed.add("short", "short", "long", "short")
    fed.feed()
    assert fed.pool.batches == [[a, b], [c], [d]]


def test_what_would_wait_behind_unknown_names_goes_back_at_once() -> None:
    fed = Fed(slots=2)
    a, b, c, d = fed.add("long", "long", "long", "short")
    assert fed.feed() == [c, d]
    assert fed.pool.batches == [[a], [b]] and not fed.feeder.holding
    assert fed.feeder.want(True, 2) == 0


def test_on_one_slot_an_unknown_name_waits_for_company_to_leave() -> None:
    fed = Fed(slots=1)
    a, b, c = fed.add("long", "short", "short")
    assert fed.feeder.starts_unknown()
    assert fed.feeder.behind_unknown(0) == [b, c]
    fed.feed()
    assert fed.pool.batches == [[a]] and not fed.feeder.starts_unknown()


def test_what_waited_too_long_goes_back_and_no_more_is_fetched_until_a_slot_is_free() -> None:
    fed = Fed(slots=1)
    first = fed.add(*["short"] * 4)
    fed.feed()
    second = fed.add("short", "short")
    fed.feed()
    assert not fed.feeder.due_back()
    fed.feeder.patience_s = -1.0  # that time has passed
    assert fed.feeder.due_back()
    assert fed.feeder.take_back(fed.held) == first + second
    assert not fed.feeder.due_back() and not fed.feeder.holding
    assert fed.feeder.want(True, 1) == 0
    fed.pool.free = 1
    assert fed.feeder.want(True, 1) > 0
    fed.pool.free = 0
    assert fed.feeder.want(True, 1) > 0


def test_what_has_ended_is_not_taken_back() -> None:
    fed = Fed(slots=1)
    a, b, c = fed.add("short", "short", "short")
    fed.feed()
    fed.held.drop([a])
    fed.feeder.patience_s = -1.0
    assert fed.feeder.take_back(fed.held) == [b, c]


def test_a_delivery_without_a_record_is_never_taken_out_of_a_slot() -> None:
    """Nothing could decide whether it runs already: it would run here and elsewhere."""
    fed = Fed(slots=1)
    fed.add("short", "short", recorded=False)
    fed.feed()
    fed.feeder.patience_s = -1.0
    assert fed.feeder.take_back(fed.held) == []
    assert fed.feeder.drop(fed.held) == []
    waiting = fed.add("short", recorded=False)
    assert fed.feeder.drop(fed.held) == waiting and not fed.feeder.ready


def test_drop_offers_all_that_is_held_but_what_is_still_leased() -> None:
    fed = Fed(slots=2)
    a, b, c, d = fed.add("long", "short", "short", "short")
    fed.feed()
    waiting = fed.add("short", "short")
    kept = {("q", x.tag) for x in (b, waiting[1])}
    assert fed.feeder.drop(fed.held, kept) == [a, c, d, waiting[0]]
    assert list(fed.feeder.ready) == [waiting[1]]


def test_finished_batches_and_tasks_are_forgotten() -> None:
    fed = Fed(slots=2)
    for _ in range(50):
        fed.pool.free = 2
        done = fed.add("short", "short", "short", "short")
        fed.feed()
        fed.pool.free = 2
        done += fed.add("long", "long")
        fed.feed()
        fed.held.drop(done)
    fed.pool.free = 2
    fed.add("long")
    fed.feed()
    assert len(fed.feeder._batches) == 0 and len(fed.feeder._alone) <= 5


def test_held_tells_two_uses_of_one_tag_apart() -> None:
    held = Held(["a", "b"])
    one, two, three = (_core.deliveries(queue, ["0:1:0"], [message("short")], REGISTRY)[0] for queue in ("a", "b", "a"))
    held.add("a", ["0:1:0"], [one])
    held.add("b", ["0:1:0"], [two])
    assert len(held) == 2 and list(held) == [one, two] and one in held and two in held and three not in held
    held.add("a", ["0:1:0"], [three])
    assert one not in held and held.get("a", "0:1:0") is three
    held.drop([two])
    assert list(held) == [three] and "0:1:0" not in held.tags("b")
    held.clear()
    assert len(held) == 0


def note(fed: Fed, name: str, ms: float) -> None:
    entry = REGISTRY.get(name)
    assert entry is not None
    for _ in range(40):
        fed.window.note(entry.index, int(ms * 1e6))
        fed.window.size()


def test_many_slots_hold_what_they_set_free_within_ten_milliseconds() -> None:
    fed = Fed(slots=100, measured=False)
    note(fed, "long", 20)
    assert fed.feeder.want(True, 0) == 100, "nothing of a name is known until it has been given to a slot"
    fed.add(*["long"] * 100)
    assert fed.feed() == []
    assert fed.feeder.want(True, 100) == 50  # 100 slots x 10 ms / 20 ms
    fed.add(*["long"] * 50)
    assert fed.feed() == [], "these are expected to start within 10 ms"
    assert fed.feeder.want(True, 150) == 0
    fed.pool.free = 30
    assert fed.feed() == []
    assert fed.feeder.want(True, 150) == 30, "filled up again when less than half is left"


def test_what_is_beyond_that_goes_back() -> None:
    fed = Fed(slots=10, measured=False)
    note(fed, "long", 20)
    batch = fed.add(*["long"] * 18)
    assert fed.feed() == batch[15:]  # 10 in slots, 5 expected to start in time


def test_behind_names_of_unknown_length_nothing_is_held() -> None:
    fed = Fed(slots=10, measured=False)
    batch = fed.add(*["long"] * 12)
    assert fed.feed() == batch[10:]
    assert fed.feeder.want(True, 10) == 0


def test_one_slot_holds_nothing_behind_a_task_that_is_not_short() -> None:
    fed = Fed(slots=1, measured=False)
    note(fed, "long", 6)
    fed.add("long")
    assert fed.feed() == []
    assert fed.feeder.want(True, 1) == 0
