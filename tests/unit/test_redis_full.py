"""At maxmemory work drains and only publishing is refused: every verdict, result and effect is carried out, on 6.2 and later."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from fastq import _core as core
from fastq.exceptions import OperationalError
from fastq.records import DEAD, DONE, RETRY, RETURN, Count, Drop, Effects, Growth, Opening, Publication, Settlement, StoredResult
from fastq.transports import TransportOptions
from fastq.transports.redis import RedisBackend, RedisBroker, RedisInspector
from tests.servers import RedisServer
from tests.unit.redis_parts import LEASE_MS, asked, ids, message, publication, record
from tests.unit.test_redis_errors import executable, server

__all__ = ["executable", "server"]

OPTIONS = TransportOptions()


@pytest.fixture
def client(server: RedisServer) -> Iterator[Any]:
    with contextlib.closing(server.client()) as client:
        client.flushall()
        yield client
        client.config_set("maxmemory", 0)


@pytest.fixture
def broker(server: RedisServer, client: Any) -> Iterator[RedisBroker]:
    broker = RedisBroker(server.url, OPTIONS)
    broker.renew(["default", "other"], ["p1"], LEASE_MS)
    yield broker
    broker.close()


def test_a_settlement_with_results_and_effects_is_whole_at_maxmemory(server: RedisServer, broker: RedisBroker, client: Any) -> None:
    new = core.new_ids(broker.now_ms(), 4)
    body = Publication("other", message("body"))
    broker.publish("a", 1, [publication(i) for i in new], [Opening("join", 1, body), Opening("ended", 1, body)])
    fetched = broker.fetch(asked(1))
    (leased,) = fetched.leased
    effects = Effects(
        openings=[Opening("late", 2, Publication("default", message("late-body"), level=2))],
        growths=[Growth("default", "late", 1)],
        publications=[
            Publication("other", message("follower"), level=4),
            Publication("default", message("later"), delay_ms=3_600_000),
        ],
        counts=[Count("other", "join", "0", new[0], record())],
        drops=[Drop("other", "ended")],
        results=[StoredResult("revoked-one", record(state="REVOKED"), inbox="me")],
    )
    verdicts = (DONE, RETRY, DEAD, RETURN)
    settlements = [
        Settlement(
            "default",
            tag,
            core.task_id(item),
            verdicts[n],
            result=record(),
            inbox="me",
            message=message(f"again{n}"),
            reason="bad",
            effects=effects if n == 0 else None,
        )
        for n, (tag, item) in enumerate(zip(leased.tags, leased.messages, strict=True))
    ]
    settlements[3].result = None
    backend, inspector = RedisBackend(server.url, OPTIONS), RedisInspector(server.url, OPTIONS)
    inbox = backend.inbox("me")
    inbox.open()
    client.config_set("maxmemory", 1)
    with pytest.raises(OperationalError, match="out of memory"):
        broker.publish("a", 2, [publication("refused")])
    settled = broker.settle("p1", settlements, results=True, fetch=asked(2, n=1, queues=("default", "other")))
    assert settled.skipped == ()
    assert len(ids(settled.fetched)) == 1, "and it goes on to fetch"
    client.config_set("maxmemory", 0)
    told: dict[str, bytes | None] = {}
    while len(told) < 4:
        told |= dict(inbox.read(10.0))
    assert set(told) == {*new[:3], "revoked-one"}
    assert backend.get([*new, "revoked-one"]) == [record()] * 3 + [None, record(state="REVOKED")]
    waiting = {queue: [core.task_id(item) for item in inspector.peek(queue, 10)] for queue in ("default", "other")}
    taken = ids(settled.fetched)
    assert sorted([*waiting["default"], *waiting["other"], *taken]) == sorted(["again1", new[3], "follower", "body"])
    assert [core.task_id(letter.message) for letter in inspector.dead("default")] == ["again2"]
    assert inspector.depth("default")["delayed"] == 1
    assert backend.joined("default", "late") is not None
    assert backend.joined("other", "ended") is None
    joined = backend.joined("other", "join")
    assert joined is not None
    assert joined.records == [record()]
    for part in (inbox, backend, inspector):
        part.close()


def test_a_worker_that_is_alone_can_do_all_it_does_at_maxmemory(broker: RedisBroker, client: Any) -> None:
    """Renew, promote, fetch, reserve and revoke are no publishing. What may be refused says that memory is short, and is whole."""
    broker.publish("a", 1, [publication(f"late{i}", delay_ms=1, level=i % 3) for i in range(20)])
    client.config_set("maxmemory", 1)
    seen: list[str] = []
    number = 0
    while len(seen) < 20:
        number += 1
        broker.renew(["default", "other"], ["p1"], LEASE_MS)
        fetched = broker.fetch(asked(number, n=7))
        seen += ids(fetched)
        broker.settle(
            "p1",
            [Settlement("default", tag, "x", DONE) for leased in fetched.leased for tag in leased.tags],
            results=True,
        )
        assert number < 1000
    assert sorted(seen) == sorted(f"late{i}" for i in range(20))


def test_turns_of_a_rate_limit_are_recalled_at_maxmemory(broker: RedisBroker, client: Any) -> None:
    broker.publish("a", 1, [publication(f"call{i}", level=i % 2) for i in range(4)])
    broker.renew(["default"], ["p1"], LEASE_MS)
    fetched = broker.fetch(asked(1, n=4))
    again = [
        Settlement(
            "default", tag, "x", RETRY, message=core.remark(item, 0, True), delay_ms=3_600_000, detail=b"t", level=int(tag[0])
        )
        for leased in fetched.leased
        for tag, item in zip(leased.tags, leased.messages, strict=True)
    ]
    assert len(again) == 4
    broker.settle("p1", again, results=True)
    client.config_set("maxmemory", 1)
    assert broker.recall("default", "t") == (4, "")
    assert sorted(ids(broker.fetch(asked(2, n=4)))) == [f"call{i}" for i in range(4)]


def test_what_is_parked_comes_back_at_maxmemory(broker: RedisBroker, server: RedisServer, client: Any) -> None:
    new = core.new_ids(broker.now_ms(), 600)  # more than one step
    broker.publish("a", 1, [publication(i) for i in new])
    broker.pause(tasks=["task", "other"])
    client.config_set("maxmemory", 1)
    number = 0
    while leased := broker.fetch(asked(number := number + 1, n=300)).leased:
        parked = [Settlement("default", tag, "", RETURN, reason="task") for tag in leased[0].tags]
        assert not broker.settle("p1", parked, results=False).skipped
    assert client.zcard("fastq:{default}:delayed") == 600
    assert broker.resume(tasks=["task"]).held == {"default"}
    assert broker.unpark() and not broker.unpark()
    assert broker.paused().tasks.keys() == {"other"} and not broker.paused().held
    assert ids(broker.fetch(asked(number + 1, n=1000))) == new
