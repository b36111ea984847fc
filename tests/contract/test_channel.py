"""What nodes say: requests and answers, heartbeats, the stream of events."""

from __future__ import annotations

import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastq.exceptions import ImproperlyConfigured, OperationalError
from fastq.transports import Channel, TransportOptions, open_channel
from fastq.transports.channel import Ear
from tests.contract.conftest import DEADLINE_S, Transport, until
from tests.proxy import Proxy

KEEP = {"keep": 1_000, "expires_s": 60}


@pytest.fixture
def channel(transport: Transport) -> Channel:
    return transport.channel()


def listening(transport: Transport, node: str, channel: Channel | None = None) -> Ear:
    ear = (channel or transport.channel()).ear(node)
    ear.open()
    transport.opened.append(ear)
    return ear


def heard(ear: Ear, n: int = 1) -> list[bytes]:
    """Wait for n messages, and see that no more have come."""
    messages: list[bytes] = []
    deadline = time.monotonic() + DEADLINE_S
    while len(messages) < n and (left_s := deadline - time.monotonic()) > 0:
        messages += ear.read(left_s)
    return messages + ear.read(0)


# --- requests and answers ---


def test_a_broadcast_reaches_all_who_listen_and_counts_them(transport: Transport, channel: Channel) -> None:
    assert channel.broadcast(b"nobody") == 0
    ears = [listening(transport, name) for name in ("a", "b", "b")]
    assert [channel.broadcast(b"one"), channel.broadcast(b"\x00\xff")] == [3, 3]
    assert [heard(ear, 2) for ear in ears] == [[b"one", b"\x00\xff"]] * 3
    ears[0].close()
    assert channel.broadcast(b"two") == 2
    late = listening(transport, "late")
    assert late.read(0) == [], "nothing is kept for later ones"
    assert [heard(ear) for ear in ears[1:]] == [[b"two"]] * 2


def test_an_answer_reaches_who_has_asked_and_nobody_else(transport: Transport, channel: Channel) -> None:
    asker, other = channel.replies("asker"), channel.replies("other")
    for ear in (asker, other):
        ear.open()
        transport.opened.append(ear)
    node = listening(transport, "node")
    there = transport.channel()
    there.reply("asker", b"1")
    there.reply("asker", b"2")
    there.reply("nobody", b"3")
    assert heard(asker, 2) == [b"1", b"2"]
    assert other.read(0) == [] and node.read(0) == []


def test_many_and_large_messages_are_heard_in_order(transport: Transport, channel: Channel) -> None:
    ear = listening(transport, "node")
    said = [b"%d" % i for i in range(100)] + [bytes(1_000_000)]
    for message in said:
        channel.broadcast(message)
    assert heard(ear, len(said)) == said


def test_a_message_makes_the_descriptor_readable_and_ends_a_wait(transport: Transport, channel: Channel) -> None:
    ear = listening(transport, "node")
    assert ear.read(0.01) == []
    assert select.select([ear.fileno()], [], [], 0)[0] == []
    later = threading.Timer(0.05, lambda: channel.broadcast(b"x"))
    later.start()
    assert select.select([ear.fileno()], [], [], DEADLINE_S)[0]
    assert ear.read(0) == [b"x"]
    later.join()
    later = threading.Timer(0.05, lambda: channel.broadcast(b"y"))
    later.start()
    assert ear.read(None) == [b"y"]
    later.join()


def test_a_probe_loses_nothing(transport: Transport, channel: Channel) -> None:
    ear = listening(transport, "node")
    ear.check()
    channel.broadcast(b"x")
    ear.check()
    assert heard(ear) == [b"x"]
    ear.close()
    with pytest.raises(OperationalError):
        ear.check()
    ear.open()
    channel.broadcast(b"y")
    assert heard(ear) == [b"y"]


# --- nodes ---


def test_nodes_are_known_until_they_leave_or_their_beat_expires(transport: Transport, channel: Channel) -> None:
    there = transport.channel()
    assert channel.nodes() == {}
    beat = there.beat("b@host", b"\x81info", 60_000)
    assert abs(beat.now_ms - time.time() * 1000) < 60_000 and not beat.listened
    there.beat("a@host", b"old", 60_000)
    there.beat("a@host", b"new", 60_000)
    there.beat("short@host", b"", 20)
    nodes = until(lambda: len(found := channel.nodes()) == 2 and found, "the expiry of a beat")
    assert [(name, record.info) for name, record in nodes.items()] == [("a@host", b"new"), ("b@host", b"\x81info")]
    assert all(0 <= record.age_ms < 60_000 for record in nodes.values())
    there.leave("a@host")
    there.leave("a@host")
    assert list(channel.nodes()) == ["b@host"]


def test_a_beat_says_whether_somebody_listens_to_events(transport: Transport, channel: Channel) -> None:
    there = transport.channel()
    assert not there.beat("node", b"", 60_000).listened
    channel.listen("top", 60)
    channel.listen("dump", 60)
    assert there.beat("node", b"", 60_000).listened
    channel.listen("top", 0)
    assert there.beat("node", b"", 60_000).listened
    channel.listen("dump", 0.02)
    until(lambda: not there.beat("node", b"", 60_000).listened, "the expiry of a listener")


# --- events ---


def test_events_come_in_order_from_a_position(transport: Transport, channel: Channel) -> None:
    there = transport.channel()
    there.send_events([b"before"], **KEEP)
    [(start, empty)] = channel.events("", 0)
    assert empty == b""
    there.send_events([b"1", b"2"], **KEEP)
    there.send_events([], **KEEP)
    there.send_events([b"3"], **KEEP)
    first = channel.events(start, 0, n=2)
    assert [batch for _, batch in first] == [b"1", b"2"]
    assert [batch for _, batch in channel.events(first[0][0], 0)] == [b"2", b"3"]
    assert channel.events(channel.events(first[-1][0], 0)[-1][0], 0.01) == []


def test_a_reader_waits_for_the_first_event(transport: Transport, channel: Channel) -> None:
    reader = transport.channel()
    position = reader.events("", 0)[-1][0]
    later = threading.Timer(0.05, lambda: channel.send_events([b"x"], **KEEP))
    later.start()
    assert [batch for _, batch in reader.events(position, DEADLINE_S)] == [b"x"]
    later.join()


def test_the_stream_is_capped_and_vanishes(transport: Transport, channel: Channel) -> None:
    position = channel.events("", 0)[-1][0]
    channel.send_events([b"%d" % i for i in range(1_000)], keep=200, expires_s=60)
    kept = [batch for _, batch in channel.events(position, 0)]
    assert 200 <= len(kept) < 400 and kept[-1] == b"999"
    last = channel.events(position, 0)[-1][0]
    channel.send_events([b"last"], keep=200, expires_s=1)
    until(lambda: transport.channel().beat("n", b"", 1000) and not channel.events(position, 0), "the expiry of the stream")
    channel.send_events([b"again"], **KEEP)
    assert [batch for _, batch in channel.events(last, 0)] == [b"again"], "positions rise"


# --- what may go wrong ---


@pytest.fixture
def proxied(redis_url: str) -> Iterator[tuple[Proxy, Channel]]:
    port = int(redis_url.rpartition(":")[2].partition("/")[0])
    with Proxy(port) as proxy:
        channel = open_channel(proxy.url, TransportOptions(prefix="cut:", socket_timeout_s=0.5))
        yield proxy, channel
        channel.close()


def test_who_loses_the_connection_hears_so_and_can_go_on(proxied: tuple[Proxy, Channel]) -> None:
    proxy, channel = proxied
    ear = channel.ear("node")
    ear.open()
    assert channel.broadcast(b"1") == 1 and heard(ear) == [b"1"]
    position = channel.events("", 0)[-1][0]
    proxy.cut()
    with pytest.raises(OperationalError):
        ear.read(DEADLINE_S)
    ear.open()
    # What may be repeated goes on by itself; a request to nodes may not.
    channel.beat("node", b"", 60_000)
    channel.send_events([b"x"], **KEEP)
    assert [batch for _, batch in channel.events(position, 0)] == [b"x"]
    proxy.cut()
    with pytest.raises(OperationalError):
        channel.broadcast(b"2")
    ear.open()
    assert channel.broadcast(b"3") == 1 and heard(ear) == [b"3"]
    ear.close()


def test_a_probe_finds_a_connection_that_went_silent(proxied: tuple[Proxy, Channel]) -> None:
    proxy, channel = proxied
    ear = channel.ear("node")
    ear.open()
    proxy.freeze()
    with pytest.raises(OperationalError, match="PING"):
        ear.check()
    proxy.thaw()
    ear.open()
    # The server may count the old connection for a while.
    assert channel.broadcast(b"x") >= 1 and heard(ear) == [b"x"]
    ear.close()


def test_databases_of_one_server_do_not_hear_each_other(redis_url: str) -> None:
    first, second = open_channel(redis_url, TransportOptions()), open_channel(f"{redis_url[:-1]}1", TransportOptions())
    ear = first.ear("node")
    ear.open()
    assert (second.broadcast(b"x"), first.broadcast(b"y")) == (0, 1)
    assert heard(ear) == [b"y"]
    for opened in (ear, first, second):
        opened.close()


LISTEN = """
import sys
from fastq.transports import TransportOptions, open_channel
channel = open_channel(sys.argv[1], TransportOptions())
ear = channel.ear("child")
ear.open()
print("open", flush=True)
[message] = ear.read(20)
channel.reply("asker", message + b" heard")
sys.stdin.read()
"""


def test_processes_talk_through_a_file_and_a_killed_one_is_forgotten(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/talk.db"
    channel = open_channel(url, TransportOptions())
    asker = channel.replies("asker")
    asker.open()
    child = subprocess.Popen([sys.executable, "-c", LISTEN, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None and child.stdout is not None
    try:
        assert child.stdout.readline() == b"open\n"
        assert channel.broadcast(b"hello") == 1
        assert heard(asker) == [b"hello heard"]
    finally:
        child.kill()
        child.wait()
        child.stdin.close()
        child.stdout.close()
    assert channel.broadcast(b"nobody") == 0
    asker.close()
    channel.close()


def test_an_ear_whose_file_was_replaced_says_so(tmp_path: Path) -> None:
    channel = open_channel(f"sqlite:///{tmp_path}/talk.db", TransportOptions())
    ear = channel.ear("node")
    ear.open()
    for file in tmp_path.iterdir():
        file.unlink()
    with pytest.raises(OperationalError, match="replaced"):
        ear.check()
    ear.open()
    assert channel.broadcast(b"x") == 1 and heard(ear) == [b"x"]
    ear.close()
    channel.close()


def test_a_database_of_results_has_no_channel() -> None:
    pytest.importorskip("django")
    with pytest.raises(ImproperlyConfigured, match="results only"):
        open_channel("django-db", TransportOptions())


def test_a_socket_whose_queue_is_full_blocks_nobody(tmp_path: Path) -> None:
    """The node stands still; what was said lies in the file, and the descriptor stays readable."""
    channel = open_channel(f"sqlite:///{tmp_path}/talk.db", TransportOptions())
    ear = channel.ear("node")
    ear.open()
    began = time.monotonic()
    with open("/proc/sys/net/unix/max_dgram_qlen") if Path("/proc/sys/net").exists() else open("/dev/null") as file:
        queue = int(file.read() or 10)
    said = [b"%d" % i for i in range(min(queue, 600) + 20)]
    assert all(channel.broadcast(message) == 1 for message in said)
    assert time.monotonic() - began < DEADLINE_S
    assert heard(ear, len(said)) == said
    ear.close()
    channel.close()


def test_whoever_asks_hears_whether_somebody_listens_to_events(transport: Transport, channel: Channel) -> None:
    other = transport.channel()
    assert not channel.listened()
    other.listen("a", 60)
    other.listen("b", 60)
    assert channel.listened()
    other.listen("a", 0)
    assert channel.listened()
    other.listen("b", 0)
    assert not channel.listened()
