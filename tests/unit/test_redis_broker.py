"""What the contract suite cannot see of the Redis transport: keys, memory, scripts, lost replies, dead connections and servers."""

from __future__ import annotations

import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastq import _core as core
from fastq.exceptions import Fenced, ImproperlyConfigured, OperationalError
from fastq.records import DEAD, DONE, RETRY, RETURN, Fetched, Lease, Publication, Settlement, StoredResult
from fastq.transports import TransportOptions
from fastq.transports.redis import RedisBackend, RedisBroker, RedisInspector
from fastq.transports.redis.channel import Subscription
from fastq.transports.redis.keys import Keys
from fastq.transports.redis.publishing import PublishCalls
from fastq.transports.redis.scripts import names, script
from tests.servers import RedisServer
from tests.unit.redis_parts import LEASE_MS, LossyProxy, asked, commands_of, done, every_key, ids, message, publication, record

OPTIONS = TransportOptions()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def client(server: RedisServer) -> Iterator[object]:
    client = server.client()
    client.flushall()
    client.config_set("maxmemory", 0)
    client.config_resetstat()
    yield client
    client.config_set("maxmemory", 0)
    client.close()


@pytest.fixture
def broker(server: RedisServer, client: object) -> Iterator[RedisBroker]:
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


def one(fetched: Fetched) -> tuple[str, bytes]:
    (leased,) = fetched.leased
    assert len(leased.tags) == 1
    return leased.tags[0], leased.messages[0]


# --- keys ---


def test_every_key_left_behind_has_an_owner_or_a_ttl(broker: RedisBroker, backend: RedisBackend, client) -> None:
    new = core.new_ids(broker.now_ms(), 20)
    publications = [publication(i, level=n % 3) for n, i in enumerate(new)]
    broker.publish("a", 1, [*publications, publication("x"), publication("y", delay_ms=1)])
    number, seen = 0, 0
    while seen < 22:
        number += 1
        fetched = broker.fetch(asked(number))
        seen += len(ids(fetched))
        broker.settle("p1", done(fetched), results=True)
    assert ids(broker.fetch(asked(number + 1))) == []
    queue = [f"fastq:{{default}}:{name}" for name in ("from:a", "idle", "leased:p1", "leases")]
    results = {backend.keys.result(i)[0] for i in [*new, "x", "y"]}
    assert every_key(client.scan_iter()) == sorted([*queue, *results])
    unowned = {key for key in every_key(client.scan_iter()) if client.ttl(key) < 0}
    assert unowned <= {"fastq:{default}:leases", "fastq:{default}:leased:p1", "fastq:{default}:idle"}
    broker.condemn([Lease("default", "p1", "")])
    broker.release("default", "p1", {})
    assert all(client.ttl(key) > 0 for key in client.scan_iter())


def test_results_of_one_time_slot_share_a_hash_whose_ttl_only_rises(broker: RedisBroker, backend: RedisBackend, client) -> None:
    new = core.new_ids(broker.now_ms(), 3)
    (key,) = {backend.keys.result(i)[0] for i in new}
    backend.store([StoredResult(i, record()) for i in new])
    assert client.hlen(key) == 3
    assert OPTIONS.result_expires_s <= client.ttl(key) <= OPTIONS.result_expires_s + 30
    client.expire(key, 500_000)
    backend.store([StoredResult(new[0], record())])
    assert client.ttl(key) > 400_000
    assert backend.get([new[2], "none", new[0]]) == [record(), None, record()]
    backend.forget(new)
    assert not client.exists(key)


def test_ids_that_only_look_like_uuid7_get_a_key_of_their_own() -> None:
    keys = Keys("fastq:")
    assert keys.result("018f4e1c-1234-7abc-8def-0123456789ab") == ("fastq:results:018f4e1c1", True)
    for odd in ("018f4e1c-1234-4abc-8def-0123456789ab", "018f4e1c_1234_7abc_8def_0123456789ab", "x", ""):
        assert keys.result(odd) == (f"fastq:result:{odd}", False)


def test_queue_names_are_read_back_from_their_keys(broker: RedisBroker, inspector: RedisInspector) -> None:
    odd = ["a:b", "with space", "ü", "x{y"]
    broker.publish("a", 1, [Publication(queue, message("1")) for queue in odd])
    assert inspector.queues() == sorted(["default", *odd])


def test_two_prefixes_on_one_database_do_not_meet(server: RedisServer, broker: RedisBroker) -> None:
    other = RedisBroker(server.url, TransportOptions(prefix="other[*]:"))
    look = RedisInspector(server.url, TransportOptions(prefix="other[*]:"))
    other.publish("a", 1, [publication("1")])
    assert ids(broker.fetch(asked(1))) == []
    assert look.queues() == ["default"]
    assert not RedisBackend(server.url, OPTIONS).shares(other)
    other.close()
    look.close()


# --- scripts ---


def test_every_script_has_a_header_and_loads(client) -> None:
    for name in names():
        text = script(name).text.decode()
        assert all(word in text for word in ("-- KEYS", "-- ARGV")), name
        assert "-- include" not in text
        assert client.script_load(script(name).text) == script(name).sha.decode()


def test_flushed_scripts_are_sent_again_and_run_once(broker: RedisBroker, client) -> None:
    broker.publish("a", 1, [publication(str(i)) for i in range(4)])
    client.script_flush()
    broker.publish("a", 2, [publication(str(i)) for i in range(4, 8)])
    client.script_flush()
    fetched = broker.fetch(asked(1, n=5))
    assert ids(fetched) == ["0", "1", "2", "3", "4"]
    client.script_flush()
    settled = broker.settle("p1", done(fetched), results=True, fetch=asked(2))
    assert settled.skipped == ()
    assert ids(settled.fetched) == ["5", "6", "7"]


def test_bulk_publish_over_a_forgotten_script_keeps_order_and_count(broker: RedisBroker, inspector: RedisInspector, client) -> None:
    publications = [publication(str(i)) for i in range(5_500)]
    broker.publish("a", 1, publications)
    broker.publish("a", 1, publications)
    assert inspector.depth("default")["ready"] == 5_500
    client.script_flush()
    broker.publish("a", 2, publications)
    peeked = [core.task_id(item) for item in inspector.peek("default", 20_000)]
    assert peeked == [str(i) for i in range(5_500)] * 2


def test_a_part_is_refused_when_its_predecessor_was_not_kept(broker: RedisBroker, inspector: RedisInspector) -> None:
    parts = list(PublishCalls(broker.keys, "a", 1).messages([publication(str(i)) for i in range(1_500)]))
    assert [len(batch) for _, batch in parts] == [1_000, 500]
    assert broker._connection.call([parts[1][0]]) == [-1]
    assert inspector.depth("default")["ready"] == 0


# --- the budget ---


@pytest.mark.parametrize("batch", [300, 1000])
def test_at_most_sixty_commands_per_thousand_tasks(broker: RedisBroker, client, batch: int) -> None:
    tasks = 3_000
    new = core.new_ids(broker.now_ms(), tasks)
    broker.publish("a", 1, [publication(i) for i in new])
    fetched = broker.fetch(asked(1, n=batch))
    client.config_resetstat()
    number = 1
    while fetched.leased:
        number += 1
        fetched = broker.settle("p1", done(fetched, inbox="someone"), results=True, fetch=asked(number, n=batch)).fetched
    assert commands_of(client) <= 60 * tasks / 1000


# --- bounds ---


def test_one_call_takes_about_a_mebibyte_and_a_larger_message_travels_alone(broker: RedisBroker) -> None:
    big, small = b"x" * (700 << 10), b"y" * 100
    bodies = [small, big, big, b"z" * (3 << 20), small, small]
    broker.publish("a", 1, [Publication("default", message(str(i), body)) for i, body in enumerate(bodies)])
    taken = [ids(broker.fetch(asked(number))) for number in range(1, 6)]
    assert taken == [["0", "1"], ["2"], ["3"], ["4", "5"], []]


def test_small_messages_in_front_do_not_let_large_ones_through_in_one_call(broker: RedisBroker) -> None:
    broker.publish("a", 1, [publication(str(i)) for i in range(3)])
    broker.publish("a", 2, [Publication("default", message(f"big{i}", b"x" * (300 << 10))) for i in range(20)])
    seen: list[str] = []
    for number in range(1, 30):
        fetched = broker.fetch(asked(number, n=1000))
        assert sum(len(item) for leased in fetched.leased for item in leased.messages) < (3 << 19)
        seen += ids(fetched)
    assert seen == [str(i) for i in range(3)] + [f"big{i}" for i in range(20)]


def test_due_messages_are_promoted_a_hundred_at_a_time(broker: RedisBroker, inspector: RedisInspector) -> None:
    broker.publish("a", 1, [publication(str(i), due_ms=1 + i) for i in range(250)])
    assert len(ids(broker.fetch(asked(1, n=1000)))) == 100
    assert inspector.depth("default")["delayed"] == 150
    assert ids(broker.fetch(asked(2, n=1000))) + ids(broker.fetch(asked(3, n=1000))) == [str(i) for i in range(100, 250)]


def test_dead_letters_are_capped_and_expire(server: RedisServer, broker: RedisBroker, inspector: RedisInspector, client) -> None:
    small = RedisBroker(server.url, TransportOptions(dead_letter_max=5, dead_letter_expires_s=1000))
    broker.publish("a", 1, [publication(str(i)) for i in range(12)])
    fetched = broker.fetch(asked(1))
    (leased,) = fetched.leased
    for tag, item in zip(leased.tags, leased.messages, strict=True):
        small.settle("p1", [Settlement("default", tag, core.task_id(item), DEAD, reason="bad")], results=True)
    assert [core.task_id(letter.message) for letter in inspector.dead("default")] == ["11", "10", "9", "8", "7"]
    for key in ("fastq:{default}:dead", "fastq:{default}:dead:messages"):
        assert 0 < client.ttl(key) <= 1000
    client.zadd("fastq:{default}:dead", {inspector.dead("default")[4].key: 1})
    broker.publish("a", 2, [publication("12")])
    tag, _ = one(broker.fetch(asked(2)))
    small.settle("p1", [Settlement("default", tag, "12", DEAD, reason="bad")], results=True)
    assert [core.task_id(letter.message) for letter in inspector.dead("default")] == ["12", "11", "10", "9", "8"]
    assert client.hlen("fastq:{default}:dead:messages") == 5
    small.close()


# --- out of memory ---


def test_full_server_refuses_publishing_and_still_drains(
    broker: RedisBroker, backend: RedisBackend, inspector: RedisInspector, client
) -> None:
    new = core.new_ids(broker.now_ms(), 50)
    broker.publish("a", 1, [publication(i) for i in new] + [publication(f"late{i}", delay_ms=1, level=3) for i in range(20)])
    client.config_set("maxmemory", 1)
    with pytest.raises(OperationalError, match=r"out of memory.*maxmemory") as caught:
        broker.publish("a", 2, [publication("refused")])
    assert caught.value.task_ids == ("refused",)
    first = broker.fetch(asked(1, n=10))
    number, verdicts = 1, (DONE, RETRY, DEAD, RETURN)
    settlements = [
        Settlement("default", tag, core.task_id(item), verdicts[n % 4], result=record(), message=message("again"), reason="bad")
        for n, (tag, item) in enumerate(zip(first.leased[0].tags, first.leased[0].messages, strict=True))
    ]
    assert broker.settle("p1", settlements, results=True).skipped == ()
    broker.renew(["default"], ["p1"], LEASE_MS)
    seen = set(ids(first))
    while inspector.depth("default")["ready"] + inspector.depth("default")["delayed"]:
        number += 1
        fetched = broker.fetch(asked(number))
        seen.update(ids(fetched))
        broker.settle("p1", done(fetched), results=True)
    assert seen >= set(new) | {f"late{i}" for i in range(20)} | {"again"}
    broker.condemn([Lease("default", "p1", "")])
    with pytest.raises(Fenced):
        broker.fetch(asked(number + 1))
    client.config_set("maxmemory", 0)
    broker.publish("a", 2, [publication("refused")])
    assert [core.task_id(item) for item in inspector.peek("default", 5)] == ["refused"]


def test_foreign_value_under_a_key_stops_a_call_before_it_changes_anything(
    broker: RedisBroker, backend: RedisBackend, inspector: RedisInspector, client
) -> None:
    (new,) = core.new_ids(broker.now_ms(), 1)
    broker.publish("a", 1, [publication(new)])
    fetched = broker.fetch(asked(1))
    client.set(backend.keys.result(new)[0], "foreign")
    with pytest.raises(OperationalError, match="foreign value"):
        broker.settle("p1", done(fetched), results=True)
    assert broker.leased("default", "p1") == [(fetched.leased[0].tags[0], fetched.leased[0].messages[0])]
    client.delete(backend.keys.result(new)[0])
    assert broker.settle("p1", done(fetched), results=True).skipped == ()


@pytest.mark.parametrize("level", [-1, 10])
def test_priority_without_a_list_is_refused_before_anything_is_sent(broker: RedisBroker, level: int) -> None:
    broker.publish("a", 1, [publication("0")])
    tag, item = one(broker.fetch(asked(1)))
    with pytest.raises(ImproperlyConfigured, match=f"priority {level} is not one of 0 to 9"):
        broker.publish("a", 2, [publication("1", level=level)])
    with pytest.raises(ImproperlyConfigured, match="not one of 0 to 9"):
        broker.settle("p1", [Settlement("default", tag, "0", RETRY, message=item, level=level)], results=True)
    assert broker.leased("default", "p1") == [(tag, item)]


# --- lost replies ---


def test_publish_repeated_after_a_lost_reply_keeps_nothing_twice(proxy: LossyProxy, inspector: RedisInspector, client) -> None:
    broker = RedisBroker(proxy.url, OPTIONS)
    broker.publish("a", 1, [publication("0")])
    publications = [publication(str(i)) for i in range(1, 3001)]
    proxy.lose = 1
    with pytest.raises(OperationalError) as caught:
        broker.publish("a", 2, publications)
    assert set(caught.value.task_ids) == {str(i) for i in range(1, 3001)}
    assert caught.value.__cause__ is not None
    broker.publish("a", 2, publications)
    assert [core.task_id(item) for item in inspector.peek("default", 9999)] == [str(i) for i in range(3001)]
    broker.close()


def test_fetch_and_settle_repeated_after_a_lost_reply_do_nothing_twice(
    proxy: LossyProxy, server: RedisServer, inspector: RedisInspector, client
) -> None:
    broker = RedisBroker(proxy.url, OPTIONS)
    broker.renew(["default"], ["p1"], LEASE_MS)
    broker.publish("a", 1, [publication(str(i), level=i % 2) for i in range(6)])
    proxy.lose = 1
    with pytest.raises(OperationalError):
        broker.fetch(asked(1, n=4))
    fetched = broker.fetch(asked(1, n=4))
    assert ids(fetched) == ["1", "3", "5", "0"]
    assert inspector.depth("default") == {"ready": 2, "delayed": 0, "leased": 4, "dead": 0}
    proxy.lose = 1
    settlements = done(fetched)
    with pytest.raises(OperationalError):
        broker.settle("p1", settlements, results=True, fetch=asked(2, n=1))
    settled = broker.settle("p1", settlements, results=True, fetch=asked(2, n=1))
    assert set(settled.skipped) == {settlement.tag for settlement in settlements}
    assert ids(settled.fetched) == ["2"]
    assert inspector.depth("default") == {"ready": 1, "delayed": 0, "leased": 1, "dead": 0}
    # a late original, answered long ago
    assert ids(broker.fetch(asked(1, n=4))) == []
    broker.close()


def test_skipped_settlements_store_nothing_and_tell_nobody(broker: RedisBroker, backend: RedisBackend, client) -> None:
    new = core.new_ids(broker.now_ms(), 4)
    broker.publish("a", 1, [publication(i) for i in [*new, "own"]])
    fetched = broker.fetch(asked(1))
    settlements = done(fetched, inbox="me")
    inbox = backend.inbox("me")
    inbox.open()
    broker.settle("p1", settlements[1:3], results=False)
    settled = broker.settle("p1", settlements, results=True)
    assert settled.skipped == (settlements[1].tag, settlements[2].tag)
    assert inbox.read(5.0) == [(new[0], None), (new[3], None), ("own", None)]
    assert backend.get([*new, "own"]) == [record(), None, None, record(), record()]
    inbox.close()


# --- connections and servers that go away ---


def test_killed_connections_raise_and_the_next_call_connects_again(broker: RedisBroker, backend: RedisBackend, client) -> None:
    broker.publish("a", 1, [publication("0")])
    wake, inbox = broker.wake("p1"), backend.inbox("me")
    wake.open()
    inbox.open()
    for kind in ("normal", "pubsub"):
        client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
    with pytest.raises(OperationalError, match="closed the connection"):
        broker.publish("a", 2, [publication("1")])
    broker.publish("a", 2, [publication("1")])
    assert select.select([wake, inbox], [], [], 10)[0] == [wake, inbox]
    with pytest.raises(OperationalError):
        wake.drain()
    with pytest.raises(OperationalError):
        inbox.read(5.0)
    with pytest.raises(OperationalError, match="not open"):
        wake.drain()
    wake.open()
    wake.check()
    assert wake.drain() is False
    inbox.open()
    assert inbox.read(0) == []
    wake.close()
    inbox.close()


def test_restarted_server_is_found_again_by_every_part(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        broker = RedisBroker(server.url, OPTIONS)
        backend = RedisBackend(server.url, OPTIONS)
        broker.renew(["default"], ["p1"], LEASE_MS)
        broker.publish("a", 1, [publication("0")])
        backend.store([StoredResult("0", record())])
        server.kill(signal.SIGKILL)
        for call in (lambda: broker.fetch(asked(1)), lambda: backend.get(["0"]), lambda: broker.fetch(asked(1))):
            with pytest.raises(OperationalError, match=r"cannot be reached|closed"):
                call()
        server.start()
        assert backend.get(["0"]) == [None]
        # Its memory is gone, and with it the lease: a name that was entered once is not entered again.
        broker.renew(["default"], ["p1"], LEASE_MS)
        with pytest.raises(Fenced):
            broker.fetch(asked(1))
        broker.renew(["default"], ["p2"], LEASE_MS)
        broker.publish("a", 2, [publication("1")])
        assert ids(broker.fetch(asked(1, process="p2"))) == ["1"]
        broker.close()
        backend.close()


def test_silent_server_times_out(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        broker = RedisBroker(server.url, TransportOptions(socket_timeout_s=0.2))
        wake = broker.wake("p1")
        wake.open()
        broker.now_ms()
        server.kill(signal.SIGSTOP)
        started = time.monotonic()
        for call in (lambda: broker.publish("a", 1, [publication("0")]), wake.check):
            with pytest.raises(OperationalError, match="did not answer"):
                call()
        assert time.monotonic() - started < 10
        server.kill(signal.SIGCONT)
        broker.publish("a", 1, [publication("0")])
        broker.close()
        wake.close()


def test_wake_that_comes_during_a_check_is_kept(broker: RedisBroker, client) -> None:
    wake = broker.wake("p1")
    wake.open()
    client.publish("fastq:wake:p1", "w")
    wake.check()
    assert wake.drain() is True
    assert wake.drain() is False
    wake.close()


def test_large_and_many_messages_leave_nothing_in_the_buffer(backend: RedisBackend, client) -> None:
    inbox = backend.inbox("me")
    inbox.open()
    results = [StoredResult(f"id{i}", record(b"x" * 3000), inbox="me") for i in range(300)]
    backend.store(results)
    backend.store([StoredResult("large", record(b"x" * 100_000), inbox="me")])
    seen: list[tuple[str, bytes | None]] = []
    while len(seen) < 301:
        assert select.select([inbox], [], [], 10)[0], f"{len(seen)} results came, and nothing more to read"
        seen += inbox.read(0)
    assert dict(seen)["large"] is None
    assert dict(seen)["id7"] == record(b"x" * 3000)
    inbox.close()


@pytest.mark.parametrize("part", ["wake", "inbox"])
def test_subscriptions_that_are_not_open_say_so(broker: RedisBroker, backend: RedisBackend, part: str) -> None:
    subscription: Subscription = broker.wake("p1") if part == "wake" else backend.inbox("me")
    with pytest.raises(OperationalError, match="is not open"):
        subscription.fileno()


# --- logins and settings of the server ---


def test_login_and_socket_file(tmp_path: Path) -> None:
    with RedisServer(tmp_path, "--requirepass", "s3cr3t") as server:
        for url in (f"redis://127.0.0.1:{server.port}", f"redis://:wr0ng@127.0.0.1:{server.port}", f"unix://{server.socket_path}"):
            with pytest.raises(OperationalError, match="refused the login") as caught:
                RedisBroker(url, OPTIONS).now_ms()
            assert "wr0ng" not in str(caught.value)
        for url in (f"redis://:s3cr3t@127.0.0.1:{server.port}/1", f"unix://{server.socket_path}?password=s3cr3t&db=1"):
            broker = RedisBroker(url, OPTIONS)
            broker.publish(url, 1, [publication("0")])
            broker.close()
        look = RedisInspector(f"redis://:s3cr3t@127.0.0.1:{server.port}/1", OPTIONS)
        assert look.depth("default")["ready"] == 2
        look.close()
        with pytest.raises(OperationalError, match="no database 99"):
            RedisBroker(f"redis://:s3cr3t@127.0.0.1:{server.port}/99", OPTIONS).now_ms()
    with pytest.raises(OperationalError, match="cannot be reached"):
        RedisBroker(server.url, OPTIONS).now_ms()


def test_read_only_replica_is_named(tmp_path: Path, server: RedisServer) -> None:
    with RedisServer(tmp_path, "--replicaof", "127.0.0.1", str(server.port)) as replica:
        broker = RedisBroker(replica.url, OPTIONS)
        with pytest.raises(OperationalError, match="read-only replica"):
            broker.renew(["default"], ["p1"], LEASE_MS)


def test_evicting_server_is_refused_at_start(broker: RedisBroker, client) -> None:
    client.config_set("save", "3600 1")
    assert broker.check_server() == []
    client.config_set("maxmemory-policy", "allkeys-lru")
    with pytest.raises(ImproperlyConfigured, match=r"allkeys-lru.*noeviction"):
        broker.check_server()
    client.config_set("maxmemory-policy", "volatile-lru")
    client.config_set("maxmemory", 1 << 30)
    (warning,) = broker.check_server()
    assert "volatile-lru" in warning
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("save", "")


def test_connections_carry_names_for_client_list(broker: RedisBroker, backend: RedisBackend, client) -> None:
    broker.now_ms()
    backend.get(["x"])
    wake = broker.wake("p1")
    wake.open()
    assert {entry["name"] for entry in client.client_list()} >= {"fastq:broker", "fastq:backend", "fastq:wake"}
    wake.close()


# --- wakes ---


def idlers(client) -> dict[str, float]:
    return {name.decode(): score for name, score in client.zrange("fastq:{default}:idle", 0, -1, withscores=True)}


def test_one_idle_process_keeps_the_time(broker: RedisBroker, client) -> None:
    broker.renew(["default"], ["p2"], LEASE_MS)
    due = broker.now_ms() + 60_000
    broker.publish("a", 1, [publication("0", due_ms=due)])
    assert broker.fetch(asked(1)).next_due_ms == due
    assert broker.fetch(asked(1, process="p2")).next_due_ms == 0
    assert idlers(client) == {"p1": due, "p2": float("inf")}
    wakes = [broker.wake("p1"), broker.wake("p2")]
    for wake in wakes:
        wake.open()
    # the one that keeps no time is woken first
    broker.publish("a", 2, [publication("1")])
    assert select.select(wakes, [], [], 10)[0] == [wakes[1]]
    assert wakes[1].drain()
    assert idlers(client) == {"p1": due}
    # an earlier due time wakes the timekeeper
    broker.publish("a", 3, [publication("2", due_ms=due - 1000)])
    assert select.select(wakes, [], [], 10)[0] == [wakes[0]]
    for wake in wakes:
        wake.close()


def test_processes_that_are_gone_are_passed_over(broker: RedisBroker, client) -> None:
    broker.renew(["default"], ["p2", "p3"], LEASE_MS)
    wake = broker.wake("p2")
    wake.open()
    for process in ("p1", "p2", "p3"):
        broker.fetch(asked(1, process=process))
    broker.publish("a", 1, [publication("0")])
    assert select.select([wake], [], [], 10)[0] == [wake]
    assert "p2" not in idlers(client)
    wake.close()


def test_two_processes_on_a_last_chance_do_not_wake_each_other_for_ever(broker: RedisBroker, client) -> None:
    broker.renew(["default"], ["p2"], LEASE_MS)
    wakes = {process: broker.wake(process) for process in ("p1", "p2")}
    for wake in wakes.values():
        wake.open()
    numbers = {"p1": 1, "p2": 1}
    for process in numbers:
        broker.fetch(asked(1, process=process, no_last_chance=True))
    poison = core.remark(message("poison"), 2)
    broker.publish("a", 1, [Publication("default", poison), publication("0")])
    fetches = 0
    taken: list[str] = []
    while woken := [process for process, wake in wakes.items() if select.select([wake], [], [], 0.2)[0] and wake.drain()]:
        for process in woken:
            fetches += 1
            numbers[process] += 1
            taken += ids(broker.fetch(asked(numbers[process], process=process, no_last_chance=True)))
        assert fetches < 10
    assert taken == ["0"]
    # a process that runs none takes it, alone
    broker.publish("a", 2, [publication("1")])
    assert ids(broker.fetch(asked(99))) == ["poison"]
    assert ids(broker.fetch(asked(100, no_last_chance=True))) == ["1"]
    for wake in wakes.values():
        wake.close()


def test_queues_share_n_and_take_turns(server: RedisServer, broker: RedisBroker, client) -> None:
    queues = ("a", "b", "c")
    broker.renew(queues, ["p1"], LEASE_MS)
    broker.publish("x", 1, [Publication(queue, message(f"{queue}{i}")) for queue in queues for i in range(4)])
    taken = [ids(broker.fetch(asked(number, n=3, queues=queues))) for number in range(3, 6)]
    assert taken == [["a0", "a1", "a2"], ["b0", "b1", "b2"], ["c0", "c1", "c2"]]
    assert ids(broker.fetch(asked(6, n=3, queues=queues))) == ["a3", "b3", "c3"]
    assert broker.fetch(asked(7, n=3, queues=queues)).leased == ()
    assert all(client.zcard(f"fastq:{{{queue}}}:idle") == 1 for queue in queues)
    # busy again on one of them: no longer idle on any
    broker.publish("x", 2, [Publication("b", message("b9"))])
    assert ids(broker.fetch(asked(10, n=1, queues=queues))) == ["b9"]
    assert all(client.zcard(f"fastq:{{{queue}}}:idle") == 0 for queue in queues)


# --- leases ---


def test_release_moves_nothing_of_a_living_process(broker: RedisBroker, inspector: RedisInspector) -> None:
    broker.publish("a", 1, [publication("0")])
    broker.fetch(asked(1))
    with pytest.raises(OperationalError, match="condemn it"):
        broker.release("default", "p1", {})
    assert inspector.depth("default")["leased"] == 1


def test_thawed_node_does_not_revive_a_process_that_was_released(server: RedisServer, broker: RedisBroker, client) -> None:
    other = RedisBroker(server.url, OPTIONS)
    broker.publish("a", 1, [publication(str(i)) for i in range(250)])
    taken = broker.fetch(asked(1, n=250))
    (lease,) = [Lease("default", name.decode(), str(int(score))) for name, score in client.zscan_iter("fastq:{default}:leases")]
    assert other.condemn([lease]) == [Lease("default", "p1", "0")]
    (tag, item), *_ = zip(taken.leased[0].tags, taken.leased[0].messages, strict=True)
    assert other.release("default", "p1", {tag: core.remark(item, 1)}) == 250
    broker.renew(["default"], ["p1"], LEASE_MS)
    with pytest.raises(Fenced):
        broker.fetch(asked(2))
    other.renew(["default"], ["p2"], LEASE_MS)
    again = other.fetch(asked(1, n=250, process="p2"))
    assert ids(again) == [str(i) for i in range(250)]
    assert core.peek(again.leased[0].messages[0]).deliveries == 1
    assert set(broker.settle("p1", done(taken), results=True).skipped) == set(taken.leased[0].tags)
    other.close()


def test_producer_clock_follows_the_server(broker: RedisBroker, client) -> None:
    seconds, micros = client.time()
    assert abs(broker.now_ms() - (seconds * 1000 + micros // 1000)) < 1000
