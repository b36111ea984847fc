"""The asyncio pool in a thread other than the main one."""

from __future__ import annotations

import threading
from collections.abc import Callable

from fastq.pools.aio import AsyncioPool
from fastq.pools.alarms import ThreadAlarms, raise_in
from fastq.pools.base import Alarm, TaskCancelled, TaskKilled

__all__ = ["Aio"]


class Aio(AsyncioPool):
    """Slots as asyncio tasks on a loop in the thread that calls ``main``."""

    def __init__(self, slots: int) -> None:
        super().__init__(slots)
        self._thread_alarms = ThreadAlarms(lambda ident, error: False)
        self._ident = 0

    def main(self, consume: Callable[[], None]) -> None:
        self._ident = threading.get_ident()
        try:
            super().main(consume)
        finally:
            self._thread_alarms.close()

    def alarm(self, after_s: float, error: type[BaseException], *, hard: bool, awaited: bool) -> Alarm:
        """Raise it in the coroutine where it waits; in a plain function where it next runs Python code."""
        if awaited:
            return super().alarm(after_s, error, hard=hard, awaited=True)
        return self._thread_alarms.set(after_s, error, hard=hard)

    def cancel(self, task_id: str, *, hard: bool, alone: bool = False) -> bool:
        """Cancel a coroutine; interrupt a plain function, which blocks the loop, in its thread. Used at the end only."""
        running = next((batch for batch, _ in list(self._running.values()) if any(d.id == task_id for d in batch)), None)
        if running is None:
            return False
        if any(d.entry is not None and d.entry.is_async for d in running):
            return super().cancel(task_id, hard=hard, alone=alone)
        raise_in(self._ident, TaskKilled if hard else TaskCancelled)
        return True
