"""Where a node answers for its health: at ``worker_http``, and always at a socket of its host that ``fastq health`` finds.

That socket is an abstract one on Linux, named by user, pid and node: it needs no file, so nothing is left behind by a killed
node, and two nodes of one name do not get into each other's way. Elsewhere it is a file in the directory for temporary files, named
likewise; what killed nodes left of these is removed by the next node. Only the user whose node it is, and root, are answered.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fastq.worker.http.address import BACKLOG, Address

if TYPE_CHECKING:
    from fastq.worker.http.pages import Pages
    from fastq.worker.http.server import Server
    from fastq.worker.node import Node

__all__ = ["Door", "Doors", "doors_here"]

logger = logging.getLogger("fastq.worker.http")

#: sockets need no files here
ABSTRACT = sys.platform == "linux"
#: characters of a node's name that fit the name of a socket beside user and pid
NAME_MAX = 60
#: bytes of a socket's path that every system takes
PATH_MAX = 100
#: how /proc/net/unix shows a socket that listens (__SO_ACCEPTCON)
_LISTENS = "00010000"


class Door(NamedTuple):
    """The local socket of one node."""

    pid: int
    #: of a door that was found: as far as it fits a socket's name
    node: str
    uid: int

    @property
    def name(self) -> str:
        """Return the socket's address, as Python takes it. Long names of nodes are cut."""
        node = self.node.replace("/", "_")[:NAME_MAX]
        if ABSTRACT:
            return f"\0fastq/{self.uid}/{self.pid}/{node}"
        return str(_directory(self.uid) / f"{self.pid}.{node}")[:PATH_MAX]

    def is_of(self, node: str) -> bool:
        """Say whether it belongs to the node of that name."""
        return self._replace(node=node).name == self.name

    def listen(self) -> socket.socket:
        """Return its listening socket, that does not block."""
        if not ABSTRACT:
            _directory(self.uid).mkdir(mode=0o700, exist_ok=True)
            for left in doors_here(self.uid):
                if not _is_alive(left.pid):
                    left.leave()
        server = socket.socket(socket.AF_UNIX)
        try:
            server.bind(self.name)
            server.listen(BACKLOG)
            server.setblocking(False)
        except BaseException:
            server.close()
            raise
        return server

    def connect(self, timeout_s: float) -> socket.socket | None:
        """Return a connection to its node; None if that is gone, or belongs to another container or user than it says."""
        client = socket.socket(socket.AF_UNIX)
        try:
            client.settimeout(timeout_s)
            client.connect(self.name)
            pid, uid = _peer(client, self)
            if pid == self.pid and uid == self.uid:
                return client
        except (ConnectionRefusedError, FileNotFoundError):
            pass
        except BaseException:
            client.close()
            raise
        client.close()
        return None

    def leave(self) -> None:
        """Remove what it leaves in the file system."""
        if not ABSTRACT:
            with suppress(OSError):
                os.unlink(self.name)


def doors_here(uid: int | None = None) -> list[Door]:
    """Return the doors of the nodes of this host and network namespace: of one user, or of all (None)."""
    found = _abstract() if ABSTRACT else _files(os.getuid() if uid is None else uid)
    return [door for door in found if uid in (None, door.uid)]


def _abstract() -> list[Door]:
    doors = []
    with open("/proc/net/unix", errors="replace") as table:
        for line in table:
            # num, references, protocol, flags, type, state, inode, path
            fields = line.split(maxsplit=7)
            if len(fields) < 8 or fields[3] != _LISTENS or not fields[7].startswith("@fastq/"):
                continue
            _, uid, pid, node = (*fields[7].rstrip("\n").split("/", 3), "", "", "")[:4]
            if uid.isdigit() and pid.isdigit():
                doors.append(Door(int(pid), node, int(uid)))
    return sorted(doors)


def _files(uid: int) -> list[Door]:
    names = [path.name.partition(".") for path in _directory(uid).glob("*.*")]
    return sorted(Door(int(pid), node, uid) for pid, _, node in names if pid.isdigit())


def _directory(uid: int) -> Path:
    return Path(os.environ.get("TMPDIR") or "/tmp", f"fastq-{uid}")


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _peer(client: socket.socket, otherwise: Door) -> tuple[int, int]:
    """Return pid (0: of another container) and user of the other side; where the system does not say, files keep others out."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return otherwise.pid, otherwise.uid
    size = struct.calcsize("3i")
    pid, uid, _ = struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, option, size))
    return pid, uid


class Doors:
    """All places where one node answers. In its loop."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._door = Door(os.getpid(), node.name, os.getuid())
        self._address: Address | None = None
        self._servers: list[Server] = []

    def open(self) -> None:
        """Begin to answer; ImproperlyConfigured if that is impossible at ``worker_http``."""
        # lazy: what a node of a test does not need
        from fastq.worker.http.pages import Pages

        pages = Pages(self._node)
        if self._node.hello.http:
            address = Address.parse(self._node.hello.http)
            self._serve(address.listen(), pages, lambda client: True)
            self._address = address
            logger.info("Health and metrics are served at %s", address)
            pages.check_metrics()
        try:
            self._serve(self._door.listen(), pages, self._admit)
        except OSError as exc:  # tasks must run all the same
            logger.warning("fastq health will not find this node: its local socket cannot be made (%s)", exc)

    def _serve(self, listening: socket.socket, pages: Pages, admit: object) -> None:
        # lazy: as above
        from fastq.worker.http.server import Server

        self._servers.append(Server(self._node.loop, listening, pages.answer, admit))  # type: ignore[arg-type]

    def _admit(self, client: socket.socket) -> bool:
        return _peer(client, self._door)[1] in (self._door.uid, 0)

    def close(self) -> None:
        """End; harmless if it never began."""
        servers, self._servers = self._servers, []
        for server in servers:
            server.close()
        if servers:
            self._door.leave()
        if self._address is not None:
            self._address.leave()
