"""Take results as they come, and call back meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastq.result import AsyncResult, Meta
    from fastq.store import ResultStore

__all__ = ["arrivals"]


def arrivals(
    results: Sequence[AsyncResult[Any]],
    timeout_s: float | None,
    interval_s: float = 0.5,
    on_interval: Callable[[], object] | None = None,
    on_message: Callable[[dict[str, Any]], object] | None = None,
) -> Iterator[AsyncResult[Any]]:
    """Yield each result when it has come, those that are there first; ends early when the time is over.

    ``on_interval()`` is called about every ``interval_s`` seconds; ``on_message(meta)`` when another state is seen then, and for
    each result that comes.
    """
    news = _News(on_message) if on_message is not None else None
    pending: list[AsyncResult[Any]] = []
    for result in results:
        if result.arrived():
            if news is not None:
                news.tell(result)
            yield result
        else:
            pending.append(result)
    if not pending:
        return
    store = pending[0].backend
    stepped = on_interval is not None or news is not None
    next_s = time.monotonic() + interval_s
    for came in store.waiter.arrivals(pending, timeout_s, interval_s if stepped else None):
        for result in came:
            if news is not None:
                news.tell(result)
            yield result
        if stepped and time.monotonic() >= next_s:
            if news is not None:
                news.look(store, pending)
            if on_interval is not None:
                on_interval()
            next_s = time.monotonic() + interval_s


class _News:
    """What has been told of which result."""

    def __init__(self, on_message: Callable[[dict[str, Any]], object]) -> None:
        self._on_message = on_message
        self._told: dict[int, Meta] = {}

    def look(self, store: ResultStore, results: Sequence[AsyncResult[Any]]) -> None:
        """Read the states that are not final, and tell those that are new."""
        unsettled = [result for result in results if not result.arrived()]
        records = store.records([result.id for result in unsettled])
        for result, record in zip(unsettled, records, strict=True):
            # a final one is told when the waiter has taken it
            if record is not None and not result.deliver(record):
                self.tell(result)

    def tell(self, result: AsyncResult[Any]) -> None:
        meta = result._meta
        if meta is not None and self._told.get(id(result)) != meta:
            self._told[id(result)] = meta
            self._on_message(result.known_meta())
