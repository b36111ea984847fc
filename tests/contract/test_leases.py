"""Leases: liveness, fencing, and what becomes of the deliveries of the dead."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fastq import _core
from fastq.exceptions import Fenced, OperationalError
from fastq.records import Lease, Publication
from fastq.transports import Broker
from tests.contract.conftest import LEASE_MS, Transport, Worker, envelope, ids, until

Publish = Callable[..., None]


def look(broker: Broker, *queues: str, lease_ms: int = 0) -> dict[tuple[str, str], str]:
    """Look at other nodes' leases; ``lease_ms`` 0 returns every lease that was not renewed this very moment."""
    return {(lease.queue, lease.process): lease.value for lease in broker.renew(queues or ("q",), [], lease_ms)}


def old(broker: Broker, process: str, queue: str = "q") -> Lease:
    """Return a lease as another node sees it, as soon as it is old enough to be returned."""
    return Lease(queue, process, until(lambda: look(broker, queue).get((queue, process)), "the lease"))


def test_a_fresh_lease_is_not_returned(worker: Worker, transport: Transport) -> None:
    assert look(transport.broker(), lease_ms=LEASE_MS) == {}


def test_a_lease_not_renewed_for_half_its_time_is_returned(worker: Worker, transport: Transport) -> None:
    other = transport.broker()
    assert old(other, worker.process).value == old(other, worker.process).value
    worker.broker.renew(["q"], [worker.process], LEASE_MS)
    assert look(other, lease_ms=LEASE_MS) == {}


def test_a_renewal_changes_the_value(worker: Worker, transport: Transport) -> None:
    other = transport.broker()
    before = old(other, worker.process)
    began_ms = worker.broker.now_ms()
    until(lambda: worker.broker.now_ms() > began_ms + 1)  # one clock: each broker has an estimate of its own of the server's
    worker.broker.renew(["q"], [worker.process], LEASE_MS)
    until(lambda: look(other).get(("q", worker.process)) not in (None, before.value))


def test_leases_belong_to_their_queue(transport: Transport) -> None:
    worker = transport.worker("one")
    assert look(transport.broker(), "two") == {}
    with pytest.raises(Fenced):
        Worker(worker.broker, worker.process, ("one", "two")).fetch()
    assert Worker(worker.broker, worker.process, ("one",), worker.number + 1).ids() == []


def test_the_condemned_is_fenced(publish: Publish, worker: Worker, transport: Transport) -> None:
    publish("a")
    other = transport.broker()
    lease = old(other, worker.process)
    assert [one.process for one in other.condemn([lease])] == [worker.process]
    with pytest.raises(Fenced):
        worker.fetch()
    assert transport.inspector().depth("q")["ready"] == 1


def test_a_lease_renewed_meanwhile_is_not_condemned(worker: Worker, transport: Transport) -> None:
    other = transport.broker()
    lease = old(other, worker.process)
    until(lambda: other.now_ms() != int(lease.value) if lease.value.isdecimal() else True)
    worker.broker.renew(["q"], [worker.process], LEASE_MS)
    assert other.condemn([lease]) == []
    assert worker.ids() == []


def test_renewing_never_revives_the_condemned(worker: Worker, transport: Transport) -> None:
    other = transport.broker()
    other.condemn([old(other, worker.process)])
    for _ in range(2):
        worker.broker.renew(["q"], [worker.process], LEASE_MS)
        with pytest.raises(Fenced):
            worker.fetch()


def test_renewing_never_revives_the_released(publish: Publish, worker: Worker, transport: Transport) -> None:
    publish("a")
    worker.fetch()
    other = transport.broker()
    other.condemn([old(other, worker.process)])
    other.release("q", worker.process, {})
    # A node that was frozen meanwhile thaws, and renews.
    worker.broker.renew(["q"], [worker.process], LEASE_MS)
    with pytest.raises(Fenced):
        worker.fetch()


def test_a_refused_fetch_says_which_settlements_of_its_call_changed_nothing(
    worker: Worker, publish: Publish, transport: Transport
) -> None:
    publish("a", "b")
    a, b = worker.fetch()
    other = transport.broker()
    other.condemn([old(other, worker.process)])
    worker.settle(a.settled())
    with pytest.raises(Fenced) as caught:
        worker.settle(a.settled(), b.settled(), fetch=worker.ask())
    assert caught.value.skipped == (a.tag,), "condemned, but not yet released: b was still leased"


def test_those_condemned_before_are_returned_again(worker: Worker, transport: Transport) -> None:
    other = transport.broker()
    lease = old(other, worker.process)
    other.condemn([lease])
    assert [one.process for one in other.condemn([lease])] == [worker.process], "a half-done release is resumed"
    third = transport.broker()
    seen = look(third, lease_ms=LEASE_MS)
    assert set(seen) == {("q", worker.process)}, "the condemned are always old"
    assert [one.process for one in third.condemn([Lease("q", worker.process, seen["q", worker.process])])] == [worker.process]


def test_a_node_condemns_its_own_dead_without_a_look(worker: Worker) -> None:
    assert [one.process for one in worker.broker.condemn([Lease("q", worker.process, "")])] == [worker.process]
    with pytest.raises(Fenced):
        worker.fetch()


def test_one_condemnation_says_nothing_of_others(publish: Publish, transport: Transport) -> None:
    publish("a")
    dead, alive = transport.worker(), transport.worker()
    alive.broker.condemn([Lease("q", dead.process, "")])
    assert alive.ids() == ["a"]


def test_condemning_nobody_is_harmless(broker: Broker) -> None:
    assert list(broker.condemn([])) == []
    assert broker.release("q", "node.never", {}) == 0
    assert list(broker.leased("q", "node.never")) == []


def test_what_is_leased_is_listed_oldest_first(publish: Publish, transport: Transport) -> None:
    worker = transport.worker("q", "other")
    publish("a", "b", "c")
    publish("elsewhere", queue="other")
    while worker.fetch(1):
        pass
    listed = transport.broker().leased("q", worker.process)
    assert ids([message for _, message in listed]) == ["a", "b", "c"]
    assert len({tag for tag, _ in listed}) == 3


def test_releasing_puts_everything_back_at_the_head(publish: Publish, worker: Worker, transport: Transport) -> None:
    publish("a", "b", "c")
    publish("high", level=9)
    worker.fetch(1)
    worker.fetch(2)
    worker.fetch(1)
    publish("later", "later too")
    other = transport.broker()
    other.condemn([Lease("q", worker.process, "")])
    assert other.release("q", worker.process, {}) == 4
    assert transport.worker().ids() == ["high", "a", "b", "c", "later", "later too"]


def test_marks_replace_the_messages_that_are_charged(publish: Publish, worker: Worker, transport: Transport) -> None:
    publish("a", "b", "c")
    worker.fetch()
    other = transport.broker()
    other.condemn([Lease("q", worker.process, "")])
    leased = other.leased("q", worker.process)
    tag, message = leased[1]
    assert other.release("q", worker.process, {tag: _core.remark(message, 1), "0:99:9": b"no such tag"}) == 3
    again = transport.worker().fetch()
    assert [(one.id, one.charged) for one in again] == [("a", 0), ("b", 1), ("c", 0)]


def test_what_was_settled_meanwhile_stays_settled(publish: Publish, worker: Worker, transport: Transport) -> None:
    publish("a", "b")
    a, _ = worker.fetch()
    other = transport.broker()
    other.condemn([Lease("q", worker.process, "")])
    marks = {tag: _core.remark(message, 1) for tag, message in other.leased("q", worker.process)}
    assert worker.settle(a.settled()).skipped == ()
    assert other.release("q", worker.process, marks) == 1
    assert transport.worker().ids() == ["b"]


def test_releasing_twice_moves_nothing_twice(publish: Publish, worker: Worker, transport: Transport) -> None:
    publish("a")
    worker.fetch()
    other = transport.broker()
    other.condemn([Lease("q", worker.process, "")])
    assert other.release("q", worker.process, {}) == 1
    assert transport.broker().release("q", worker.process, {}) == 0
    assert transport.worker().ids() == ["a"]


def test_what_a_living_process_holds_is_not_released(publish: Publish, worker: Worker, transport: Transport) -> None:
    publish("a")
    (a,) = worker.fetch()
    with pytest.raises(OperationalError, match=r"(?i)live|alive"):
        transport.broker().release("q", worker.process, {})
    assert worker.settle(a.settled()).skipped == ()
    assert worker.ids() == []


def test_a_released_lease_is_gone(publish: Publish, worker: Worker, transport: Transport) -> None:
    publish("a")
    worker.fetch()
    other = transport.broker()
    other.condemn([Lease("q", worker.process, "")])
    other.release("q", worker.process, {})
    assert look(other) == {}
    assert list(other.condemn([Lease("q", worker.process, "0")])) == []


def test_a_release_may_leave_the_lease(publish: Publish, worker: Worker, transport: Transport) -> None:
    publish("a")
    worker.fetch()
    other = transport.broker()
    other.condemn([Lease("q", worker.process, "")])
    assert other.release("q", worker.process, {}, gone=False) == 1
    assert set(look(other)) == {("q", worker.process)}
    with pytest.raises(Fenced):
        worker.fetch()


def test_release_moves_thousands_in_order(publish: Publish, worker: Worker, transport: Transport) -> None:
    names = [f"{i:04}" for i in range(2_300)]
    publish(*names)
    while worker.fetch(1_000):
        pass
    other = transport.broker()
    other.condemn([Lease("q", worker.process, "")])
    marks = {tag: _core.remark(message, 1) for tag, message in other.leased("q", worker.process)[:5]}
    assert other.release("q", worker.process, marks) == 2_300
    heir, got = transport.worker(), []
    while some := heir.fetch(1_000):
        got += some
    assert [one.id for one in got] == names
    assert [one.charged for one in got[:6]] == [1, 1, 1, 1, 1, 0]


def test_a_new_name_starts_with_its_own_numbers(publish: Publish, worker: Worker, transport: Transport) -> None:
    worker.number = 500
    assert worker.ids() == []
    publish("a")
    assert transport.worker().ids() == ["a"]


def test_redelivery_marks_travel_as_they_are(broker: Broker, worker: Worker) -> None:
    marked = [envelope("a", charged=1), envelope("b", paid=True), envelope("c", charged=1, paid=True)]
    broker.publish("p", 1, [Publication("q", message) for message in marked])
    assert [one.message for one in worker.fetch()] == marked
