"""What purging promises: a message that others wait for comes to an end of its own, it is not just dropped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fastq import _core, flow
from fastq.records import Count, Effects, Opening, Publication
from fastq.transports import Broker
from tests.contract.conftest import DEADLINE_S, Transport, Worker, publication, record

Publish = Callable[..., None]

BODY = b"\x92\x90\x80"


def message(id: str, inbox: str | None = None, **what: Any) -> bytes:
    """Return a message with a flow."""
    return _core.encode(id, "task", "application/x-msgpack", BODY, 0, None, 0, inbox, {"flow": what})


def member(join: str, i: int, queue: str = "bodies", **times: int) -> Publication:
    return Publication("q", message(f"member {i}", join=[join, str(i), queue]), **times)


def leaf(id: str, queue: str = "q", *, waited: bool = False) -> bytes:
    return flow.leaf(id, "task", queue, 0, "application/x-msgpack", BODY, waited=waited)


def state(stored: bytes | None) -> str | None:
    return None if stored is None else _core.decode_result(stored)[0]


@pytest.mark.parametrize("times", [{}, {"delay_ms": 60_000}, {"level": 6}])
def test_purged_members_fail_their_join(broker: Broker, transport: Transport, times: dict[str, Any]) -> None:
    broker.publish("p", 1, [member("j", i, **times) for i in range(3)], [Opening("j", 3, publication("body", "bodies"))])
    inspector, backend = transport.inspector(), transport.backend()
    assert inspector.purge("q") == 3
    assert inspector.depth("q") == {"ready": 0, "delayed": 0, "leased": 0, "dead": 0}
    assert transport.worker("bodies").ids() == ["body"]
    joined = backend.joined("bodies", "j")
    assert joined is not None and joined.failed is not None
    task_id, failure = joined.failed
    assert task_id in ("member 0", "member 1", "member 2")
    assert state(failure) == "REVOKED"
    assert [state(stored) for stored in backend.get(["member 0", "member 1", "member 2"])] == ["REVOKED"] * 3
    assert _core.decode_result(failure)[2] == b""


def test_what_came_after_a_purged_task_is_revoked_too(broker: Broker, transport: Transport) -> None:
    backend = transport.backend()
    inbox = transport.inbox(backend, "inbox")
    chained = message("first", "inbox", chain=[leaf("last", waited=True), leaf("next")])
    broker.publish("p", 1, [Publication("q", chained)])
    assert transport.inspector().purge("q") == 1
    assert [state(stored) for stored in backend.get(["first", "next", "last"])] == ["REVOKED"] * 3
    told = [id for id, _ in inbox.read(DEADLINE_S)]
    while len(told) < 2:
        told += [id for id, _ in inbox.read(DEADLINE_S)]
    assert sorted(told) == ["first", "last"]


def test_errbacks_do_not_hear_of_a_purged_task(broker: Broker, transport: Transport) -> None:
    """As of a revoked one: nothing has failed."""
    broker.publish("p", 1, [Publication("q", message("bad", errbacks=[leaf("errback", "other")]))])
    assert transport.inspector().purge("q") == 1
    assert transport.worker("other").fetch() == []


def test_plain_messages_between_members_are_dropped(broker: Broker, publish: Publish, transport: Transport) -> None:
    looks_like_one = _core.encode("text", "task", "application/x-msgpack", b"\x92\x91\xa4flow\x80", 0, None, 0, None, None)
    broker.publish("p", 1, [publication("a"), member("j", 0), publication("b")], [Opening("j", 2, publication("body", "bodies"))])
    publish(Publication("q", looks_like_one), Publication("q", b"\x93no envelope \xa4flow\xff"))
    publish("c", delay_ms=60_000)
    publish("d", level=9)
    inspector = transport.inspector()
    assert inspector.purge("q") == 7
    assert inspector.depth("q") == {"ready": 0, "delayed": 0, "leased": 0, "dead": 0}
    assert transport.backend().get(["a", "b", "c", "d", "text"]) == [None] * 5
    assert state(transport.backend().get(["member 0"])[0]) == "REVOKED"


@pytest.mark.parametrize("what", [{"join": [1]}, {"chain": 5}, {"chain": [b"\xc1"]}])
def test_a_flow_that_nobody_can_read_keeps_no_queue_from_being_purged(
    broker: Broker, transport: Transport, what: dict[str, Any]
) -> None:
    broker.publish("p", 1, [Publication("q", message("odd", **what)), Publication("q", message("even"))])
    inspector = transport.inspector()
    assert inspector.purge("q") == 2
    assert inspector.depth("q") == {"ready": 0, "delayed": 0, "leased": 0, "dead": 0}
    assert [state(stored) for stored in transport.backend().get(["odd", "even"])] == ["REVOKED"] * 2


def test_a_purge_leaves_what_runs_and_what_it_brought_about(broker: Broker, worker: Worker, transport: Transport) -> None:
    broker.publish("p", 1, [member("j", i, "q") for i in range(3)], [Opening("j", 3, publication("body", level=9))])
    (running,) = worker.fetch(1)
    inspector = transport.inspector()
    assert inspector.purge("q") == 2
    assert worker.ids() == ["body"]
    count = Count("q", "j", "0", "member 0", record())
    assert worker.settle(running.settled(effects=Effects(counts=[count]))).skipped == ()
    assert worker.ids() == []
    assert inspector.purge("q") == 0


def test_a_purge_leaves_no_process_behind(broker: Broker, worker: Worker, transport: Transport) -> None:
    broker.publish("p", 1, [member("j", 0)], [Opening("j", 1, publication("body", "bodies"))])
    assert transport.inspector().purge("q") == 1
    leases = broker.renew(["q"], [], 0)
    assert {lease.process for lease in leases} <= {worker.process}


def test_a_large_queue_is_purged_whole(broker: Broker, transport: Transport) -> None:
    n = 2_500
    mixed = [member("j", i) if i % 2 else publication(f"plain {i}") for i in range(n)]
    later = [member("j", n + i, delay_ms=60_000) if i % 2 else publication(f"late {i}", delay_ms=60_000) for i in range(n)]
    broker.publish("p", 1, [*mixed, *later], [Opening("j", n, publication("body", "bodies"))])
    inspector = transport.inspector()
    assert inspector.purge("q") == 2 * n
    assert inspector.depth("q") == {"ready": 0, "delayed": 0, "leased": 0, "dead": 0}
    assert transport.worker("bodies").ids() == ["body"]
    revoked = transport.backend().get([f"member {i}" for i in range(1, n, 2)])
    assert all(state(stored) == "REVOKED" for stored in revoked)
