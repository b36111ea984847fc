"""A timetable: each tick is fired once, whoever tries; edits are seen; the lead is one beat's."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from fastq.records import Publication
from fastq.transports.base import Inspector
from fastq.transports.timetable import Edit, Planned, Tick, Timetable
from tests.contract.conftest import DEADLINE_S, Transport, envelope, ids, until, woken

FAR_MS = 4_000_000_000_000


@pytest.fixture
def timetable(transport: Transport) -> Timetable:
    return transport.timetable()


@pytest.fixture
def inspector(transport: Transport) -> Inspector:
    return transport.inspector()


@pytest.fixture
def never() -> Iterator[int]:
    """A descriptor that does not get readable."""
    reading, writing = os.pipe()
    yield reading
    os.close(reading)
    os.close(writing)


def add(timetable: Timetable, name: str = "e", due_ms: int = 1000) -> int:
    (number,) = timetable.edit([Edit(name, b"definition", due_ms)])
    assert number > 0
    return number


def only(timetable: Timetable, name: str = "e") -> Planned:
    (plan,) = timetable.get([name])
    assert plan is not None
    return plan


def tick(plan: Planned, id: str, next_due_ms: int | None = None, queue: str = "q", **how: int) -> Tick:
    following = plan.due_ms + 1000 if next_due_ms is None else next_due_ms
    return Tick(plan.name, plan.edit, plan.due_ms, following, [Publication(queue, envelope(id), **how)])


# --- entries ---


def test_an_entry_is_kept_as_it_was_given(timetable: Timetable) -> None:
    number = add(timetable, "täglich um 4", 1234)
    assert timetable.get(["täglich um 4", "other"]) == [Planned("täglich um 4", b"definition", 1234, False, number), None]
    listing = timetable.entries()
    assert (listing.version, listing.total, [plan.name for plan in listing.plans]) == (number, 1, ["täglich um 4"])


def test_an_edit_leaves_what_it_does_not_name(timetable: Timetable) -> None:
    first = add(timetable)
    assert timetable.fire("me", [tick(only(timetable), "t")]) == [True]
    (second,) = timetable.edit([Edit("e", paused=True)])
    plan = only(timetable)
    assert second > first
    assert (plan.definition, plan.due_ms, plan.paused, plan.runs, plan.last_due_ms) == (b"definition", 2000, True, 1, 1000)
    timetable.edit([Edit("e", b"other", 5000, False)])
    plan = only(timetable)
    assert (plan.definition, plan.due_ms, plan.paused, plan.runs) == (b"other", 5000, False, 1)


def test_an_edit_that_is_based_on_an_older_one_is_refused(timetable: Timetable) -> None:
    first = add(timetable)
    (second,) = timetable.edit([Edit("e", due_ms=2000, seen=first)])
    assert second
    assert timetable.edit([Edit("e", due_ms=3000, seen=first), Edit("e", b"new", 1, seen=0)]) == [0, 0]
    assert only(timetable).due_ms == 2000
    assert timetable.edit([Edit("not there", paused=True), Edit("not there", remove=True)]) == [0, 0]
    (fresh,) = timetable.edit([Edit("fresh", b"d", 1, seen=0)])
    assert fresh


def test_a_removed_entry_is_gone_and_told_to_those_who_look_for_edits(timetable: Timetable) -> None:
    first = add(timetable)
    add(timetable, "other")
    (number,) = timetable.edit([Edit("e", remove=True)])
    listing = timetable.entries(since=first)
    assert ([plan.name for plan in listing.plans], list(listing.removed), listing.total) == (["other"], ["e"], 1)
    assert listing.version == number
    assert timetable.get(["e"]) == [None]
    add(timetable, "e")
    assert only(timetable).runs == 0
    assert sorted(plan.name for plan in timetable.entries(since=first).plans) == ["e", "other"]


def test_many_entries_are_edited_and_read_at_once(timetable: Timetable) -> None:
    numbers = timetable.edit([Edit(f"e{i}", b"d" * 100, i) for i in range(2500)])
    assert all(numbers)
    assert timetable.entries().total == 2500
    assert {plan.name: plan.due_ms for plan in timetable.entries().plans} == {f"e{i}": i for i in range(2500)}
    timetable.edit([Edit(f"e{i}", remove=True) for i in range(2000)])
    listing = timetable.entries(since=numbers[-1])
    assert listing.total == 500
    assert not listing.plans
    assert 0 < len(listing.removed) <= 2000


def test_scopes_know_nothing_of_each_other(transport: Transport, timetable: Timetable) -> None:
    other = transport.timetable("other app")
    add(timetable)
    assert other.entries().total == 0
    assert timetable.lead("a", 60_000).leads
    assert other.lead("b", 60_000).leads


# --- ticks ---


def test_a_tick_is_fired_once(timetable: Timetable, transport: Transport, inspector: Inspector) -> None:
    other = transport.timetable()
    add(timetable)
    plan = only(timetable)
    assert timetable.fire("me", [tick(plan, "mine")]) == [True]
    assert other.fire("you", [tick(plan, "yours")]) == [False]
    assert ids(inspector.peek("q", 10)) == ["mine"]
    after = only(timetable)
    assert (after.due_ms, after.last_due_ms, after.runs, after.edit) == (2000, 1000, 1, plan.edit)
    assert abs(after.last_run_ms - timetable.now_ms()) < DEADLINE_S * 1000


def test_a_repeated_call_publishes_nothing_twice_and_gets_the_same_answer(timetable: Timetable, inspector: Inspector) -> None:
    add(timetable)
    plan = only(timetable)
    ticks = [tick(plan, "1"), tick(plan._replace(due_ms=2000), "2"), tick(plan._replace(due_ms=3000), "3")]
    assert timetable.fire("me", ticks) == [True, True, True]
    assert timetable.fire("me", ticks) == [True, True, True]
    assert timetable.fire("you", ticks) == [False, False, False]
    assert ids(inspector.peek("q", 10)) == ["1", "2", "3"]
    assert only(timetable).runs == 3


def test_of_two_that_fire_at_once_one_does(transport: Transport, timetable: Timetable, inspector: Inspector) -> None:
    add(timetable)
    both = [transport.timetable() for _ in range(2)]
    barrier = threading.Barrier(2)

    def race(number: int) -> int:
        fired = 0
        for at in range(1, 51):
            plan = Planned("e", b"", at * 1000, edit=edit)
            barrier.wait(DEADLINE_S)
            fired += both[number].fire(f"beat {number}", [tick(plan, f"{at}")])[0]
        return fired

    edit = only(timetable).edit
    with ThreadPoolExecutor(2) as pool:
        fired = list(pool.map(race, range(2)))
    assert sum(fired) == 50
    assert ids(inspector.peek("q", 100)) == [str(at) for at in range(1, 51)]


def test_a_changed_paused_or_removed_entry_is_not_fired(timetable: Timetable, inspector: Inspector) -> None:
    add(timetable)
    plan = only(timetable)
    timetable.edit([Edit("e", b"changed")])
    assert timetable.fire("me", [tick(plan, "changed")]) == [False]
    timetable.edit([Edit("e", paused=True)])
    assert timetable.fire("me", [tick(only(timetable), "paused")]) == [False]
    timetable.edit([Edit("e", remove=True)])
    assert timetable.fire("me", [tick(plan, "removed")]) == [False]
    assert inspector.peek("q", 10) == []


def test_a_tick_without_messages_is_passed_over(timetable: Timetable) -> None:
    add(timetable)
    plan = only(timetable)
    assert timetable.fire("me", [Tick("e", plan.edit, 1000, 9000)]) == [True]
    plan = only(timetable)
    assert (plan.due_ms, plan.last_due_ms, plan.runs, plan.last_run_ms) == (9000, 1000, 0, 0)


def test_ticks_go_where_they_belong(timetable: Timetable, inspector: Inspector) -> None:
    for name in ("a", "b", "c"):
        add(timetable, name)
    plans = [only(timetable, name) for name in ("a", "b", "c")]
    several = Tick("c", plans[2].edit, 1000, 2000, [Publication("q", envelope("c1"), 9), Publication("r", envelope("c2"))])
    assert timetable.fire("me", [tick(plans[0], "a", level=5), tick(plans[1], "b", delay_ms=60_000), several]) == [True] * 3
    assert ids(inspector.peek("q", 10)) == ["c1", "a"]
    assert ids(inspector.peek("r", 10)) == ["c2"]
    assert inspector.depth("q")["delayed"] == 1


def test_a_priority_that_does_not_exist_fires_nothing(timetable: Timetable, inspector: Inspector) -> None:
    add(timetable)
    with pytest.raises(Exception, match="10"):
        timetable.fire("me", [tick(only(timetable), "t", level=10)])
    assert only(timetable).runs == 0
    assert inspector.peek("q", 1) == []


def test_a_tick_wakes_an_idle_process(timetable: Timetable, transport: Transport) -> None:
    worker, wake = transport.sleeper("q")
    add(timetable)
    timetable.fire("me", [tick(only(timetable), "t")])
    assert woken(wake)
    assert worker.ids() == ["t"]


def test_a_delayed_tick_wakes_who_has_to_keep_its_time(timetable: Timetable, transport: Transport) -> None:
    worker, wake = transport.sleeper("q")
    add(timetable)
    timetable.fire("me", [tick(only(timetable), "t", delay_ms=60_000)])
    assert woken(wake)
    assert worker.look().next_due_ms > 0


def test_a_thousand_ticks_are_fired_in_one_call(timetable: Timetable, inspector: Inspector) -> None:
    timetable.edit([Edit(f"e{i}", b"d", 1000) for i in range(1500)])
    ticks = [tick(plan, plan.name) for plan in timetable.entries().plans]
    assert timetable.fire("me", ticks) == [True] * 1500
    assert sorted(ids(inspector.peek("q", 2000))) == sorted(f"e{i}" for i in range(1500))


# --- the lead ---


def test_one_beat_leads_until_it_resigns(timetable: Timetable, transport: Transport) -> None:
    other = transport.timetable()
    assert other.leader() == ""
    first = timetable.lead("a", 60_000)
    assert (first.leads, first.taken, first.leader) == (True, True, "a")
    assert other.leader() == "a"
    waiting = other.lead("b", 60_000)
    assert (waiting.leads, waiting.taken, waiting.leader) == (False, False, "a")
    assert 0 < waiting.left_ms <= 60_000
    kept = timetable.lead("a", 60_000)
    assert (kept.leads, kept.taken) == (True, False)
    other.resign("b")
    assert not other.lead("b", 60_000).leads
    timetable.resign("a")
    assert other.lead("b", 60_000).taken


def test_the_lead_passes_on_when_its_lease_ends(timetable: Timetable, transport: Transport) -> None:
    other = transport.timetable()
    assert timetable.lead("a", 100).leads
    taken = until(lambda: (lead := other.lead("b", 60_000)).leads and lead, "the lease to end")
    assert taken.taken
    assert not timetable.lead("a", 60_000).leads


def test_who_leads_sees_the_number_of_the_last_edit(timetable: Timetable) -> None:
    assert timetable.lead("a", 60_000).version == 0
    number = add(timetable)
    assert timetable.lead("a", 60_000).version == number


# --- waiting ---


def test_an_edit_or_a_resignation_ends_a_wait(timetable: Timetable, transport: Transport, never: int) -> None:
    other = transport.timetable()
    other.lead("a", 60_000)
    while timetable.wait(0, never):
        pass
    for what in (lambda: add(other), lambda: other.resign("a")):
        thread = threading.Timer(0.05, what)
        thread.start()
        assert timetable.wait(DEADLINE_S, never)
        thread.join()
        while timetable.wait(0, never):
            pass


def test_a_wait_ends_with_its_time_and_at_an_interrupt(timetable: Timetable) -> None:
    reading, writing = os.pipe()
    while timetable.wait(0, reading):
        pass
    assert not timetable.wait(0.01, reading)
    os.write(writing, b"!")
    assert not timetable.wait(DEADLINE_S, reading)
    os.close(reading)
    os.close(writing)
