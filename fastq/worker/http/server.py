"""A small HTTP server on the loop of a node: GET and HEAD, one request a connection, nothing that blocks or grows.

What a client does slowly, or sends too much of, ends its connection; when there are too many the oldest makes room, so a probe gets
its answer whatever others do. Requests are read here by hand: the standard library's parser brings the email package,
2 MB for every supervisor that is ever probed, and of a request only its first line and one header are of use.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from fastq.worker.loop import Loop, Timer

__all__ = ["Request", "Response", "Server"]

logger = logging.getLogger("fastq.worker.http")

#: bytes of a request, headers included
REQUEST_MAX = 8 * 1024
#: connections at once
CONNECTIONS_MAX = 32
#: connections taken in before the loop does something else
ACCEPTS_MAX = 16
#: seconds that a client has for its request, and for taking the answer
REQUEST_S, ANSWER_S = 5.0, 10.0
#: seconds that a client has to close after its answer: closing first, with unread bytes of its, would take the answer away from it
CLOSE_S = 1.0
#: seconds without new connections, when the process has no descriptor left
PAUSE_S = 1.0

_REASONS = {
    200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 431: "Request Header Fields Too Large",
    500: "Internal Server Error", 501: "Not Implemented", 503: "Service Unavailable", 505: "HTTP Version Not Supported",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for."""

    method: str
    path: str
    #: the header Accept, "" if there was none
    accept: str = ""


@dataclass(frozen=True, slots=True)
class Response:
    """What is answered."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"

    def to_bytes(self, *, head: bool = False) -> bytes:
        """Write the response; ``head``: without its body."""
        allow = "Allow: GET, HEAD\r\n" if self.status == 405 else ""
        start = (
            f"HTTP/1.1 {self.status} {_REASONS[self.status]}\r\nContent-Type: {self.content_type}\r\n"
            f"Content-Length: {len(self.body)}\r\nCache-Control: no-store\r\n{allow}Connection: close\r\n\r\n"
        )
        return start.encode("latin-1") + (b"" if head else self.body)


class _Refused(Exception):
    """A request that is answered with an error: status and text."""


def read_request(data: bytes) -> Request:
    """Read a request's head. What is wrong raises _Refused."""
    first, *lines = data.decode("latin-1").splitlines()
    words = first.split(" ")
    if len(words) != 3 or not words[0].isalpha() or not words[2].startswith("HTTP/"):
        raise _Refused(400, "this is no HTTP request\n")
    method, target, version = words
    if not version.startswith("HTTP/1."):
        raise _Refused(505, "HTTP/1.0 and HTTP/1.1 are spoken here\n")
    if method not in ("GET", "HEAD"):
        raise _Refused(405, f"{method} changes nothing here: GET and HEAD\n")
    if "://" in target:
        target = "/" + target.partition("://")[2].partition("/")[2]
    accept = ", ".join(line.partition(":")[2].strip() for line in lines if line[:7].lower() == "accept:")
    return Request(method, target.partition("?")[0], accept)


class Server:
    """Answer at one listening socket."""

    def __init__(
        self,
        loop: Loop,
        listening: socket.socket,
        answer: Callable[[Request], Response],
        admit: Callable[[socket.socket], bool] = lambda client: True,
    ) -> None:
        """``answer`` is called in the loop and must not wait; ``admit`` says who is answered at all."""
        self._loop = loop
        self._listening = listening
        self._answer = answer
        self._admit = admit
        #: the oldest first
        self._connections: dict[int, _Connection] = {}
        self._pause: Timer | None = None
        loop.watch(listening.fileno(), self._accept)

    def __len__(self) -> int:
        return len(self._connections)

    def _accept(self) -> None:
        for _ in range(ACCEPTS_MAX):
            try:
                client, _address = self._listening.accept()
            except BlockingIOError:
                return
            except OSError as exc:
                if exc.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    # it stays readable: without a pause the loop would turn and turn
                    self._loop.unwatch(self._listening.fileno())
                    self._pause = self._loop.after(PAUSE_S, self._resume)
                    return
                continue  # who wanted to connect has gone away
            client.setblocking(False)
            if not self._admit(client):
                client.close()
                continue
            if len(self._connections) >= CONNECTIONS_MAX:
                next(iter(self._connections.values())).close()
            number = client.fileno()
            self._connections[number] = _Connection(self._loop, client, self._respond, partial(self._forget, number))

    def _resume(self) -> None:
        self._pause = None
        self._loop.watch(self._listening.fileno(), self._accept)

    def _forget(self, number: int) -> None:
        self._connections.pop(number, None)

    def _respond(self, data: bytes) -> bytes:
        head = False
        try:
            request = read_request(data)
            head = request.method == "HEAD"
            response = self._answer(request)
        except _Refused as refused:
            status, text = refused.args
            response = Response(status, text.encode())
        except Exception:  # the supervisor must live
            logger.exception("A request for health or metrics could not be answered")
            response = Response(500, b"the worker's log says what went wrong\n")
        return response.to_bytes(head=head)

    def close(self) -> None:
        """Stop listening, and drop every connection."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.unwatch(self._listening.fileno())
        self._listening.close()
        for connection in list(self._connections.values()):
            connection.close()


class _Connection:
    """One client: its request is read, answered, and then it is let go."""

    __slots__ = ("_client", "_data", "_forget", "_left", "_loop", "_respond", "_timer")

    def __init__(self, loop: Loop, client: socket.socket, respond: Callable[[bytes], bytes], forget: Callable[[], object]) -> None:
        self._loop = loop
        self._client = client
        self._respond = respond
        self._forget = forget
        self._data = b""
        self._left = memoryview(b"")
        self._timer = loop.after(REQUEST_S, self.close)
        loop.watch(client.fileno(), self._read)

    def _next(self, within_s: float) -> None:
        self._timer.cancel()
        self._timer = self._loop.after(within_s, self.close)

    def _read(self) -> None:
        try:
            more = self._client.recv(REQUEST_MAX)
        except BlockingIOError:
            return
        except OSError:
            more = b""
        if not more:
            self.close()
            return
        self._data += more
        end = min((at for mark in (b"\r\n\r\n", b"\n\n") if (at := self._data.find(mark)) >= 0), default=-1)
        if 0 <= end <= REQUEST_MAX:
            self._send(self._respond(self._data[:end] + b"\n"))
        elif len(self._data) > REQUEST_MAX:
            self._send(Response(431, b"the request is too long\n").to_bytes())

    def _send(self, data: bytes) -> None:
        self._data = b""
        self._left = memoryview(data)
        self._next(ANSWER_S)
        self._write()

    def _write(self) -> None:
        try:
            self._left = self._left[self._client.send(self._left) :]
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        if self._left:
            self._loop.watch(self._client.fileno(), self._write, writing=True)
            return
        self._next(CLOSE_S)
        self._loop.watch(self._client.fileno(), self._drain)
        try:
            self._client.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()

    def _drain(self) -> None:
        """Read what is still coming, until the client closes."""
        try:
            if self._client.recv(REQUEST_MAX):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self.close()

    def close(self) -> None:
        self._timer.cancel()
        self._loop.unwatch(self._client.fileno())
        self._client.close()
        self._forget()
