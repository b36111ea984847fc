"""Datagrams between the processes that share a file: wakes for workers, results for producers, word of letters for ears.

**Address.** A socket's address is a hash of the store's identity and the receiver's name, so whoever knows the name can write to it
and no table of addresses is kept. Linux has names for that which vanish with their socket; elsewhere it is a file in a
directory that only this user may enter. Abstract names are listed for every local user in /proc/net/unix, so a datagram starts
with the receiver's own name, which only those who may read the database know: anything else is dropped unread.

**Loss.** Nothing depends on a datagram. Receiver gone, or its queue full (10 datagrams by default): the sender hears so, and
takes the next process, or notes the results in ``missed``. Sender killed between commit and datagram: ``renew`` wakes again what
did not come, and the waiter of a result reads it at its next slow poll.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import socket
import stat
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterable, Sequence

from fastq import _core
from fastq.exceptions import DecodeError, ImproperlyConfigured, OperationalError

__all__ = ["INLINE_BYTES", "Post", "Receiver", "decode_results"]

#: has an abstract namespace for sockets
LINUX: bool = sys.platform.startswith("linux")
#: bytes; a record up to this size rides in the datagram
INLINE_BYTES = 4096
#: bytes; of one datagram: well below the default socket buffer of Linux (208 KiB), enough for 500 small records
DATAGRAM_BYTES = 48 * 1024
#: bytes that a record costs beside itself and its id, at most
ENTRY_BYTES = 10
#: asked for by both ends; where the system allows less, larger datagrams are noted as missed
BUFFER_BYTES = 256 * 1024


def address_of(identity: str, name: str) -> str:
    """Return the socket address of a receiver."""
    digest = hashlib.sha256(f"{identity}\0{name}".encode("utf-8", "surrogatepass")).hexdigest()[:32]
    if LINUX:
        return f"\0fastq-{digest}"
    return os.path.join(_folder(), digest)


def _folder() -> str:
    """Return this user's directory for sockets: short (an address has at most 104 bytes), and closed to everyone else."""
    path = os.path.join(tempfile.gettempdir(), f"fastq-{os.getuid()}")
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    seen = os.lstat(path)
    if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.getuid() or seen.st_mode & 0o077:
        raise ImproperlyConfigured(f"{path} must be a directory that belongs to this user alone (mode 0700): remove it.")
    return path


def _datagram_socket() -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.setblocking(False)
    return made


class Post:
    """Sends; never blocks. For threads: one datagram is one call, so they need no lock."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()

    def wake(self, identity: str, process: str) -> bool:
        """Wake a worker process; False if nobody is there."""
        return self._send(identity, process, process.encode("utf-8", "surrogatepass"))

    def letter(self, identity: str, ear: str) -> bool:
        """Tell an ear that a letter lies in the file; False if nobody is there. A full queue tells it too: it is readable."""
        return self._send(identity, ear, ear.encode(), full=True)

    def results(self, identity: str, inbox: str, results: Sequence[tuple[str, bytes | None]]) -> list[str]:
        """Send results to an inbox, large ones by their id alone; return the ids that its full queue did not take. Nobody there
        is fine: whoever opens an inbox reads first."""
        lost: list[str] = []
        for part in _parts(results):
            if lost or not self._send(identity, inbox, _core.packb([inbox, part]), gone=True):
                lost += [id for id, _ in part]
        return lost

    def _send(self, identity: str, name: str, data: bytes, *, gone: bool = False, full: bool = False) -> bool:
        if self._socket is None:
            with self._lock:
                if self._socket is None:
                    self._socket = _datagram_socket()
                    with contextlib.suppress(OSError):
                        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        try:
            self._socket.sendto(data, address_of(identity, name))
        except (FileNotFoundError, ConnectionRefusedError):
            return gone
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS, errno.EMSGSIZE, errno.ENOMEM):
                return full
            raise OperationalError(f"A datagram to {name} could not be sent: {error}") from error
        return True

    def close(self) -> None:
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None


def _parts(results: Iterable[tuple[str, bytes | None]]) -> Iterable[list[tuple[str, bytes | None]]]:
    part: list[tuple[str, bytes | None]] = []
    size = 0
    for id, record in results:
        if record is not None and len(record) > INLINE_BYTES:
            record = None
        # An id is at most 255 bytes of UTF-8, but only ASCII ids are as long as they look.
        cost = (len(id) if id.isascii() else 4 * len(id)) + len(record or b"") + ENTRY_BYTES
        if part and size + cost > DATAGRAM_BYTES:
            yield part
            part, size = [], 0
        part.append((id, record))
        size += cost
    if part:
        yield part


def decode_results(data: bytes, inbox: str) -> list[tuple[str, bytes | None]]:
    """Read a datagram of results; [] if it is not meant for this inbox, or is none."""
    try:
        name, results = _core.unpackb(data)
        if name != inbox:
            return []
        return [(id, record) for id, record in results]
    except (DecodeError, TypeError, ValueError):
        return []


_receivers: weakref.WeakSet[Receiver] = weakref.WeakSet()


class Receiver:
    """A bound socket: one process' wake channel, or one producer's inbox."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._socket: socket.socket | None = None
        self._file = ""
        _receivers.add(self)

    @property
    def is_open(self) -> bool:
        return self._socket is not None

    def open(self, identity: str) -> None:
        """Take the address. Harmless when open already."""
        if self._socket is not None:
            return
        address = address_of(identity, self.name)
        made = _datagram_socket()
        try:
            with contextlib.suppress(OSError):
                made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
            made.bind(address)
        except OSError as error:
            made.close()
            raise OperationalError(f"The wake-up socket of {self.name} cannot be bound ({error}): is the name in use?") from error
        if not address.startswith("\0"):
            self._file = address
        self._socket = made

    def fileno(self) -> int:
        if self._socket is None:
            raise OperationalError(f"The socket of {self.name} is not open.")
        return self._socket.fileno()

    def receive(self) -> bytes | None:
        """Return one datagram, None if there is none. Never blocks."""
        if self._socket is None:
            raise OperationalError(f"The socket of {self.name} is not open.")
        try:
            return self._socket.recv(BUFFER_BYTES)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            raise OperationalError(f"The socket of {self.name} failed: {error}") from error

    def wait(self, timeout_s: float) -> None:
        """Wait until there is a datagram, or the time is up."""
        if self._socket is None:
            raise OperationalError(f"The socket of {self.name} is not open.")
        try:
            # A peek with a timeout, not select: it knows no limit of 1,024 descriptors, and greenlets switch in it.
            self._socket.settimeout(timeout_s)
            self._socket.recv(1, socket.MSG_PEEK)
        except (TimeoutError, BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            raise OperationalError(f"The socket of {self.name} failed: {error}") from error
        finally:
            if self._socket is not None:
                self._socket.setblocking(False)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            if self._file:
                with contextlib.suppress(OSError):
                    os.unlink(self._file)

    def forget(self) -> None:
        """Let go of a socket that belongs to the parent process: its address must vanish when the parent dies."""
        self._file = ""
        self.close()


def _after_fork_in_child() -> None:
    for receiver in list(_receivers):
        receiver.forget()


os.register_at_fork(after_in_child=_after_fork_in_child)
