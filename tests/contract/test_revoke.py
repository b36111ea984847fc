"""What revoking promises: every fetch says that something was revoked, and what waits is ended where it waits."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from fastq import _core, flow
from fastq.records import RETRY, Opening, Publication
from fastq.transports import Broker
from fastq.transports.base import REVOKED_MAX
from tests.contract.conftest import DEADLINE_S, Transport, Worker, envelope, publication, record, until

Publish = Callable[..., None]

BODY = b"\x92\x90\x80"
EMPTY = {"ready": 0, "delayed": 0, "leased": 0, "dead": 0}


def message(id: str, inbox: str | None = None, **what: Any) -> bytes:
    """Return a message with a flow."""
    return _core.encode(id, "task", "application/x-msgpack", BODY, 0, None, 0, inbox, {"flow": what} if what else None)


def leaf(id: str, queue: str = "q", *, waited: bool = False) -> bytes:
    return flow.leaf(id, "task", queue, 0, "application/x-msgpack", BODY, waited=waited)


def state(stored: bytes | None) -> str | None:
    return None if stored is None else _core.decode_result(stored)[0]


# --- the record ---


def test_every_fetch_tells_the_number_of_the_last_revocation(broker: Broker, worker: Worker, publish: Publish) -> None:
    assert worker.look().revocations == 0
    assert broker.revoked() == (0, [])
    first = broker.revoke(["a", "b"], 60)
    assert first > 0
    assert worker.look().revocations == first
    second = broker.revoke(["c"], 60)
    assert second > first
    publish("d")
    fetched = worker.look()
    assert [len(leased.tags) for leased in fetched.leased] == [1]
    assert fetched.revocations == second
    assert worker.look(number=worker.number).revocations == second
    assert worker.look(0).revocations == second


def test_a_settle_that_fetches_tells_it_too(broker: Broker, worker: Worker, publish: Publish) -> None:
    publish("a")
    (held,) = worker.fetch()
    number = broker.revoke(["x"], 60)
    settled = worker.settle(held.settled(), fetch=worker.ask())
    assert settled.fetched is not None and settled.fetched.revocations == number


def test_what_was_revoked_is_told_from_any_number_on(broker: Broker, transport: Transport) -> None:
    first = broker.revoke(["a", "b"], 60)
    second = broker.revoke(["c"], 60)
    other = transport.broker()
    number, ids = other.revoked()
    assert (number, sorted(ids)) == (second, ["a", "b", "c"])
    assert other.revoked(first) == (second, ["c"])
    assert other.revoked(second) == (second, [])
    third = broker.revoke(["a"], 60)
    assert other.revoked(second) == (third, ["a"])


def test_revoking_nothing_changes_nothing(broker: Broker, worker: Worker) -> None:
    assert broker.revoke([], 60) == 0
    assert broker.revoked() == (0, [])


def test_several_queues_tell_one_number(broker: Broker, transport: Transport) -> None:
    number = broker.revoke(["a"], 60)
    worker = transport.worker("q", "r")
    assert worker.look().revocations == number
    assert worker.look(0).revocations == number


def test_a_revocation_is_forgotten_after_its_time(broker: Broker, transport: Transport, worker: Worker) -> None:
    broker.revoke(["a"], 1)

    def forgotten() -> bool:
        broker.renew(["q"], [worker.process], 15_000)
        return worker.look().revocations == 0

    until(forgotten, "the end of a revocation")
    assert broker.revoked() == (0, [])


def test_the_oldest_are_forgotten_first(broker: Broker, worker: Worker) -> None:
    numbers = itertools.count()
    broker.revoke([f"id {next(numbers)}" for _ in range(10)], 60)
    last = broker.revoke([f"id {next(numbers)}" for _ in range(REVOKED_MAX)], 60)
    number, ids = broker.revoked()
    assert number == last
    assert len(ids) == REVOKED_MAX
    assert not {f"id {i}" for i in range(10)} & set(ids)
    assert worker.look().revocations == last


# --- the sweep ---


@pytest.mark.parametrize("times", [{}, {"delay_ms": 60_000}, {"level": 6}])
def test_what_waits_is_ended_and_the_rest_stays_in_its_order(
    publish: Publish, transport: Transport, times: dict[str, Any]
) -> None:
    publish(*[f"t{i}" for i in range(10)], **times)
    inspector, backend = transport.inspector(), transport.backend()
    swept = inspector.revoke_waiting("q", ["t0", "t4", "t5", "t9", "nothing"])
    assert swept.ended == {"t0", "t4", "t5", "t9"}
    assert not swept.leased and not swept.results
    left = ["t1", "t2", "t3", "t6", "t7", "t8"]
    depth = inspector.depth("q")
    assert (depth["ready"] + depth["delayed"], depth["leased"], depth["dead"]) == (6, 0, 0)
    assert [state(stored) for stored in backend.get(["t0", "t4", "t5", "t9", "t1", "nothing"])] == ["REVOKED"] * 4 + [None] * 2
    if not times.get("delay_ms"):
        assert transport.worker().ids() == left


def test_a_message_put_back_with_a_mark_is_found(broker: Broker, transport: Transport) -> None:
    broker.publish("p", 1, [Publication("q", envelope("a", charged=1)), publication("b")])
    assert transport.inspector().revoke_waiting("q", ["a"]).ended == {"a"}
    assert transport.worker().ids() == ["b"]


def test_what_is_no_message_is_left_alone(broker: Broker, transport: Transport) -> None:
    odd = [b"", b"\xc1", b"\xc1\x01", b"\x99\xd9", b"\x93no envelope", b"\x9a\xd9\xff"]
    broker.publish("p", 1, [Publication("q", one) for one in odd])
    assert transport.inspector().revoke_waiting("q", ["a", "no envelope"]).ended == frozenset()
    assert transport.inspector().depth("q")["ready"] == len(odd)


def test_a_message_that_a_worker_has_is_named_and_left_alone(publish: Publish, worker: Worker, transport: Transport) -> None:
    publish("a", "b")
    (held,) = worker.fetch(1)
    swept = transport.inspector().revoke_waiting("q", ["a", "b"])
    assert swept.ended == {"b"} and swept.leased == {"a"}
    assert transport.backend().get(["a"]) == [None]
    assert worker.settle(held.settled(result=record())).skipped == ()
    assert state(transport.backend().get(["a"])[0]) == "SUCCESS"


def test_a_retry_that_waits_is_ended(publish: Publish, worker: Worker, transport: Transport) -> None:
    publish("a")
    (held,) = worker.fetch()
    worker.settle(held.settled(RETRY, message=envelope("a"), delay_ms=60_000, result=record("RETRY")))
    assert transport.inspector().revoke_waiting("q", ["a"]).ended == {"a"}
    assert state(transport.backend().get(["a"])[0]) == "REVOKED"


def test_a_queue_that_nobody_has_used_holds_nothing(transport: Transport) -> None:
    swept = transport.inspector().revoke_waiting("unknown", ["a"])
    assert (swept.ended, swept.leased) == (frozenset(), frozenset())


@pytest.mark.parametrize("times", [{}, {"delay_ms": 60_000}])
def test_a_revoked_member_fails_its_join(broker: Broker, transport: Transport, times: dict[str, Any]) -> None:
    members = [Publication("q", message(f"m{i}", join=["j", str(i), "bodies"]), **times) for i in range(3)]
    broker.publish("p", 1, members, [Opening("j", 3, publication("body", "bodies"))])
    assert transport.inspector().revoke_waiting("q", ["m1"]).ended == {"m1"}
    assert transport.worker("bodies").ids() == ["body"]
    joined = transport.backend().joined("bodies", "j")
    assert joined is not None and joined.failed is not None
    assert (joined.failed[0], state(joined.failed[1])) == ("m1", "REVOKED")
    depth = transport.inspector().depth("q")
    assert depth["ready"] + depth["delayed"] == 2


def test_what_comes_after_a_revoked_task_is_revoked_and_told(broker: Broker, transport: Transport) -> None:
    backend = transport.backend()
    inbox = transport.inbox(backend, "inbox")
    chained = message("first", "inbox", chain=[leaf("last", waited=True), leaf("next")])
    broker.publish("p", 1, [Publication("q", chained)])
    assert transport.inspector().revoke_waiting("q", ["first"]).ended == {"first"}
    assert [state(stored) for stored in backend.get(["first", "next", "last"])] == ["REVOKED"] * 3
    told: list[str] = []
    while len(told) < 2:
        told += [id for id, _ in inbox.read(DEADLINE_S)]
    assert sorted(told) == ["first", "last"]


def test_errbacks_are_not_called(broker: Broker, transport: Transport) -> None:
    broker.publish("p", 1, [Publication("q", message("bad", errbacks=[leaf("errback", "other")]))])
    assert transport.inspector().revoke_waiting("q", ["bad"]).ended == {"bad"}
    assert transport.worker("other").ids() == []


def test_results_kept_elsewhere_are_handed_out(broker: Broker, transport: Transport) -> None:
    chained = message("first", "inbox", chain=[leaf("last", waited=True)])
    broker.publish("p", 1, [Publication("q", chained)])
    swept = transport.inspector().revoke_waiting("q", ["first"], results=False)
    assert [(one.id, state(one.record), one.inbox) for one in swept.results] == [
        ("first", "REVOKED", "inbox"),
        ("last", "REVOKED", "inbox"),
    ]
    assert transport.backend().get(["first", "last"]) == [None, None]


def test_a_task_that_ignores_its_result_stores_none(broker: Broker, transport: Transport) -> None:
    ignoring = _core.encode("a", "task", "application/x-msgpack", BODY, 0, None, 0, None, {"ignore_result": True})
    broker.publish("p", 1, [Publication("q", ignoring)])
    assert transport.inspector().revoke_waiting("q", ["a"]).ended == {"a"}
    assert transport.backend().get(["a"]) == [None]


def test_a_sweep_leaves_no_process_behind(broker: Broker, worker: Worker, publish: Publish, transport: Transport) -> None:
    publish("a")
    assert transport.inspector().revoke_waiting("q", ["a"]).ended == {"a"}
    assert {lease.process for lease in broker.renew(["q"], [], 0)} <= {worker.process}
    assert transport.inspector().depth("q") == EMPTY


def test_a_large_queue_is_swept_whole(broker: Broker, transport: Transport) -> None:
    n = 6_000
    plain = [publication(f"t{i}") for i in range(n)]
    later = [publication(f"late {i}", delay_ms=60_000) for i in range(n)]
    broker.publish("p", 1, [*plain, *later])
    inspector = transport.inspector()
    gone = [f"t{i}" for i in range(0, n, 4)] + [f"late {i}" for i in range(1, n, 4)]
    assert inspector.revoke_waiting("q", gone).ended == set(gone)
    depth = inspector.depth("q")
    assert (depth["ready"], depth["delayed"]) == (n - n // 4, n - n // 4)
    assert all(state(stored) == "REVOKED" for stored in transport.backend().get(gone))


def test_a_body_that_its_member_brings_about_is_not_swept_with_it(broker: Broker, transport: Transport) -> None:
    broker.publish("p", 1, [Publication("q", message("m", join=["j", "0", "q"]))], [Opening("j", 1, publication("body"))])
    assert transport.inspector().revoke_waiting("q", ["m"]).ended == {"m"}
    assert transport.worker().ids() == ["body"]
