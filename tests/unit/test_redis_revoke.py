"""What the contract suite cannot see of revocations on Redis: the key, its TTL, the commands of a fetch, a full server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from fastq.exceptions import OperationalError
from fastq.transports import TransportOptions
from fastq.transports.redis import RedisBroker, RedisInspector
from tests.servers import RedisServer
from tests.unit.redis_parts import LEASE_MS, asked, commands_of, every_key, ids, publication

OPTIONS = TransportOptions()
KEY = "fastq:revoked"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def client(server: RedisServer) -> Iterator[Any]:
    client = server.client()
    client.flushall()
    yield client
    client.config_set("maxmemory", 0)
    client.close()


@pytest.fixture
def broker(server: RedisServer, client: Any) -> Iterator[RedisBroker]:
    broker = RedisBroker(server.url, OPTIONS)
    broker.renew(["default"], ["p1"], LEASE_MS)
    yield broker
    broker.close()


@pytest.fixture
def inspector(server: RedisServer) -> Iterator[RedisInspector]:
    inspector = RedisInspector(server.url, OPTIONS)
    yield inspector
    inspector.close()


def test_all_revocations_are_one_key_that_expires(broker: RedisBroker, client: Any) -> None:
    before = set(every_key(client.keys()))
    first = broker.revoke(["a", "b"], 60)
    assert set(every_key(client.keys())) - before == {KEY}
    assert 0 < client.ttl(KEY) <= 60
    assert {name: int(score) for name, score in client.zrange(KEY, 0, -1, withscores=True)} == {b"a": first, b"b": first}
    client.expire(KEY, 1)
    broker.revoke(["c"], 60)
    assert client.ttl(KEY) > 1


def test_what_has_expired_is_dropped_by_the_next_revocation(broker: RedisBroker, client: Any) -> None:
    client.zadd(KEY, {"old": broker.now_ms() - 61_000, "young": broker.now_ms() - 30_000})
    broker.revoke(["new"], 60)
    assert broker.revoked()[1] == ["young", "new"]


def test_numbers_rise_though_the_clock_is_set_back(broker: RedisBroker, client: Any) -> None:
    ahead = broker.now_ms() + 3_600_000
    client.zadd(KEY, {"a": ahead})
    assert broker.revoke(["b"], 60) == ahead + 1


def test_a_fetch_runs_two_commands_more_where_something_is_revoked_however_many_it_brings(broker: RedisBroker, client: Any) -> None:
    def cost(number: int) -> int:
        broker.publish("a", number, [publication(f"{number} {i}") for i in range(50)])
        client.config_resetstat()
        assert len(ids(broker.fetch(asked(number, n=50)))) == 50
        return commands_of(client)

    cost(1)  # after it the server knows the script
    without = cost(2)
    broker.revoke(["x"], 60)
    assert cost(3) == without + 2


def test_a_full_server_still_takes_revocations_and_sweeps(broker: RedisBroker, inspector: RedisInspector, client: Any) -> None:
    broker.publish("a", 1, [publication("gone"), publication("late", delay_ms=60_000), publication("stays")])
    client.config_set("maxmemory", 1)
    with pytest.raises(OperationalError, match="out of memory"):
        broker.publish("a", 2, [publication("refused")])
    broker.revoke(["gone", "late"], 60)
    assert inspector.revoke_waiting("default", ["gone", "late"]).ended == {"gone", "late"}
    assert ids(broker.fetch(asked(1))) == ["stays"]


def test_a_sweep_that_was_taken_for_dead_says_so_and_loses_nothing(
    broker: RedisBroker, inspector: RedisInspector, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.publish("a", 1, [publication("a"), publication("b")])
    real = inspector._broker.settle

    def settle(process: str, *args: Any, **kwargs: Any) -> Any:
        for lease in broker.renew(["default"], [], 0):
            if lease.process == process:
                broker.condemn([lease])
                broker.release("default", process, {})
        return real(process, *args, **kwargs)

    monkeypatch.setattr(inspector._broker, "settle", settle)
    with pytest.raises(OperationalError, match="revoke again"):
        inspector.revoke_waiting("default", ["a"])
    assert sorted(ids(broker.fetch(asked(1)))) == ["a", "b"]


def test_a_foreign_value_under_the_key_is_named(broker: RedisBroker, client: Any) -> None:
    client.set(KEY, "foreign")
    with pytest.raises(OperationalError, match="foreign value"):
        broker.fetch(asked(1))
    with pytest.raises(OperationalError, match="foreign value"):
        broker.revoke(["a"], 60)
