"""Parts for the Redis tests: messages, settlements, a proxy that loses replies."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterable

from fastq import _core as core
from fastq.records import DONE, Fetch, Fetched, Publication, Settlement

CONTENT = "application/x-msgpack"
LEASE_MS = 15_000


def message(task_id: str, body: bytes = b"", inbox: str | None = None) -> bytes:
    return core.encode(task_id, "tests.task", CONTENT, body or core.encode_call((), {}), 1, None, 0, inbox, None)


def publication(task_id: str, **options: object) -> Publication:
    return Publication("default", message(task_id), **options)  # type: ignore[arg-type]


def asked(number: int, n: int = 100, process: str = "p1", queues: tuple[str, ...] = ("default",), **options: bool) -> Fetch:
    return Fetch(process, number, queues, n, **options)


def ids(fetched: Fetched) -> list[str]:
    return [core.task_id(item) for leased in fetched.leased for item in leased.messages]


def record(value: bytes = b"\x01", state: str = "SUCCESS") -> bytes:
    return core.encode_result(state, CONTENT, value, None, 1, None)


def done(fetched: Fetched, inbox: str = "") -> list[Settlement]:
    return [
        Settlement(leased.queue, tag, core.task_id(item), DONE, result=record(), inbox=inbox)
        for leased in fetched.leased
        for tag, item in zip(leased.tags, leased.messages, strict=True)
    ]


def commands_of(client: object) -> int:
    """Return how many commands the server has run since CONFIG RESETSTAT, those inside scripts included."""
    stats = client.info("commandstats")  # type: ignore[attr-defined]
    return sum(entry["calls"] for entry in stats.values())


class LossyProxy:
    """A TCP proxy that passes requests on and, when told, cuts the connection in place of the reply."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.url = f"redis://127.0.0.1:{self.port}/0"
        #: replies still to be lost
        self.lose = 0
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []
        self._start(self._accept)

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._to))
            self._sockets += [client, server]
            self._start(self._pass, client, server, False)
            self._start(self._pass, server, client, True)

    def _pass(self, source: socket.socket, target: socket.socket, replies: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if replies and self.lose:
                    self.lose -= 1
                    break
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        # shutdown wakes the thread that waits in accept
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for end in self._sockets:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in list(self._threads):
            thread.join(10)
        for end in self._sockets:
            end.close()


def every_key(names: Iterable[bytes]) -> list[str]:
    return sorted(name.decode() for name in names)
