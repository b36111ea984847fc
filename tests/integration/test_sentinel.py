"""Sentinels tell every connection where the primary is, at each connect; every way in which they cannot is one clear error."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

import pytest

from fastq.exceptions import OperationalError
from fastq.records import StoredResult
from fastq.transports import TransportOptions
from fastq.transports.redis import RedisBackend, RedisBroker, RedisInspector
from fastq.transports.redis.sentinel import CHANNELS
from tests.sentinels import NAME, Watched
from tests.servers import free_port
from tests.unit.redis_parts import LEASE_MS, asked, ids, publication, record

OPTIONS = TransportOptions(connect_timeout_s=2.0)

SUBSCRIBED = b"*3\r\n$9\r\nsubscribe\r\n$1\r\nx\r\n:1\r\n" * len(CHANNELS)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with Watched(tmp_path_factory.mktemp("sentinel"), password="server-word", sentinel_password="sentinel-word") as watched:
        yield watched


def test_a_sentinel_that_names_a_replica_is_not_believed(watched: Watched) -> None:
    """One that was cut off still names the old primary. The next one is asked, and that one is asked first from then on."""
    replica = next(server for server in watched.servers if server is not watched.primary)
    with saying(f"*2\r\n$9\r\n127.0.0.1\r\n${len(str(replica.port))}\r\n{replica.port}\r\n".encode()) as (port, asked_times):
        honest = watched.sentinels[0].port
        url = f"sentinel://:server-word@127.0.0.1:{port};127.0.0.1:{honest}/{NAME}?sentinel_password=sentinel-word"
        broker = RedisBroker(url, OPTIONS)
        broker.renew(["default"], ["p9"], LEASE_MS)
        assert broker._connection._at == f"127.0.0.1:{watched.primary.port}"
        assert len(asked_times) == 1
        broker.close()
        broker.renew(["default"], ["p9"], LEASE_MS)
        assert len(asked_times) == 1
        broker.close()
        alone = RedisBroker(f"sentinel://:server-word@127.0.0.1:{port}/{NAME}?sentinel_password=sentinel-word", OPTIONS)
        with pytest.raises(OperationalError, match="says that it is a slave: a failover is probably under way"):
            alone.now_ms()


@contextlib.contextmanager
def saying(answer: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """Listen as a sentinel that gives one answer to every question; yield its port and the questions so far."""
    import threading

    listener = socket.create_server(("127.0.0.1", 0))
    questions: list[bytes] = []

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                with client, contextlib.suppress(OSError):
                    while data := client.recv(1 << 16):
                        if b"GET-MASTER" in data:
                            questions.append(data)
                        client.sendall(answer + SUBSCRIBED if b"SENTINEL" in data else b"+OK\r\n" * data.count(b"*"))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1], questions
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


def test_every_way_in_which_sentinels_are_of_no_use_is_one_clear_error(watched: Watched) -> None:
    there = f"127.0.0.1:{watched.sentinels[0].port}"
    away = f"127.0.0.1:{free_port()}"
    word = "sentinel_password=sentinel-word"
    expected = {
        f"sentinel://{there}/other?{word}": f"No primary named 'other' is known .*{there}.*the names known there are {NAME}",
        f"sentinel://{away};{there}/other?{word}": f"the names known there are {NAME}.*Others did not answer: {away}",
        f"sentinel://{away};{away}/{NAME}": f"No sentinel of .* tells where the primary '{NAME}' is .*{away}.*refused",
        f"sentinel://{there}/{NAME}": "refused the login.*sentinel_password",
        f"sentinel://{there}/{NAME}?sentinel_password=wrong": "refused the login.*sentinel_password",
        f"sentinel://127.0.0.1:{watched.primary.port}/{NAME}?sentinel_password=server-word": "is a Redis server and no sentinel",
        f"sentinel://{there}/{NAME}?{word}": f"Redis at 127.0.0.1:{watched.primary.port}, the primary '{NAME}'.*refused the login",
        f"sentinel://:wrong@{there}/{NAME}?{word}": "refused the login",
    }
    for url, says in expected.items():
        with pytest.raises(OperationalError, match=says) as caught:
            RedisBroker(url, OPTIONS).now_ms()
        assert "-word" not in str(caught.value)


def test_a_sentinel_that_does_not_answer_is_left_for_the_next_in_time(watched: Watched) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        url = watched.url.replace("@127", f"@127.0.0.1:{port};127")
        broker = RedisBroker(url, OPTIONS)
        started = time.monotonic()
        broker.now_ms()
        first = time.monotonic() - started
        assert first >= 0.4, "the silent one was asked first"
        broker.close()
        broker._clock.forget()
        broker.now_ms()
        assert broker.address.sentinels is not None
        assert broker.address.sentinels._first == 1, "the one that knew is asked first"
        broker.close()


def test_celerys_form_with_its_transport_options_works(watched: Watched) -> None:
    url = ";".join(f"sentinel://:server-word@127.0.0.1:{sentinel.port}/1" for sentinel in watched.sentinels)
    extra = {"master_name": NAME, "sentinel_kwargs": {"password": "sentinel-word", "socket_timeout": 2}}
    broker = RedisBroker(url, TransportOptions(extra=extra))
    broker.publish("a", 1, [publication("x")])
    with contextlib.closing(watched.primary.client(password="server-word", db=1)) as client:
        assert client.llen("fastq:{default}:ready:0") == 1
        client.flushdb()
    broker.close()


# the last one: for some 8 s after it two servers say that they are the primary
def test_every_part_finds_the_primary_and_finds_the_new_one_after_a_failover(watched: Watched) -> None:
    old = watched.primary
    broker, backend = RedisBroker(watched.url, OPTIONS), RedisBackend(watched.url, OPTIONS)
    inspector = RedisInspector(watched.url, OPTIONS)
    assert backend.shares(broker)
    broker.renew(["default"], ["p1"], LEASE_MS)
    broker.publish("a", 1, [publication("0")])
    backend.store([StoredResult("0", record())])
    wake, inbox = broker.wake("p1"), backend.inbox("me")
    wake.open()
    inbox.open()
    watched.in_step(old)
    new = watched.switch()
    # The old primary still takes writes, for some 8 s, and would throw them away: word of the sentinels comes first.
    with pytest.raises(OperationalError, match=r"may not be the primary .* any more"):
        broker.publish("a", 2, [publication("1")])
    # a backend's call may be made twice, so it goes on by itself
    assert backend.get(["0"]) == [record()]
    assert backend._connection._at == f"127.0.0.1:{new.port}"
    started = time.monotonic()
    for read in (wake.drain, lambda: inbox.read(30)):
        with pytest.raises(OperationalError, match=r"may not be the primary .* any more"):
            read()
    assert time.monotonic() - started < 20
    broker.publish("a", 2, [publication("1")])
    assert broker._connection._at == f"127.0.0.1:{new.port}"
    assert ids(broker.fetch(asked(1))) == ["0", "1"]
    assert backend.get(["0"]) == [record()]
    assert inspector.depth("default")["leased"] == 2
    wake.open()
    inbox.open()
    with contextlib.closing(new.client(password="server-word")) as client:
        names = {entry["name"] for entry in client.client_list()}
    assert names >= {"fastq:broker", "fastq:backend", "fastq:wake", "fastq:inbox", "fastq:inspector"}
    for part in (broker, backend, inspector, wake, inbox):
        part.close()
