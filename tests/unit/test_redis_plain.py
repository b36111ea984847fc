"""The connection without redis-py: hiredis over a socket."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
from hiredis import pack_command

from fastq.transports.redis.address import Address
from fastq.transports.redis.errors import explain
from fastq.transports.redis.plain import LoginError, PlainConnection, ServerError


class Peer:
    """The other side, which the test speaks for."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.made: list[PlainConnection] = []
        self.sock = socket.socket()

    def connected(self, *answers: bytes, **login: object) -> PlainConnection:
        """Return a connection to here, greeted with ``answers``."""

        def accept() -> None:
            self.sock.close()
            self.sock, _ = self._listening.accept()
            self.sock.sendall(b"".join(answers))

        settings = {"username": None, "password": None, "db": 0, "client_name": None} | login
        raw = PlainConnection(
            host="127.0.0.1",
            port=self._listening.getsockname()[1],
            path="",
            connect_timeout_s=5,
            socket_timeout_s=1,
            tcp_options={},
            **settings,  # type: ignore[arg-type]
        )
        self.made.append(raw)
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            raw.connect()
        finally:
            thread.join()
        return raw

    def close(self) -> None:
        for raw in self.made:
            raw.disconnect()
        self.sock.close()
        self._listening.close()


@pytest.fixture
def peer() -> Iterator[Peer]:
    made = Peer()
    yield made
    made.close()


def test_answers_are_read_whatever_the_pieces_they_come_in(peer: Peer) -> None:
    raw = peer.connected()
    raw.send_packed_command(raw.pack_command("GET", "key", 1))
    assert peer.sock.recv(1000) == b"*3\r\n$3\r\nGET\r\n$3\r\nkey\r\n$1\r\n1\r\n"
    value = b"x" * 1_000_000

    def speak() -> None:
        peer.sock.sendall(b":1\r\n$-1\r\n*2\r\n+a\r\n-ERR b\r\n$1000000\r\n" + value[:10])
        peer.sock.sendall(value[10:] + b"\r\n-NOSCRIPT No matching script.\r\n-ERR unknown\r\n+last\r\n")

    thread = threading.Thread(target=speak)
    thread.start()
    assert [raw.read_response(), raw.read_response()] == [1, None]
    first, second = raw.read_response()
    assert first == b"a" and isinstance(second, ServerError)
    assert raw.read_response() == value
    with pytest.raises(ServerError, match=r"^NOSCRIPT No"):
        raw.read_response()
    with pytest.raises(ServerError, match=r"^unknown$"):
        raw.read_response()
    assert raw.read_response() == b"last", "an error leaves the stream in step"
    thread.join()


def test_it_says_whether_something_has_come(peer: Peer) -> None:
    raw = peer.connected()
    assert not raw.can_read(timeout=0)
    begun = time.monotonic()
    assert not raw.can_read(timeout=0.05) and time.monotonic() - begun >= 0.04
    peer.sock.sendall(b"+a\r\n+b\r\n")
    assert raw.can_read(timeout=5) and raw.read_response() == b"a"
    assert raw.can_read(timeout=0), "what was read ahead counts"
    assert raw.read_response() == b"b" and not raw.can_read(timeout=0)
    with pytest.raises(TimeoutError, match="Timeout reading"):
        raw.read_response()
    peer.sock.shutdown(socket.SHUT_RDWR)
    with pytest.raises(ConnectionError, match="closed by server"):
        raw.can_read(timeout=5)


def test_it_greets_in_one_exchange(peer: Peer) -> None:
    peer.connected(b"+OK\r\n" * 3, username="u", password="p", db=3, client_name="me")
    assert peer.sock.recv(1000) == b"".join(
        pack_command(words) for words in (("AUTH", "u", "p"), ("CLIENT", "SETNAME", "me"), ("SELECT", 3))
    )


@pytest.mark.parametrize(
    ("answer", "login", "kind"),
    [
        (b"-WRONGPASS invalid username-password pair or user is disabled.\r\n", {"password": "p"}, LoginError),
        (b"-ERR AUTH <password> called without any password configured\r\n", {"password": "p"}, LoginError),
        (b"-NOAUTH Authentication required.\r\n", {"client_name": "me"}, LoginError),
        (b"-ERR max number of clients reached\r\n", {"password": "p"}, ServerError),
        (b"-ERR DB index is out of range\r\n", {"db": 99}, ServerError),
    ],
)
def test_a_refused_greeting_says_what_was_refused(peer: Peer, answer: bytes, login: dict[str, object], kind: type) -> None:
    with pytest.raises(ServerError) as caught:
        peer.connected(answer + b"+OK\r\n", **login)
    assert type(caught.value) is kind


def test_a_service_that_is_no_redis_is_named_as_such(peer: Peer) -> None:
    with pytest.raises(ConnectionError) as caught:
        peer.connected(b"HTTP/1.1 400 Bad Request\r\n\r\n", db=1)
    assert "answered what no Redis server answers" in str(explain(caught.value, Address("redis://h")))


def test_who_waits_hears_when_it_is_closed_by_another_thread(peer: Peer) -> None:
    raw = peer.connected()
    assert raw._sock is not None
    raw._sock.settimeout(30)
    failed: list[BaseException] = []

    def wait() -> None:
        try:
            raw.read_response()
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    raw.disconnect()
    thread.join(5)
    assert not thread.is_alive() and failed
    with pytest.raises(ConnectionError):
        raw.send_packed_command([b"PING\r\n"])
