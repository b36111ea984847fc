"""What the chaos tests rely on: the proxy passes everything on, and makes exactly the trouble it is told to."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterator

import pytest

from tests.proxy import Control, Proxy, ProxyProcess
from tests.workers import eventually


class Echo(socketserver.StreamRequestHandler):
    """Answer each line with itself, and remember it."""

    heard: list[bytes]

    def handle(self) -> None:
        for line in self.rfile:
            self.heard.append(line)
            try:
                self.wfile.write(line)
            except OSError:
                return


@pytest.fixture
def heard() -> list[bytes]:
    return []


@pytest.fixture
def port(heard: list[bytes]) -> Iterator[int]:
    handler = type("Handler", (Echo,), {"heard": heard})
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(port: int) -> Iterator[Proxy]:
    with Proxy(port) as proxy:
        yield proxy


class Client:
    def __init__(self, proxy: Proxy) -> None:
        self.sock = socket.create_connection(("127.0.0.1", proxy.port), timeout=30)
        self.lines = self.sock.makefile("rb")

    def say(self, line: bytes) -> bytes:
        """Return the answer; b"" if the connection ends first."""
        try:
            self.sock.sendall(line)
            return self.lines.readline()
        except ConnectionError:
            return b""

    def close(self) -> None:
        self.lines.close()
        self.sock.close()


@pytest.fixture
def client(proxy: Proxy) -> Iterator[Client]:
    client = Client(proxy)
    assert client.say(b"hello\n") == b"hello\n"
    yield client
    client.close()


def test_it_passes_everything_on(client: Client) -> None:
    large = b"x" * 3_000_000 + b"\n"
    writer = threading.Thread(target=client.sock.sendall, args=(large,))
    writer.start()
    assert client.lines.readline() == large
    writer.join()


def test_it_takes_its_time(proxy: Proxy, client: Client) -> None:
    import time

    proxy.latency_s = 0.05
    began = time.monotonic()
    assert client.say(b"slow\n") == b"slow\n"
    assert time.monotonic() - began >= 0.1


def test_cut_resets_all_connections(proxy: Proxy, client: Client) -> None:
    assert proxy.cut() == 1
    with pytest.raises(ConnectionError):
        client.sock.recv(1)
    assert proxy.cut() == 0


@pytest.mark.parametrize(
    ("when", "arrives", "answer"),
    [
        ("request", [], b""),
        ("mid-request", [b"12345"], b""),
        ("reply", [b"1234567890\n"], b""),
        ("mid-reply", [b"1234567890\n"], b"12345"),
    ],
)
def test_a_needle_cuts_where_it_was_told_to(
    when: str, arrives: list[bytes], answer: bytes, proxy: Proxy, client: Client, heard: list[bytes]
) -> None:
    proxy.cut_on(b"456", when)
    other = Client(proxy)
    assert other.say(b"another\n") == b"another\n"
    assert client.say(b"1234567890\n") == answer
    assert proxy.hits == 1
    eventually(lambda: not proxy.ending, "the server has seen the end")
    eventually(lambda: heard[2:] == arrives, "what arrives")
    assert other.say(b"456 again\n") == b"456 again\n"
    other.close()


def test_a_late_request_arrives_when_it_is_delivered(proxy: Proxy, client: Client, heard: list[bytes]) -> None:
    proxy.cut_on(b"late", "late")
    assert client.say(b"late\n") == b""
    again = Client(proxy)
    assert again.say(b"late\n") == b"late\n"
    assert heard == [b"hello\n", b"late\n"]
    assert proxy.deliver() == 1
    eventually(lambda: heard == [b"hello\n", b"late\n", b"late\n"], "it arrives")
    again.close()


def test_a_frozen_connection_stays_silent_and_new_ones_live_after_the_thaw(
    proxy: Proxy, client: Client, heard: list[bytes]
) -> None:
    assert proxy.freeze() == 1
    client.sock.settimeout(0.2)
    with pytest.raises(TimeoutError):
        client.say(b"anybody?\n")
    proxy.thaw()
    again = Client(proxy)
    assert again.say(b"me\n") == b"me\n"
    assert heard == [b"hello\n", b"me\n"]
    again.close()
    client.sock.close()
    assert proxy.cut() >= 1


def test_only_the_connections_that_are_meant_are_frozen(proxy: Proxy, client: Client) -> None:
    other = Client(proxy)
    assert other.say(b"I am b\n") == b"I am b\n"
    assert proxy.freeze(b"I am b") == 1
    assert client.say(b"a\n") == b"a\n"
    other.sock.settimeout(0.2)
    with pytest.raises(TimeoutError):
        other.say(b"b\n")
    other.close()


def test_it_refuses_new_connections(proxy: Proxy, client: Client) -> None:
    proxy.refusing = True
    with (
        pytest.raises(ConnectionError),  # at once, or when it reads
        socket.create_connection(("127.0.0.1", proxy.port), timeout=30) as refused,
    ):
        refused.recv(1)
    assert client.say(b"x\n") == b"x\n"


def test_orders_are_lines(proxy: Proxy, client: Client) -> None:
    control = Control(proxy)
    assert control.obey("connections") == "1"
    assert control.obey("cut_on needle reply 2") == "ok"
    assert control.obey("hits") == "0"
    assert control.obey("cut") == "1"
    assert control.obey("dance").startswith("error")


def test_it_runs_as_a_process(port: int) -> None:
    with ProxyProcess(port) as proxy:
        sock = socket.create_connection(("127.0.0.1", proxy.port), timeout=30)
        sock.sendall(b"hello\n")
        assert sock.recv(100) == b"hello\n"
        assert proxy.cut() == 1
        sock.close()
