"""A connection over TCP or a Unix socket, with hiredis reading and writing.

Without redis-py, which is kept for TLS: it would be imported whole, 10 to 15 MiB and 0.2 s in every process, for connecting and
logging in alone. hiredis does the rest, here as there.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import hiredis
from hiredis import pack_command  # what is too old has none, and redis-py is used

__all__ = ["LoginError", "PlainConnection", "ServerError"]

#: bytes that a connection has room for when it is opened, and that it grows to as answers fill it: most never have a long one
ROOM, MOST_ROOM = 16 * 1024, 256 * 1024

_UNFINISHED = object()


class ServerError(Exception):
    """An answer that is an error; its text begins with its code, unless that is the general ERR."""


class LoginError(ServerError):
    """User or password were refused."""


class ProtocolError(ConnectionError):
    """What came is no answer."""


def _error(text: str) -> ServerError:
    return ServerError(text.removeprefix("ERR "))


class PlainConnection:
    """``RawConnection``, connected by ``connect``. Errors are ServerError and OSError."""

    def __init__(
        self,
        *,
        host: str,
        port: int,
        path: str,
        username: str | None,
        password: str | None,
        db: int,
        client_name: str | None,
        connect_timeout_s: float,
        socket_timeout_s: float,
        tcp_options: dict[int, int],
    ) -> None:
        self._place = path or (host, port)
        self._login = tuple(word for word in (username, password) if word is not None) if password is not None else ()
        self._db = db
        self._client_name = client_name
        self._connect_timeout_s = connect_timeout_s
        self._socket_timeout_s = socket_timeout_s
        self._tcp_options = tcp_options
        self._sock: socket.socket | None = None
        self._pid = os.getpid()
        self._buffer = bytearray(ROOM)
        self._reader = hiredis.Reader(protocolError=ProtocolError, replyError=_error, notEnoughData=_UNFINISHED)

    def __del__(self) -> None:
        with suppress(Exception):
            self.disconnect()

    def connect(self) -> None:
        """Connect, log in and select the database, in one exchange."""
        place = self._place
        try:
            if isinstance(place, str):
                self._sock = sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                sock.settimeout(self._connect_timeout_s)
                sock.connect(place)
            else:
                self._sock = sock = socket.create_connection(place, self._connect_timeout_s)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for option, value in self._tcp_options.items():
                    sock.setsockopt(socket.IPPROTO_TCP, option, value)
        except TimeoutError:
            raise TimeoutError("Timeout connecting to server") from None
        sock.settimeout(self._socket_timeout_s)
        greeting: list[tuple[Any, ...]] = [("AUTH", *self._login)] if self._login else []
        if self._client_name:
            greeting.append(("CLIENT", "SETNAME", self._client_name))
        if self._db:
            greeting.append(("SELECT", self._db))
        if greeting:
            self.send_packed_command([pack_command(words) for words in greeting])
        for words in greeting:
            try:
                self.read_response()
            except ServerError as error:
                lower = str(error).lower()
                if lower.startswith("noauth") or (words[0] == "AUTH" and ("password" in lower or "auth" in lower)):
                    raise LoginError(str(error)) from None
                raise

    def disconnect(self) -> None:
        """Close it; who waits for an answer in another thread gets an error."""
        sock, self._sock = self._sock, None
        if sock is None:
            return
        if self._pid == os.getpid():  # else the connection is another process', and only the descriptor ours
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        with suppress(OSError):
            sock.close()

    def pack_command(self, *words: Any) -> Sequence[bytes]:
        return [pack_command(words)]

    def send_packed_command(self, command: Sequence[bytes], check_health: bool = True) -> None:
        """Send what ``pack_command`` has made. ``check_health`` is redis-py's; nothing is checked."""
        try:
            self._open().sendall(command[0] if len(command) == 1 else b"".join(command))
        except TimeoutError:
            raise TimeoutError("Timeout writing to socket") from None

    def read_response(self) -> Any:
        """Return the next answer; ServerError if it is an error."""
        gets = self._reader.gets
        answer = gets()
        while answer is _UNFINISHED:
            try:
                self._read(self._open())
            except TimeoutError:
                raise TimeoutError("Timeout reading from socket") from None
            answer = gets()
        if isinstance(answer, ServerError):
            raise answer
        return answer

    def can_read(self, timeout: float = 0) -> bool:
        """Say whether something has come, waiting for it up to ``timeout`` seconds."""
        if self._reader.has_data():
            return True
        sock = self._open()
        before_s = sock.gettimeout()
        sock.settimeout(timeout)
        try:
            self._read(sock)
        except (TimeoutError, BlockingIOError):
            return False
        finally:
            sock.settimeout(before_s)
        return True

    def _open(self) -> socket.socket:
        if self._sock is None:
            raise ConnectionError("Connection closed by server")
        return self._sock

    def _read(self, sock: socket.socket) -> None:
        """Give the reader what has come, at least a byte."""
        buffer = self._buffer
        length = sock.recv_into(buffer)
        if not length:
            raise ConnectionError("Connection closed by server")
        self._reader.feed(buffer, 0, length)  # type: ignore[arg-type]  # any buffer will do
        if length == len(buffer) < MOST_ROOM:
            self._buffer = bytearray(4 * length)
