"""The link between the supervisor and one of its children: JSON objects, one per line, over a socket pair.

Either side may die at any time; the other then reads the end of the file. Descriptors (a child's own link, the status board)
travel beside a message, for the nursery only.
"""

from __future__ import annotations

import json
import select
import socket
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["Link", "LinkError"]

#: bytes of one message at most: a hello names every task of the application, and an error carries a traceback
MAX_MESSAGE = 16 * 1024 * 1024
#: bytes of one read; also bounds what one ``receive`` of a flooding peer costs
CHUNK = 256 * 1024
#: descriptors beside one message at most
MAX_FDS = 4


class LinkError(Exception):
    """Say that the peer sent something that is no message, or takes nothing any more."""


class Link:
    """One end. Used by one thread; ``fileno`` is readable when a message or the end of the file is there.

    ``patience_s`` is how long ``send`` waits for a peer that does not read. 0 (the supervisor) never waits: what does not fit
    stays in the link until the next ``send`` or ``flush``. ``fds``: take descriptors in.
    """

    def __init__(self, sock: socket.socket, *, patience_s: float = 30.0, fds: bool = False) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._patience_s = patience_s
        self._take_fds = fds
        self._in = bytearray()
        self._out = bytearray()
        self._fds: deque[int] = deque()
        #: the peer has closed its end, or died
        self.closed = False
        #: is shown every message that ``receive`` returns, before it does
        self.heard: Callable[[dict[str, Any]], object] | None = None

    @classmethod
    def pair(cls, *, patience_s: float = 30.0, fds: bool = False) -> tuple[Link, socket.socket]:
        """Make the supervisor's end (it never waits) and the socket for the child, which wraps it itself."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        return cls(ours, patience_s=patience_s, fds=fds), theirs

    @classmethod
    def from_fd(cls, fd: int, *, patience_s: float = 30.0, fds: bool = False) -> Link:
        """Wrap a descriptor that was inherited or received; the link owns it."""
        return cls(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=fd), patience_s=patience_s, fds=fds)

    def fileno(self) -> int:
        return self._sock.fileno()

    # --- out ---

    @property
    def pending(self) -> int:
        """Bytes that the peer has not taken yet."""
        return len(self._out)

    def send(self, message: Mapping[str, Any], fds: Sequence[int] = ()) -> bool:
        """Send one message; False if the peer is gone. LinkError if it takes nothing for ``patience_s`` or far too much waits."""
        data = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        if len(data) + len(self._out) > MAX_MESSAGE:
            raise LinkError(f"{len(data) + len(self._out)} bytes wait for a peer that does not read, at most {MAX_MESSAGE} may")
        if fds and not self._send_with_fds(data, fds):
            return False
        if not fds:
            self._out += data
        return self._deliver()

    def interject(self, message: Mapping[str, Any]) -> bool:
        """Send one short message from any thread, at once or not at all; False if it did not go.

        It goes in one piece, and not into the middle of another: a child's own messages are shorter than what a socket takes.
        """
        try:
            self._sock.send(json.dumps(message, separators=(",", ":")).encode() + b"\n")
        except OSError:  # full, or the peer is gone: reading tells
            return False
        return True

    def flush(self) -> bool:
        """Send what is left, without waiting; False if the peer is gone."""
        while self._out and not self.closed:
            try:
                sent = self._sock.send(self._out)
            except BlockingIOError:
                break
            except OSError:  # EPIPE, ECONNRESET: the peer is gone, reading tells
                self.closed = True
                break
            del self._out[:sent]
        if self.closed:
            self._out.clear()
        return not self.closed

    def _deliver(self) -> bool:
        while self.flush() and self._out and self._patience_s > 0:
            if not select.select([], [self._sock], [], self._patience_s)[1]:
                raise LinkError(f"the peer has not read for {self._patience_s:g} s")
        return not self.closed

    def _send_with_fds(self, data: bytes, fds: Sequence[int]) -> bool:
        """Send the first byte with the descriptors beside it, once everything before has gone; the rest is then plain."""
        while self._out and self.flush():
            select.select([], [self._sock], [])
        while not self.closed:
            try:
                sent = socket.send_fds(self._sock, [data], list(fds))
            except BlockingIOError:
                select.select([], [self._sock], [])
            except OSError:
                self.closed = True
            else:
                self._out += data[sent:]
                return True
        return False

    # --- in ---

    def receive(self) -> list[dict[str, Any]]:
        """Return the complete messages that have come, without waiting; then look at ``closed``."""
        while not self.closed:
            try:
                data = self._read()
            except BlockingIOError:
                break
            except OSError:  # ECONNRESET: the peer died with unread bytes
                data = b""
            if not data:
                self.closed = True
                break
            self._in += data
            if len(data) < CHUNK:
                break
        if b"\n" not in self._in:
            if len(self._in) > MAX_MESSAGE:
                raise LinkError(f"a message of more than {MAX_MESSAGE} bytes")
            return []
        *lines, rest = self._in.split(b"\n")
        self._in = bytearray(rest)
        messages = [self._decode(line) for line in lines]
        if self.heard is not None:
            for message in messages:
                self.heard(message)
        return messages

    def receive_one(self) -> dict[str, Any] | None:
        """Wait for one message and leave what comes behind it in the socket, so that ``fileno`` tells of it; None at the end of
        the file. For the talk at the beginning, before there is a loop that selects."""
        while not self.closed:
            select.select([self._sock], [], [])
            end = 0
            try:
                end = self._sock.recv(CHUNK, socket.MSG_PEEK).find(b"\n") + 1
                data = self._sock.recv(end or CHUNK)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            self.closed = not data
            self._in += data
            if end:
                line, self._in = self._in[:-1], bytearray()
                return self._decode(line)
        return None

    def wait(self, timeout_s: float | None) -> list[dict[str, Any]]:
        """Wait for at least one message; [] after the timeout or at the end of the file."""
        while True:
            messages = self.receive()
            if messages or self.closed:
                return messages
            if not select.select([self._sock], [], [], timeout_s)[0]:
                return []

    def take_fds(self, n: int) -> list[int]:
        """Return the next ``n`` descriptors received; the caller owns them. LinkError if there are fewer."""
        if len(self._fds) < n:
            raise LinkError(f"{n} descriptors announced, {len(self._fds)} received")
        return [self._fds.popleft() for _ in range(n)]

    def _read(self) -> bytes:
        if not self._take_fds:
            return self._sock.recv(CHUNK)
        data, fds, _, _ = socket.recv_fds(self._sock, CHUNK, MAX_FDS)
        self._fds.extend(fds)
        return data

    @staticmethod
    def _decode(line: bytearray) -> dict[str, Any]:
        try:
            message = json.loads(bytes(line))
        except ValueError as exc:
            raise LinkError(f"not a message: {bytes(line[:80])!r}") from exc
        if not isinstance(message, dict):
            raise LinkError(f"not an object: {bytes(line[:80])!r}")
        return message

    def close(self) -> None:
        self.closed = True
        self._sock.close()
