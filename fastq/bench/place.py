"""Where tasks wait while they are measured: a broker, and how it is filled and emptied."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from typing import Any, Protocol

from fastq import FastQ
from fastq.bench.tasks import Bench, build
from fastq.transports import open_backend, open_inspector
from fastq.transports.sqlite.inspector import SQLiteInspector

__all__ = ["CHUNK", "Args", "BorrowedPlace", "Place", "own_producer", "sample", "send"]

#: calls in one ``delay_many`` while a queue is filled: bounds the memory of a producer
CHUNK = 20_000

Args = tuple[float, ...]


class Place(Protocol):
    """A broker for measurements. ``fill`` and ``pending`` are called by the measuring process only."""

    broker_url: str
    backend_url: str | None
    #: settings of the applications on both sides
    conf: Mapping[str, Any]
    queue: str
    #: ids of some of the tasks that the place was last filled with
    sample: Sequence[str]

    def producer(self) -> AbstractContextManager[Bench]:
        """Give an application that sends to this place."""
        ...

    def fill(self, task: str, args: Sequence[Args]) -> None:
        """Let the queue hold exactly these tasks, and nothing of an earlier measurement be left."""
        ...

    def pending(self) -> int:
        """Return how many tasks the broker still holds: ready, delayed or leased."""
        ...

    def cpu_s(self) -> float | None:
        """Return the CPU seconds the broker itself has used since ``fill``, where they are known."""
        ...


@contextmanager
def own_producer(place: Place) -> Iterator[Bench]:
    """Make an application that sends to a place, and close it afterwards."""
    bench = build(place.broker_url, place.backend_url, place.conf)
    try:
        yield bench
    finally:
        bench.app.close()


def send(bench: Bench, task: str, args: Iterable[Args], queue: str) -> list[str]:
    """Send one task per argument tuple, in few calls; return their ids."""
    ids: list[str] = []
    left = iter(args)
    while chunk := list(islice(left, CHUNK)):
        ids += [result.id for result in bench.tasks[task].delay_many(chunk, queue=queue)]
    return ids


def sample(ids: Sequence[str], n: int = 100) -> list[str]:
    """Return about ``n`` of the ids, evenly spread, the last one among them."""
    return list(ids[:: -max(1, len(ids) // n)])


class BorrowedPlace:
    """A user's own broker: a queue with a name that nobody has, and no trace of it afterwards.

    It cannot have a server of its own, so unlike private places it keeps the ids of what it sent, to forget their results, and has
    one producer for all (each leaves a key with its last call's number on Redis, which expires by itself).
    """

    def __init__(self, app: FastQ) -> None:
        self.queue = f"fastq-bench-{secrets.token_hex(4)}"
        self.broker_url: str = _absolute(app.broker_url)
        backend: str = _absolute(app.backend_url)
        self.backend_url = None if backend.startswith("disabled") else backend
        self.conf: Mapping[str, Any] = {"key_prefix": app.conf.key_prefix, "result_expires": 600}
        self._options = app.transport_options()
        self._inspector = open_inspector(self.broker_url, self._options)
        self._ids: list[str] = []
        self._bench = build(self.broker_url, self.backend_url, self.conf)
        self.sample: Sequence[str] = ()

    @contextmanager
    def producer(self) -> Iterator[Bench]:
        yield self._bench

    def fill(self, task: str, args: Sequence[Args]) -> None:
        self.empty()
        ids = send(self._bench, task, args, self.queue)
        self._ids += ids
        self.sample = sample(ids)

    def sent(self, ids: Iterable[str]) -> None:
        """Remember tasks that were sent by other means."""
        self._ids += ids

    def pending(self) -> int:
        depth = self._inspector.depth(self.queue)
        return depth["ready"] + depth["delayed"] + depth["leased"]

    def cpu_s(self) -> float | None:
        return None

    def empty(self) -> None:
        """Drop the messages, dead letters and results of every measurement so far."""
        self._inspector.purge(self.queue)
        while dead := self._inspector.dead(self.queue, limit=1_000):
            self._inspector.delete_dead(self.queue, [letter.key for letter in dead])
        if self.backend_url is not None and self._ids:
            backend = open_backend(self.backend_url, self._options)
            try:
                for at in range(0, len(self._ids), 1_000):
                    backend.forget(self._ids[at : at + 1_000])
            finally:
                backend.close()
        self._ids.clear()

    def close(self) -> None:
        producer = self._bench.app.producer.name
        self._bench.app.close()
        self.empty()
        if isinstance(self._inspector, SQLiteInspector):
            # where nothing expires by itself
            self._inspector.erase(self.queue, producer)
        self._inspector.close()


def _absolute(url: str) -> str:
    """Return a SQLite URL with an absolute path: the workers have a working directory of their own."""
    scheme, mark, rest = url.partition(":///")
    if scheme != "sqlite" or not mark or rest.startswith("/"):
        return url
    return f"sqlite:////{os.path.abspath(rest).lstrip('/')}"
