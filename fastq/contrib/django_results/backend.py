"""Keep results in Django's database."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import TypeVar

from fastq.contrib.django_results.database import Database
from fastq.contrib.django_results.inbox import SilentInbox
from fastq.records import Joined, StoredResult
from fastq.transports.base import Broker, TransportOptions

__all__ = ["DjangoBackend"]

#: ids in one query: below the parameters that any database takes
BATCH = 500
#: seconds between deletions of what has expired, by one process, and rows deleted each time
SWEEP_S, SWEEP_ROWS = 60.0, 1_000

T = TypeVar("T")


class DjangoBackend:
    """``Backend`` on the rows of ``models.py``, through Django's ORM. It tells no inbox: who waits looks for the rows.

    What is stored while a transaction is open, such as the progress that a task reports, is seen when that commits.
    """

    #: nothing comes to an inbox: the waiter looks, more and more rarely, up to twice a second
    tells = False

    def __init__(self, url: str, alias: str, options: TransportOptions) -> None:
        self.url = url
        self._expires_s = options.result_expires_s
        self._database = Database(alias, str(options.extra.get("settings_module") or ""))
        self._sweep_at = 0.0
        self._sweeping = threading.Lock()

    def shares(self, broker: Broker) -> bool:
        return False

    def store(self, results: Sequence[StoredResult], *, final: bool = True) -> None:
        # of two records with one id the later one is meant, and one statement takes each id once
        latest = {result.id: result.record for result in results}
        if not latest:
            return
        rows = self._rows()
        for part in _parts(list(latest.items())):
            self._database.ask(lambda alias, part=part: rows.write(alias, part, self._expires_s, final=final))  # type: ignore[misc]
        if final:
            self._sweep()

    def get(self, ids: Sequence[str]) -> list[bytes | None]:
        rows = self._rows()
        found: dict[str, bytes] = {}
        for part in _parts(ids):
            found |= self._database.ask(lambda alias, part=part: rows.read(alias, part))  # type: ignore[misc]
        return [found.get(id) for id in ids]

    def forget(self, ids: Sequence[str]) -> None:
        rows = self._rows()
        for part in _parts(ids):
            self._database.ask(lambda alias, part=part: rows.delete(alias, part))  # type: ignore[misc]

    def joined(self, queue: str, join: str) -> Joined | None:
        """Return None: joins are kept by the broker."""
        return None

    def inbox(self, name: str) -> SilentInbox:
        return SilentInbox()

    def _rows(self) -> ModuleType:
        """Return the module that knows the models, which can be imported only once Django is set up."""
        self._database.prepare()
        # lazy: see above
        from fastq.contrib.django_results import rows

        return rows

    def _sweep(self) -> None:
        """Delete some of what has expired, now and then."""
        now = time.monotonic()
        if now < self._sweep_at or not self._sweeping.acquire(blocking=False):
            return
        try:
            self._sweep_at = now + SWEEP_S
            rows = self._rows()
            self._database.ask(lambda alias: rows.sweep(alias, SWEEP_ROWS))
        finally:
            self._sweeping.release()

    def close(self) -> None:
        self._database.close()


def _parts(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]
