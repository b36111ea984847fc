"""What a worker process has leased and not settled."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from typing import cast

from fastq.records import Delivery, Settlement

__all__ = ["Held"]


class Held:
    """Deliveries by queue and tag, in the order they were leased.

    By queue too: tags are unique only within one, so a fetch from two queues brings the same tag twice.
    """

    def __init__(self, queues: Sequence[str]) -> None:
        self._queues: dict[str, dict[str, Delivery]] = {queue: {} for queue in queues}

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def __iter__(self) -> Iterator[Delivery]:
        for deliveries in self._queues.values():
            yield from deliveries.values()

    def __contains__(self, d: object) -> bool:
        delivery = cast(Delivery, d)
        return self._queues[delivery.queue].get(delivery.tag) is d

    def know(self, queue: str) -> None:
        """Expect deliveries of one more queue."""
        self._queues.setdefault(queue, {})

    def get(self, queue: str, tag: str) -> Delivery | None:
        return self._queues[queue].get(tag)

    def tags(self, queue: str) -> Container[str]:
        return self._queues[queue].keys()

    def add(self, queue: str, tags: Sequence[str], batch: Sequence[Delivery]) -> None:
        self._queues[queue].update(zip(tags, batch, strict=True))

    def drop(self, deliveries: Sequence[Delivery]) -> None:
        for d in deliveries:
            self._queues[d.queue].pop(d.tag, None)

    def settled(self, settlements: Sequence[Settlement]) -> None:
        """Forget what is settled."""
        queues = self._queues
        for s in settlements:
            queues[s.queue].pop(s.tag, None)

    def clear(self) -> None:
        for deliveries in self._queues.values():
            deliveries.clear()
