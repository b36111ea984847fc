"""What effects promise: they happen with their settlement or not at all, and a join publishes its body once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from fastq.records import DEAD, DONE, RETRY, Count, Drop, Effects, Growth, Joined, Lease, Opening, StoredResult
from fastq.transports import Broker
from tests.contract.conftest import (
    DEADLINE_S,
    LEASE_MS,
    Held,
    Transport,
    Worker,
    asleep,
    envelope,
    publication,
    record,
    until,
    woken,
)

Publish = Callable[..., None]


def opening(join: str, size: int, queue: str = "q", body: str = "body", level: int = 0, **times: int) -> Opening:
    return Opening(join, size, publication(body, queue, level, **times))


def count(join: str, member: int | str, queue: str = "q", state: str = "SUCCESS") -> Count:
    return Count(queue, join, str(member), f"task {member}", result(member, state), state != "SUCCESS")


def result(member: int | str, state: str = "SUCCESS") -> bytes:
    """Return the record of one member, unlike that of any other."""
    return record(state, 1 + int(member) if str(member).isdigit() else 5_000)


def send(broker: Broker, number: int, join: Opening, *, queue: str = "q") -> None:
    """Publish the members of one join, named by their number."""
    broker.publish("chords", number, [publication(str(i), queue) for i in range(join.size)], [join])


def counted(one: Held, join: str, queue: str = "q", state: str = "SUCCESS", **what: Any) -> Any:
    """Settle a member, which is named by its number."""
    return one.settled(effects=Effects(counts=[count(join, one.id, queue, state)]), **what)


# --- bodies ---


def test_the_body_is_published_when_the_last_member_has_counted(broker: Broker, worker: Worker, transport: Transport) -> None:
    send(broker, 1, opening("j", 3))
    members = worker.fetch()
    assert [one.id for one in members] == ["0", "1", "2"]
    backend = transport.backend()
    assert backend.joined("q", "j") == Joined(3, [None, None, None])
    worker.settle(counted(members[1], "j"))
    worker.settle(counted(members[2], "j"))
    assert worker.ids() == []
    assert backend.joined("q", "j") == Joined(3, [None, result(1), result(2)])
    worker.settle(counted(members[0], "j"))
    assert [one.message for one in worker.fetch()] == [envelope("body")]
    assert worker.ids() == []
    assert backend.joined("q", "j") == Joined(3, [result(0), result(1), result(2)])


def test_members_of_one_call_count_together(broker: Broker, worker: Worker, transport: Transport) -> None:
    send(broker, 1, opening("one", 4, body="body of one"))
    send(broker, 2, opening("two", 3, body="body of two"))
    taken = worker.fetch()
    names = ["one"] * 4 + ["two"] * 3
    worker.settle(*(counted(one, name) for one, name in zip(taken, names, strict=True)))
    assert sorted(worker.ids()) == ["body of one", "body of two"]
    assert transport.backend().joined("q", "one") == Joined(4, [result(i) for i in range(4)])


def test_the_body_keeps_its_level_and_its_delay(broker: Broker, publish: Publish, worker: Worker, transport: Transport) -> None:
    send(broker, 1, opening("urgent", 1, body="urgent", level=7))
    send(broker, 2, opening("soon", 1, body="soon", level=3, delay_ms=40))
    send(broker, 3, opening("late", 1, body="late", delay_ms=60_000))
    send(broker, 4, opening("due", 1, body="due", due_ms=broker.now_ms() + 60_000))
    taken = worker.fetch()
    publish("waits", level=5)
    worker.settle(*(counted(one, name) for one, name in zip(taken, ["urgent", "soon", "late", "due"], strict=True)))
    assert worker.ids(2) == ["urgent", "waits"]
    assert until(worker.ids) == ["soon"]
    assert transport.inspector().depth("q")["delayed"] == 2


def test_a_member_that_counts_twice_counts_once(broker: Broker, publish: Publish, worker: Worker, transport: Transport) -> None:
    send(broker, 1, opening("j", 2))
    publish("0", "0")
    first, second, again, too = worker.fetch()
    worker.settle(counted(first, "j"))
    worker.settle(again.settled(effects=Effects(counts=[count("j", 0, state="FAILURE")])))
    assert worker.ids() == []
    assert transport.backend().joined("q", "j") == Joined(2, [result(0), None])
    worker.settle(counted(too, "j"), counted(second, "j"))
    assert worker.ids() == ["body"]


def test_a_member_that_counts_twice_in_one_call_counts_once(
    broker: Broker, publish: Publish, worker: Worker, transport: Transport
) -> None:
    send(broker, 1, opening("j", 2))
    publish("0")
    first, second, again = worker.fetch()
    worker.settle(counted(first, "j"), counted(again, "j"))
    assert worker.ids() == []
    assert transport.backend().joined("q", "j") == Joined(2, [result(0), None])
    worker.settle(counted(second, "j"))
    assert worker.ids() == ["body"]


def test_the_first_failure_publishes_the_body_at_once(broker: Broker, worker: Worker, transport: Transport) -> None:
    send(broker, 1, opening("j", 3))
    zero, one, two = worker.fetch()
    worker.settle(counted(one, "j"))
    worker.settle(counted(two, "j", state="FAILURE"))
    assert worker.ids() == ["body"]
    joined = transport.backend().joined("q", "j")
    assert joined == Joined(3, [None, result(1), result(2, "FAILURE")], ("task 2", result(2, "FAILURE")))
    worker.settle(counted(zero, "j", state="REVOKED"))
    assert worker.ids() == []
    assert transport.backend().joined("q", "j") == joined, "what comes later changes nothing"


def test_two_failures_in_one_call_publish_one_body(broker: Broker, worker: Worker, transport: Transport) -> None:
    send(broker, 1, opening("j", 3))
    worker.settle(*(counted(one, "j", state="FAILURE") for one in worker.fetch()))
    assert worker.ids() == ["body"]
    joined = transport.backend().joined("q", "j")
    assert joined is not None and joined.failed is not None
    assert joined.failed[0] in ("task 0", "task 1", "task 2")


def test_counting_for_a_join_that_is_not_there_leaves_nothing(publish: Publish, worker: Worker, transport: Transport) -> None:
    publish("0", "1")
    zero, one = worker.fetch()
    worker.settle(counted(zero, "never"), one.settled(effects=Effects(growths=[Growth("q", "never")])))
    assert transport.backend().joined("q", "never") is None
    assert worker.ids() == []


def test_a_join_counts_members_of_other_queues(broker: Broker, transport: Transport) -> None:
    there, here = transport.worker("members"), transport.worker("bodies")
    broker.publish("p", 1, [publication("0", "members"), publication("1", "bodies")], [opening("j", 2, "bodies")])
    (zero,) = there.fetch()
    there.settle(counted(zero, "j", "bodies"))
    (one,) = here.fetch()
    here.settle(counted(one, "j", "bodies"))
    assert there.ids() == []
    assert here.ids() == ["body"]
    assert transport.backend().joined("members", "j") is None


@pytest.mark.parametrize("verdict", [DONE, DEAD])
def test_effects_go_with_any_final_verdict(broker: Broker, worker: Worker, verdict: int) -> None:
    send(broker, 1, opening("j", 1))
    (one,) = worker.fetch()
    worker.settle(counted(one, "j", state="FAILURE", verdict=verdict, reason="failed" if verdict == DEAD else ""))
    assert worker.ids() == ["body"]


def test_names_may_be_any_text(broker: Broker, worker: Worker, transport: Transport) -> None:
    odd = ["#", "!", "body", "size", "level", ".0", "ü" * 100, "a b", "{x}", "*", "a:b"]
    for number, name in enumerate(odd):
        broker.publish("p", number, [publication("0")], [opening(name, 2, body=f"body {number}")])
    for one, join in zip(worker.fetch(), odd, strict=True):
        worker.settle(
            one.settled(
                effects=Effects(
                    growths=[Growth("q", join, len(odd))], counts=[count(join, 0), *(count(join, member) for member in odd)]
                )
            )
        )
    backend = transport.backend()
    for join in odd:
        joined = backend.joined("q", join)
        assert joined is not None
        assert joined.size == len(joined.records) == 2 + len(odd)
        assert joined.records[:2] == [result(0), None]
        assert None not in joined.records[2:]
    assert worker.ids() == []


# --- growing and dropping ---


def test_a_grown_join_waits_for_more(broker: Broker, worker: Worker, transport: Transport) -> None:
    send(broker, 1, opening("j", 2))
    zero, one = worker.fetch()
    worker.settle(
        counted(zero, "j"),
        one.settled(effects=Effects(growths=[Growth("q", "j", 1)], publications=[publication("added")], counts=[count("j", 1)])),
    )
    (added,) = worker.fetch()
    assert added.id == "added"
    assert transport.backend().joined("q", "j") == Joined(3, [result(0), result(1), None])
    worker.settle(added.settled(effects=Effects(counts=[count("j", "added")])))
    assert worker.ids() == ["body"]
    assert transport.backend().joined("q", "j") == Joined(3, [result(0), result(1), result("added")])


def test_a_closed_join_does_not_grow(broker: Broker, publish: Publish, worker: Worker, transport: Transport) -> None:
    send(broker, 1, opening("j", 1))
    publish("late")
    zero, late = worker.fetch()
    worker.settle(counted(zero, "j"))
    assert worker.ids() == ["body"]
    worker.settle(late.settled(effects=Effects(growths=[Growth("q", "j", 5)], counts=[count("j", "late")])))
    assert worker.ids() == []
    assert transport.backend().joined("q", "j") == Joined(1, [result(0)])


def test_a_dropped_join_is_gone(broker: Broker, worker: Worker, transport: Transport) -> None:
    send(broker, 1, opening("j", 1))
    worker.settle(counted(worker.fetch()[0], "j"))
    (body,) = worker.fetch()
    worker.settle(body.settled(effects=Effects(drops=[Drop("q", "j"), Drop("q", "never"), Drop("q", "never too", 5)])))
    backend = transport.backend()
    assert backend.joined("q", "j") is None
    assert backend.joined("q", "never") is backend.joined("q", "never too") is None


def test_a_dropped_join_may_be_kept_for_a_while(broker: Broker, worker: Worker, transport: Transport) -> None:
    send(broker, 1, opening("short", 1))
    send(broker, 2, opening("long", 1))
    short, long = worker.fetch()
    worker.settle(counted(short, "short"), counted(long, "long"))
    one, two = worker.fetch()
    worker.settle(one.settled(effects=Effects(drops=[Drop("q", "short", 1), Drop("q", "long", 100)])), two.settled())
    backend = transport.backend()
    assert backend.joined("q", "short") == backend.joined("q", "long") == Joined(1, [result(0)])
    until(lambda: backend.joined("q", "short") is None, "the expiry")
    assert backend.joined("q", "long") == Joined(1, [result(0)])


def test_a_kept_join_can_be_dropped_at_last(broker: Broker, publish: Publish, worker: Worker, transport: Transport) -> None:
    send(broker, 1, opening("j", 1))
    worker.settle(counted(worker.fetch()[0], "j"))
    publish("again")
    body, again = worker.fetch()
    worker.settle(body.settled(effects=Effects(drops=[Drop("q", "j", 100)])))
    worker.settle(again.settled(effects=Effects(drops=[Drop("q", "j")])))
    assert transport.backend().joined("q", "j") is None


# --- opening ---


def test_a_repeated_publish_opens_once(broker: Broker, worker: Worker, transport: Transport) -> None:
    join = opening("j", 2)
    send(broker, 1, join)
    zero, one = worker.fetch()
    worker.settle(counted(zero, "j"))
    send(broker, 1, join)
    assert worker.ids() == []
    assert transport.backend().joined("q", "j") == Joined(2, [result(0), None]), "what has counted stays counted"
    worker.settle(counted(one, "j"))
    assert worker.ids() == ["body"]


@pytest.mark.parametrize("queue", ["q", "elsewhere"])
def test_a_publish_repeated_after_everything_has_ended_opens_nothing(broker: Broker, transport: Transport, queue: str) -> None:
    worker = transport.worker("q", "elsewhere")
    join = opening("j", 2, queue)
    send(broker, 1, join)
    worker.settle(*(counted(one, "j", queue) for one in worker.fetch()))
    (body,) = worker.fetch()
    worker.settle(body.settled(effects=Effects(drops=[Drop(queue, "j")])))
    send(broker, 1, join)
    assert transport.backend().joined(queue, "j") is None
    assert worker.ids() == []


def test_one_publish_opens_many_joins(broker: Broker, worker: Worker, transport: Transport) -> None:
    joins = [opening(f"join {i}", 1, body=f"body {i}") for i in range(1_500)]
    broker.publish("p", 1, [publication(str(i)) for i in range(1_500)], joins)
    broker.publish("p", 1, [publication(str(i)) for i in range(1_500)], joins)
    taken = worker.fetch(1_000) + worker.fetch(1_000)
    assert len(taken) == 1_500
    worker.settle(*(one.settled(effects=Effects(counts=[count(f"join {one.id}", 0)])) for one in taken))
    assert sorted(worker.ids(1_000) + worker.ids(1_000)) == sorted(f"body {i}" for i in range(1_500))


def test_an_opening_needs_no_messages(broker: Broker, publish: Publish, worker: Worker, transport: Transport) -> None:
    broker.publish("p", 1, [], [opening("j", 1)])
    assert transport.backend().joined("q", "j") == Joined(1, [None])
    publish("0")
    worker.settle(counted(worker.fetch()[0], "j"))
    assert worker.ids() == ["body"]


def test_opening_a_join_that_is_there_changes_nothing(
    broker: Broker, publish: Publish, worker: Worker, transport: Transport
) -> None:
    send(broker, 1, opening("j", 2))
    publish("opens")
    zero, one, opens = worker.fetch()
    worker.settle(counted(zero, "j"))
    worker.settle(opens.settled(effects=Effects(openings=[opening("j", 7, body="another")])))
    broker.publish("someone else", 1, [], [opening("j", 7, body="another")])
    assert transport.backend().joined("q", "j") == Joined(2, [result(0), None])
    worker.settle(counted(one, "j"))
    assert worker.ids() == ["body"]


def test_a_settlement_opens_joins_for_its_follow_ups(publish: Publish, worker: Worker, transport: Transport) -> None:
    publish("first")
    (first,) = worker.fetch()
    effects = Effects(openings=[opening("j", 2)], publications=[publication("0"), publication("1")])
    worker.settle(first.settled(effects=effects))
    assert transport.backend().joined("q", "j") == Joined(2, [None, None])
    worker.settle(*(counted(one, "j") for one in worker.fetch()))
    assert worker.ids() == ["body"]


# --- follow-ups ---


def test_follow_ups_are_published_with_their_settlement(publish: Publish, worker: Worker, transport: Transport) -> None:
    publish("first", "waits")
    (first,) = worker.fetch(1)
    here = [publication("low"), publication("high", level=9), publication("late", delay_ms=60_000)]
    follow_ups = [*here, publication("there", "other")]
    worker.settle(first.settled(result=record(), effects=Effects(publications=follow_ups)))
    assert worker.ids() == ["high", "waits", "low"]
    assert transport.worker("other").ids() == ["there"]
    assert transport.inspector().depth("q")["delayed"] == 1
    assert transport.backend().get(["first"]) == [record()]


def test_follow_ups_keep_their_order(publish: Publish, worker: Worker) -> None:
    publish(*(str(i) for i in range(5)))
    taken = worker.fetch()
    worker.settle(*(one.settled(effects=Effects(publications=[publication(f"{one.id}{x}") for x in "ab"])) for one in taken))
    assert worker.ids() == [f"{i}{x}" for i in range(5) for x in "ab"]


def test_delayed_follow_ups_come_when_they_are_due(publish: Publish, worker: Worker, broker: Broker) -> None:
    publish("first")
    (first,) = worker.fetch()
    now_ms = broker.now_ms()
    later = [publication("eta", due_ms=now_ms + 120), publication("countdown", delay_ms=40), publication("past", due_ms=now_ms - 5)]
    worker.settle(first.settled(effects=Effects(publications=later)))
    seen: list[str] = []
    while len(seen) < 3:
        seen += until(worker.ids)
    assert seen == ["past", "countdown", "eta"]
    assert broker.now_ms() >= now_ms + 110


def test_a_repeated_settle_call_publishes_once(publish: Publish, worker: Worker, transport: Transport) -> None:
    publish("first")
    (first,) = worker.fetch()
    settlement = first.settled(
        effects=Effects(
            openings=[opening("j", 1)],
            growths=[Growth("q", "j", 1)],
            publications=[publication("follow-up"), publication("later", delay_ms=60_000)],
        )
    )
    assert worker.settle(settlement).skipped == ()
    assert worker.settle(settlement).skipped == (first.tag,)
    assert worker.ids() == ["follow-up"]
    assert transport.inspector().depth("q")["delayed"] == 1
    assert transport.backend().joined("q", "j") == Joined(2, [None, None])


def test_a_fenced_settlement_has_no_effects(broker: Broker, publish: Publish, worker: Worker, transport: Transport) -> None:
    send(broker, 1, opening("j", 2))
    send(broker, 2, opening("kept", 1))
    publish("lost", "held")
    zero, one, _, lost, _ = worker.fetch()
    broker.condemn([Lease("q", worker.process, "")])
    broker.release("q", worker.process, {})
    other = transport.worker()
    (again,) = other.fetch(1)
    assert again.id == "0"
    backend = transport.backend()
    inbox = transport.inbox(backend, "inbox")
    settled = worker.settle(
        counted(zero, "j", result=record()),
        counted(one, "j", result=record()),
        lost.settled(
            inbox="inbox",
            effects=Effects(
                openings=[opening("none", 1)],
                growths=[Growth("q", "j", 4)],
                publications=[publication("none"), publication("none", level=4), publication("none", delay_ms=1)],
                drops=[Drop("q", "kept")],
                results=[StoredResult("none", record(), "inbox")],
            ),
        ),
    )
    assert sorted(settled.skipped) == sorted([zero.tag, one.tag, lost.tag])
    assert backend.joined("q", "j") == Joined(2, [None, None])
    assert backend.joined("q", "kept") == Joined(1, [None])
    assert backend.joined("q", "none") is None
    assert backend.get(["none", "0"]) == [None, None]
    assert inbox.read(0.05) == []
    assert transport.inspector().depth("q")["delayed"] == 0
    assert other.ids() == ["1", "0", "lost", "held"]


def test_a_skipped_neighbour_takes_no_effects_away(publish: Publish, worker: Worker, transport: Transport, broker: Broker) -> None:
    send(broker, 1, opening("j", 2))
    publish("good", "gone")
    zero, one, good, gone = worker.fetch()
    worker.settle(gone.settled(), one.settled())
    backend = transport.backend()
    inbox = transport.inbox(backend, "inbox")
    settled = worker.settle(
        gone.settled(
            result=record(),
            inbox="inbox",
            effects=Effects(publications=[publication("bad")], results=[StoredResult("bad", record(), "inbox")]),
        ),
        good.settled(
            result=record(),
            inbox="inbox",
            effects=Effects(
                publications=[publication("next"), publication("urgent", level=2)],
                results=[StoredResult(f"{i}", record("FAILURE"), "inbox") for i in ("x", "y")],
            ),
        ),
        counted(zero, "j"),
        counted(one, "j"),
    )
    assert sorted(settled.skipped) == sorted([gone.tag, one.tag])
    assert backend.joined("q", "j") == Joined(2, [result(0), None])
    assert worker.ids() == ["urgent", "next"]
    assert backend.get(["gone", "good", "x", "y", "bad"]) == [None, record(), record("FAILURE"), record("FAILURE"), None]
    assert sorted(id for id, _ in announced(inbox, 3)) == ["good", "x", "y"]


def announced(inbox: Any, n: int) -> list[tuple[str, bytes | None]]:
    got: list[tuple[str, bytes | None]] = []
    while len(got) < n:
        some = inbox.read(DEADLINE_S)
        assert some, f"only {len(got)} of {n} came"
        got += some
    return got


def test_follow_ups_wake_the_idle_of_their_queue(publish: Publish, worker: Worker, transport: Transport) -> None:
    sleepers = [transport.sleeper("other") for _ in range(2)]
    _, stranger = transport.sleeper("third")
    publish("first")
    (first,) = worker.fetch()
    worker.settle(first.settled(effects=Effects(publications=[publication("next", "other")])))
    awake = [sleeper for sleeper, wake in sleepers if not asleep(wake)]
    assert len(awake) == 1
    assert awake[0].ids() == ["next"]
    assert asleep(stranger)


def test_an_earlier_follow_up_wakes_the_timekeeper(publish: Publish, worker: Worker, transport: Transport) -> None:
    publish("much later", queue="other", delay_ms=60_000)
    sleeper, wake = transport.sleeper("other")
    publish("first", "second")
    first, second = worker.fetch()
    worker.settle(first.settled(effects=Effects(publications=[publication("later still", "other", delay_ms=120_000)])))
    assert asleep(wake)
    worker.settle(second.settled(effects=Effects(publications=[publication("soon", "other", delay_ms=30)])))
    assert woken(wake)
    assert until(sleeper.ids) == ["soon"]


def test_a_body_wakes_the_idle_of_its_queue(broker: Broker, worker: Worker, transport: Transport) -> None:
    sleeper, wake = transport.sleeper("bodies")
    broker.publish("p", 1, [publication("0")], [opening("j", 1, "bodies")])
    assert asleep(wake)
    worker.settle(counted(worker.fetch()[0], "j", "bodies"))
    assert woken(wake)
    assert sleeper.ids() == ["body"]


def test_a_settlement_and_its_fetch_are_one_call(broker: Broker, worker: Worker) -> None:
    send(broker, 1, opening("j", 1))
    (one,) = worker.fetch()
    settled = worker.settle(counted(one, "j"), fetch=worker.ask())
    assert settled.fetched is not None
    assert [list(leased.messages) for leased in settled.fetched.leased] == [[envelope("body")]]


# --- results of others ---


def test_results_of_other_tasks_are_stored_and_told(publish: Publish, worker: Worker, transport: Transport) -> None:
    backend = transport.backend()
    inbox, other = transport.inbox(backend, "inbox"), transport.inbox(backend, "other")
    publish("failed")
    (failed,) = worker.fetch()
    failure = record("FAILURE")
    cannot = [StoredResult("next", failure, "inbox"), StoredResult("last", failure, "other"), StoredResult("untold", failure)]
    worker.settle(failed.settled(result=failure, inbox="inbox", effects=Effects(results=cannot)))
    assert backend.get(["failed", "next", "last", "untold"]) == [failure] * 4
    assert sorted(announced(inbox, 2)) == [("failed", failure), ("next", failure)]
    assert announced(other, 1) == [("last", failure)]


def test_results_kept_elsewhere_include_those_of_others(publish: Publish, worker: Worker, transport: Transport) -> None:
    publish("failed")
    (failed,) = worker.fetch()
    effects = Effects(publications=[publication("errback")], results=[StoredResult("next", record("FAILURE"))])
    worker.settle(failed.settled(effects=effects), results=False)
    assert transport.backend().get(["next"]) == [None]
    assert worker.ids() == ["errback"]


# --- size ---


def take_all(worker: Worker, n: int) -> list[Held]:
    taken: list[Held] = []
    while some := worker.fetch(n):
        taken += some
    return taken


def test_five_thousand_members_count_in_batches(broker: Broker, worker: Worker, transport: Transport) -> None:
    n = 5_000
    send(broker, 1, opening("j", n))
    taken = take_all(worker, 1_000)
    assert len(taken) == n
    for start in range(0, n, 1_000):
        batch = taken[start : start + 1_000]
        assert worker.ids() == []
        worker.settle(*(one.settled(effects=Effects(counts=[member(one.id)])) for one in batch))
    assert worker.ids() == ["body"]
    joined = transport.backend().joined("q", "j")
    assert joined is not None
    assert joined.records == [b"record %d" % i for i in range(n)]
    assert joined.failed is None


def member(id: str) -> Count:
    return Count("q", "j", id, id, b"record " + id.encode())


def test_one_settlement_may_publish_thousands(publish: Publish, worker: Worker, transport: Transport) -> None:
    n = 5_000
    publish("before", "first", "after")
    before, first, after = worker.fetch()
    members = [publication(str(i)) for i in range(n)]
    failures = [StoredResult(f"other {i}", record("FAILURE")) for i in range(n)]
    settled = worker.settle(
        before.settled(result=record()),
        first.settled(effects=Effects(openings=[opening("j", n)], publications=members, results=failures)),
        after.settled(result=record()),
    )
    assert settled.skipped == ()
    taken = take_all(worker, 1_000)
    assert [one.id for one in taken] == [str(i) for i in range(n)]
    worker.settle(*(one.settled(effects=Effects(counts=[member(one.id)])) for one in taken))
    assert worker.ids() == ["body"]
    backend = transport.backend()
    assert backend.get(["before", "after", "other 0", f"other {n - 1}"]) == [*[record()] * 2, *[record("FAILURE")] * 2]


def test_large_effects_are_kept_whole(publish: Publish, worker: Worker, transport: Transport) -> None:
    publish(*(str(i) for i in range(6)))
    taken: Sequence[Held] = worker.fetch()
    follow_ups = [publication(f"next {i}")._replace(message=envelope(f"next {i}", size=400_000)) for i in range(6)]
    worker.settle(*(one.settled(effects=Effects(publications=[next])) for one, next in zip(taken, follow_ups, strict=True)))
    assert sorted(one.id for one in take_all(worker, 100)) == [f"next {i}" for i in range(6)]


def test_a_retry_may_have_effects(publish: Publish, worker: Worker, broker: Broker) -> None:
    publish("a")
    (a,) = worker.fetch()
    worker.settle(a.settled(RETRY, message=envelope("again"), effects=Effects(publications=[publication("side")])))
    assert sorted(worker.ids()) == ["again", "side"]
    assert broker.renew(["q"], [worker.process], LEASE_MS) == []
