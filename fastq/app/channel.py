"""What ``app.connection().channel()`` returns: programs beside Celery ask it how long queues are. It carries no messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from fastq._core import unpackb
from fastq.exceptions import DecodeError
from fastq.transports import open_channel, open_inspector

if TYPE_CHECKING:
    from fastq.app.application import FastQ
    from fastq.transports.base import Inspector

__all__ = ["Channel", "Declared"]

#: what to use instead of what a channel of kombu does
_ADVICE = {
    "basic_publish": "app.send_task() sends tasks",
    "basic_get": "workers fetch tasks; fastq list queues and fastq dead look at what waits",
    "basic_consume": "workers fetch tasks; app.events.Receiver hears events",
    "queue_bind": "routes say which queue a task goes to: docs/routing.md",
    "queue_delete": "a queue is there as long as something is in it; queue_purge() empties it",
    "exchange_declare": "exchanges are only words of task_queues: docs/routing.md",
}


class Declared(NamedTuple):
    """What a queue is like, as AMQP answers ``queue.declare``."""

    queue: str
    #: those that are ready; delayed ones and those that run are not among them, as in Celery
    message_count: int
    #: live nodes that take from it
    consumer_count: int


class Channel:
    """Look at queues. It opens one connection at its first use, and is used by one thread."""

    def __init__(self, app: FastQ, url: str) -> None:
        self._app = app
        self._url = url
        self._opened: Inspector | None = None
        self.client = Client(self)

    def queue_declare(self, queue: str, passive: bool = False, **options: Any) -> Declared:
        """Return how many messages wait in a queue and how many nodes take from it. Nothing is declared: a queue needs none."""
        return Declared(queue, self.ready(queue), self._consumers(queue))

    def queue_purge(self, queue: str, **options: Any) -> int:
        """Drop the ready and delayed messages of a queue; return how many."""
        return self._inspector.purge(queue)

    def ready(self, queue: str) -> int:
        """Return how many messages are ready in a queue."""
        return self._inspector.depth(queue)["ready"]

    def _consumers(self, queue: str) -> int:
        asked = open_channel(self._url, self._app.transport_options())
        try:
            records = asked.nodes().values()
        finally:
            asked.close()
        count = 0
        for record in records:
            try:
                count += queue in unpackb(record.info)["queues"]
            except (DecodeError, TypeError, KeyError):
                continue  # of a version that writes otherwise
        return count

    #: as transports of kombu call it
    _size = ready

    @property
    def _inspector(self) -> Inspector:
        if self._opened is None:
            self._opened = open_inspector(self._url, self._app.transport_options())
        return self._opened

    def close(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.close()

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        advice = _ADVICE.get(name, "it looks at queues: queue_declare(), queue_purge(), client.llen()")
        raise AttributeError(f"a channel of fastq carries no messages, so it has no {name}: {advice}")


class Client:
    """What stands where kombu has a client of Redis: the length of a queue, and nothing that would need to know the keys."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def llen(self, name: str) -> int:
        """Return how many messages are ready in a queue, over all priorities; on every broker."""
        return self._channel.ready(name)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"channel.client of fastq is no client of Redis and has no {name}, only llen(queue): make one with redis-py from "
            "app.connection().as_uri(include_password=True); docs/keys.md describes the keys"
        )
