"""What the contract suite cannot see of effects on Redis: keys and their TTLs, memory, lost replies, forgotten scripts, budgets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from fastq import _core as core
from fastq.exceptions import ImproperlyConfigured, OperationalError
from fastq.records import RETRY, Count, Drop, Effects, Growth, Joined, Lease, Opening, Publication, Settlement, StoredResult
from fastq.transports import TransportOptions
from fastq.transports.redis import RedisBackend, RedisBroker, RedisInspector
from fastq.transports.redis.publishing import OPEN_TTL_S, PublishCalls
from fastq.transports.redis.purging import STEP
from fastq.transports.redis.scripts import script
from tests.servers import RedisServer
from tests.unit.redis_parts import (
    CONTENT,
    LEASE_MS,
    LossyProxy,
    asked,
    commands_of,
    done,
    every_key,
    ids,
    message,
    publication,
    record,
)

OPTIONS = TransportOptions()
JOIN = "fastq:{default}:join:j"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def client(server: RedisServer) -> Iterator[Any]:
    client = server.client()
    client.flushall()
    client.config_set("maxmemory", 0)
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
def backend(server: RedisServer) -> Iterator[RedisBackend]:
    backend = RedisBackend(server.url, OPTIONS)
    yield backend
    backend.close()


@pytest.fixture
def inspector(server: RedisServer) -> Iterator[RedisInspector]:
    inspector = RedisInspector(server.url, OPTIONS)
    yield inspector
    inspector.close()


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[LossyProxy]:
    proxy = LossyProxy(server.port)
    yield proxy
    proxy.close()


def opening(size: int, join: str = "j") -> Opening:
    return Opening(join, size, publication("body"))


def members(n: int) -> list[Publication]:
    return [publication(str(i)) for i in range(n)]


def counted(settlements: list[Settlement], **what: Any) -> list[Settlement]:
    """Let every settlement count as the member that its task is named after."""
    for settlement in settlements:
        count = Count("default", "j", settlement.id, settlement.id, record(), **what)
        settlement.effects = Effects(counts=[count])
    return settlements


# --- what is left behind ---


def test_a_whole_chord_leaves_no_key(broker: RedisBroker, client: Any) -> None:
    broker.publish("a", 1, members(3), [opening(3)])
    assert client.ttl(JOIN) == -1
    broker.settle("p1", counted(done(broker.fetch(asked(1)))), results=False)
    assert client.ttl(JOIN) == -1
    (body,) = done(broker.fetch(asked(2)))
    body.effects = Effects(drops=[Drop("default", "j")])
    broker.settle("p1", [body], results=False)
    broker.condemn([Lease("default", "p1", "")])
    broker.release("default", "p1", {})
    assert every_key(client.scan_iter()) == ["fastq:{default}:from:a"]


def test_a_count_that_comes_too_late_leaves_no_key(broker: RedisBroker, client: Any) -> None:
    broker.publish("a", 1, members(1))
    (one,) = counted(done(broker.fetch(asked(1))))
    one.effects = one.effects._replace(growths=[Growth("default", "j")], drops=[Drop("default", "j", 5)])
    broker.settle("p1", [one], results=True)
    assert not client.exists(JOIN)


def test_a_join_expires_until_its_members_are_kept(broker: RedisBroker, client: Any) -> None:
    calls = PublishCalls(broker.keys, "a", 1)
    broker._connection.call(list(calls.openings([opening(1_500)])))
    assert 0 < client.ttl(JOIN) <= OPEN_TTL_S
    first, second = calls.messages(members(1_500))
    (seal,) = calls.sealing()
    broker._connection.call([first[0]])
    assert broker._connection.call([seal]) == [-1], "the second part is missing"
    assert 0 < client.ttl(JOIN) <= OPEN_TTL_S
    assert broker._connection.call([second[0], seal])[1] == 0
    assert client.ttl(JOIN) == -1
    assert not client.hexists(JOIN, "unsealed")


def test_a_join_that_closes_early_belongs_to_its_body(broker: RedisBroker, client: Any) -> None:
    calls = PublishCalls(broker.keys, "a", 1)
    broker._connection.call([*calls.openings([opening(2)]), *[command for command, _ in calls.messages(members(1))]])
    broker.settle("p1", counted(done(broker.fetch(asked(1))), failed=True), results=True)
    assert client.ttl(JOIN) == -1
    (body,) = done(broker.fetch(asked(2)))
    body.effects = Effects(drops=[Drop("default", "j", 100)])
    broker.settle("p1", [body], results=True)
    assert broker._connection.call(list(calls.sealing())) == [0]
    assert 0 < client.ttl(JOIN) <= 100, "sealing late does not keep it for ever"


def test_a_rate_bucket_expires_when_it_is_full_again(broker: RedisBroker, client: Any) -> None:
    assert broker.reserve("b", 3, 1_000_000, 1)[0] == 0
    assert 0 < client.pttl("fastq:rate:b") <= 3_000
    assert broker.reserve("b", 0, 1_000_000, 1) == []


# --- repeats ---


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_a_lost_reply_to_publishing_a_chord_is_repeated_without_harm(
    server: RedisServer, proxy: LossyProxy, broker: RedisBroker, backend: RedisBackend, client: Any, lost: int
) -> None:
    far = RedisBroker(proxy.url, OPTIONS)
    for _ in range(lost):
        proxy.lose = 1
        with pytest.raises(OperationalError) as caught:
            far.publish("a", 1, members(5), [opening(5)])
        assert caught.value.task_ids == ("0", "1", "2", "3", "4")
    far.publish("a", 1, members(5), [opening(5)])
    far.close()
    assert client.ttl(JOIN) == -1
    fetched = broker.fetch(asked(1))
    assert ids(fetched) == ["0", "1", "2", "3", "4"]
    broker.settle("p1", counted(done(fetched)), results=True)
    assert ids(broker.fetch(asked(2))) == ["body"]
    assert backend.joined("default", "j") == Joined(5, [record()] * 5)


def test_a_lost_reply_to_members_does_not_open_twice(proxy: LossyProxy, broker: RedisBroker, client: Any) -> None:
    far = RedisBroker(proxy.url, OPTIONS)
    call, calls = far._connection.call, 0

    def lose_the_second(commands: Any) -> Any:
        nonlocal calls
        calls += 1
        proxy.lose = int(calls == 2)
        return call(commands)

    far._connection.call = lose_the_second  # type: ignore[method-assign]
    with pytest.raises(OperationalError):
        far.publish("a", 1, members(2), [opening(2)])
    broker.settle("p1", counted(done(broker.fetch(asked(1)))), results=True)
    (body,) = done(broker.fetch(asked(2)))
    body.effects = Effects(drops=[Drop("default", "j")])
    broker.settle("p1", [body], results=True)
    far.publish("a", 1, members(2), [opening(2)])
    far.close()
    assert not client.exists(JOIN)
    assert ids(broker.fetch(asked(3))) == []


def test_a_lost_reply_to_a_settle_with_effects_is_repeated_without_harm(
    proxy: LossyProxy, broker: RedisBroker, backend: RedisBackend
) -> None:
    far = RedisBroker(proxy.url, OPTIONS)
    broker.publish("a", 1, members(2), [opening(3)])
    settlements = counted(done(broker.fetch(asked(1))))
    settlements[0].effects = settlements[0].effects._replace(publications=[publication("next")], growths=[Growth("default", "j")])
    far.now_ms()
    proxy.lose = 1
    with pytest.raises(OperationalError):
        far.settle("p1", settlements, results=True)
    assert len(far.settle("p1", settlements, results=True).skipped) == 2
    far.close()
    assert ids(broker.fetch(asked(2))) == ["next"]
    assert backend.joined("default", "j") == Joined(4, [record(), record(), None, None])


@pytest.mark.parametrize("known", [(), ("seal",), ("publish",), ("open", "seal")])
def test_forgotten_scripts_do_not_leave_a_join_unsealed(broker: RedisBroker, client: Any, known: tuple[str, ...]) -> None:
    client.script_flush()
    for name in known:
        client.script_load(script(name).text)
    broker.publish("a", 1, members(5_500), [opening(5_500)])
    assert client.ttl(JOIN) == -1
    assert client.llen("fastq:{default}:ready:0") == 5_500


# --- memory, foreign values ---


def test_settling_with_effects_works_out_of_memory(
    broker: RedisBroker, backend: RedisBackend, inspector: RedisInspector, client: Any
) -> None:
    broker.publish("a", 1, [*members(3), publication("plain")], [opening(2)])
    settlements = counted(done(broker.fetch(asked(1))))
    settlements[2].effects = Effects(
        openings=[opening(1, "other")],
        growths=[Growth("default", "other")],
        publications=[publication("next"), publication("later", delay_ms=60_000, level=3)],
        drops=[Drop("default", "none")],
        results=[StoredResult("cannot run", record(state="FAILURE"))],
    )
    settlements[3].effects = None
    client.config_set("maxmemory", 1)
    with pytest.raises(OperationalError, match="out of memory"):
        broker.publish("a", 2, members(1), [opening(1, "refused")])
    assert broker.settle("p1", settlements, results=True).skipped == ()
    assert sorted(ids(broker.fetch(asked(2)))) == ["body", "next"]
    assert backend.joined("default", "j") == Joined(2, [record(), record()])
    assert backend.joined("default", "other") == Joined(2, [None, None])
    assert backend.joined("default", "refused") is None
    assert backend.get(["cannot run"]) == [record(state="FAILURE")]
    assert inspector.depth("default")["delayed"] == 1
    assert broker.reserve("b", 1, 1_000, 1) == [0]


def test_purging_works_out_of_memory(broker: RedisBroker, backend: RedisBackend, inspector: RedisInspector, client: Any) -> None:
    broker.publish("a", 1, [publication("plain"), member(0), *[member(i, delay_ms=60_000) for i in (1, 2)]], [opening(3)])
    client.config_set("maxmemory", 1)
    assert inspector.purge("default") == 4
    assert ids(broker.fetch(asked(1))) == ["body"]
    assert backend.get(["m0", "m2"]) != [None, None]


@pytest.mark.parametrize("key", [JOIN, "fastq:{other}:ready:0", "fastq:{other}:delayed", "fastq:{other}:levels"])
def test_a_foreign_value_stops_a_settlement_before_it_begins(
    broker: RedisBroker, inspector: RedisInspector, client: Any, key: str
) -> None:
    broker.publish("a", 1, members(1))
    client.set(key, "foreign")
    (one,) = counted(done(broker.fetch(asked(1))))
    follow_ups = [Publication("other", message("n"), level, delay) for level, delay in ((0, 0), (4, 0), (0, 5))]
    one.effects = one.effects._replace(publications=follow_ups)
    with pytest.raises(OperationalError, match="foreign value"):
        broker.settle("p1", [one], results=True)
    assert inspector.depth("default")["leased"] == 1
    client.delete(key)
    assert broker.settle("p1", [one], results=True).skipped == ()


def test_what_cannot_be_kept_is_refused_before_anything_is_sent(broker: RedisBroker) -> None:
    broker.publish("a", 1, members(1))
    (one,) = done(broker.fetch(asked(1)))
    for effects in (Effects(publications=[publication("n", level=10)]), Effects(openings=[opening(0)])):
        one.effects = effects
        with pytest.raises((ImproperlyConfigured, ValueError)):
            broker.settle("p1", [one], results=True)
    with pytest.raises(ValueError, match="0 members"):
        broker.publish("a", 2, members(1), [opening(0)])
    one.effects = None
    assert broker.settle("p1", [one], results=True).skipped == ()


# --- budgets ---


def test_a_thousand_counts_of_one_join_are_a_handful_of_commands(broker: RedisBroker, client: Any) -> None:
    n = 2_000
    new = core.new_ids(broker.now_ms(), n)
    broker.publish("a", 1, [publication(i) for i in new], [opening(n)])
    for call, at_most in ((1, 40), (2, 45)):
        settlements = done(broker.fetch(asked(call, n=1_000)))
        assert len(settlements) == 1_000
        counted(settlements)
        client.config_resetstat()
        broker.settle("p1", settlements, results=True)
        assert commands_of(client) <= at_most
    assert ids(broker.fetch(asked(3))) == ["body"]


def test_settlements_without_effects_run_no_further_command(broker: RedisBroker, client: Any) -> None:
    new = core.new_ids(broker.now_ms(), 1_000)
    broker.publish("a", 1, [publication(i) for i in new])
    settlements = done(broker.fetch(asked(1, n=1_000)))
    broker.settle("p1", settlements[:1], results=True)
    client.config_resetstat()
    broker.settle("p1", settlements[1:], results=True)
    # EVALSHA; HLEN, HMGET, HDEL, 2 HSET, and a TTL that may be looked at and raised
    assert commands_of(client) <= 9


def test_a_retry_beside_follow_ups_wakes_nobody_twice(broker: RedisBroker, client: Any) -> None:
    broker.publish("a", 1, members(1))
    (one,) = done(broker.fetch(asked(1)))
    sleepers = [broker.wake(f"s{i}") for i in range(5)]
    broker.renew(["default"], [f"s{i}" for i in range(5)], LEASE_MS)
    for i, wake in enumerate(sleepers):
        wake.open()
        assert ids(broker.fetch(asked(1, process=f"s{i}"))) == []
    again = Settlement("default", one.tag, one.id, RETRY, message=message("0"), effects=Effects(publications=[publication("n")]))
    broker.settle("p1", [again], results=True)
    awake = 0
    for wake in sleepers:
        wake.check()
        awake += wake.drain()
        wake.close()
    assert awake == 2


@pytest.mark.parametrize(("follow_ups", "woken"), [(1, 0), (2, 1)])
def test_a_follow_up_that_its_own_process_takes_wakes_nobody(broker: RedisBroker, follow_ups: int, woken: int) -> None:
    broker.publish("a", 1, members(1))
    (one,) = done(broker.fetch(asked(1)))
    broker.renew(["default"], ["sleeper"], LEASE_MS)
    wake = broker.wake("sleeper")
    wake.open()
    assert ids(broker.fetch(asked(1, process="sleeper"))) == []
    one.effects = Effects(publications=[publication(f"next {i}") for i in range(follow_ups)])
    settled = broker.settle("p1", [one], results=True, fetch=asked(2))
    assert settled.fetched is not None
    assert ids(settled.fetched) == ["next 0"]
    wake.check()
    assert wake.drain() is bool(woken)
    wake.close()


# --- purging ---


def member(i: int, body: bytes = b"", **times: int) -> Publication:
    flow = {"flow": {"join": ["j", str(i), "default"]}}
    written = core.encode(f"m{i}", "tests.task", CONTENT, body or core.encode_call((), {}), 1, None, 0, None, flow)
    return Publication("default", written, **times)


def test_a_purge_that_cannot_go_on_puts_back_what_it_took(
    broker: RedisBroker, inspector: RedisInspector, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.publish("a", 1, [member(i) for i in range(3)])

    def refuse(*_: Any, **__: Any) -> Any:
        raise OperationalError("the line is dead")

    with monkeypatch.context() as broken:
        broken.setattr(inspector._broker, "settle", refuse)
        with pytest.raises(OperationalError, match="the line is dead"):
            inspector.purge("default")
    assert ids(broker.fetch(asked(1))) == ["m0", "m1", "m2"]
    assert client.zrange("fastq:{default}:leases", 0, -1) == [b"p1"]


def test_what_a_dead_purge_took_is_released_by_any_node(
    broker: RedisBroker, inspector: RedisInspector, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.publish("a", 1, [member(i) for i in range(3)])

    def die(*_: Any, **__: Any) -> Any:
        raise OperationalError("gone")

    for name in ("settle", "condemn"):
        monkeypatch.setattr(inspector._broker, name, die)
    with pytest.raises(OperationalError, match="gone"):
        inspector.purge("default")
    assert ids(broker.fetch(asked(1))) == []
    (lease,) = [lease for lease in broker.renew(["default"], [], 0) if lease.process.startswith("purge.")]
    assert broker.condemn([lease]) == [Lease("default", lease.process, "0")]
    assert broker.release("default", lease.process, {}) == 3
    assert ids(broker.fetch(asked(2))) == ["m0", "m1", "m2"]


def test_a_purge_taken_for_dead_stops(broker: RedisBroker, inspector: RedisInspector, monkeypatch: pytest.MonkeyPatch) -> None:
    broker.publish("a", 1, [member(i) for i in range(2 * STEP)])
    settle = inspector._broker.settle

    def condemned(process: str, *arguments: Any, **options: Any) -> Any:
        broker.condemn([Lease("default", process, "")])
        return settle(process, *arguments, **options)

    monkeypatch.setattr(inspector._broker, "settle", condemned)
    with pytest.raises(OperationalError, match="purge again"):
        inspector.purge("default")
    monkeypatch.undo()
    assert inspector.purge("default") == STEP


def test_large_messages_are_purged_in_small_steps(broker: RedisBroker, inspector: RedisInspector, client: Any) -> None:
    n = 30
    broker.publish("a", 1, [member(i, b"x" * 300_000) if i % 2 else Publication("default", bytes(300_000)) for i in range(n)])
    client.config_resetstat()
    assert inspector.purge("default") == n
    steps = client.info("commandstats")["cmdstat_ltrim"]["calls"]
    assert steps == n // 10
    assert inspector.depth("default") == {"ready": 0, "delayed": 0, "leased": 0, "dead": 0}
    assert not client.exists("fastq:{default}:levels")


def test_a_follow_up_is_not_left_lying_when_the_server_has_forgotten_the_scripts(broker: RedisBroker, client: Any) -> None:
    """The settlement is then sent again behind the fetch of its call, which expected to find the follow-up."""
    broker.publish("a", 1, [publication("first")])
    (held,) = done(broker.fetch(asked(1)))
    held.effects = Effects(publications=[publication("next")])
    client.script_flush()
    broker.fetch(asked(2))
    settled = broker.settle("p1", [held], results=True, fetch=asked(3))
    assert settled.fetched is not None
    if not ids(settled.fetched):
        assert 0 < settled.fetched.next_due_ms <= settled.fetched.now_ms, "the process must not sleep"
        assert ids(broker.fetch(asked(4))) == ["next"]
