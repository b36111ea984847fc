"""Pools that run in a thread other than the main one, where no signal can interrupt a task."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from fastq.exceptions import ImproperlyConfigured
from fastq.pools import canonical_name, make_pool, needs_patching
from fastq.pools.alarms import ThreadAlarms, raise_in
from fastq.pools.base import TaskCancelled, TaskKilled
from fastq.pools.solo import SoloPool
from fastq.pools.threads import ThreadsPool

if TYPE_CHECKING:
    from fastq._core import Delivery
    from fastq.pools.base import Alarm, Pool, SlotRunner

__all__ = ["make"]

#: seconds for which slots that have been told to end are waited for
END_S = 5.0


def make(name: str, slots: int, *, here: bool = False) -> Pool:
    """Return a pool whose ``main`` may be called in any thread; ImproperlyConfigured for one that a test process cannot have.

    ``here``: it will be the calling one; in the main thread tasks can then be interrupted by signals, as in a worker of its own.
    """
    canonical = canonical_name(name)
    if canonical == "prefork":
        raise ImproperlyConfigured(
            "the prefork pool is made of forked processes, and a fork of a test process would copy its threads' locks: "
            "use pool='solo' or 'threads' here, or run `fastq worker --pool=prefork` beside the tests"
        )
    if slots < 1:
        raise ImproperlyConfigured(f"concurrency={slots}: expected 1 or more")
    if canonical == "solo":
        return SoloPool() if here and threading.current_thread() is threading.main_thread() else InThread()
    if canonical == "threads":
        return Threads(slots)
    if canonical == "asyncio":
        from fastq.testing.aio import Aio  # lazy: asyncio, which most tests of tasks do without

        return Aio(slots)
    if needs_patching(canonical) and not _patched(canonical):
        how = {
            "gevent": "from gevent import monkey; monkey.patch_all()",
            "eventlet": "import eventlet; eventlet.monkey_patch()",
        }[canonical]
        raise ImproperlyConfigured(
            f"the {canonical} pool needs a process that is monkey patched, and this one is not: begin the tests' first module "
            f"with `{how}`, or use pool='threads'"
        )
    return make_pool(canonical, slots)


def _patched(name: str) -> bool:
    if name not in sys.modules:  # whoever patches imports it
        return False
    if name == "gevent":
        from gevent import monkey  # lazy: only where it has been imported already

        return bool(monkey.is_module_patched("threading"))
    from eventlet import patcher  # lazy: as above

    return bool(patcher.is_monkey_patched("thread"))


class InThread(SoloPool):
    """One slot in the thread that calls ``main``."""

    def __init__(self) -> None:
        super().__init__(1)
        self._thread_alarms = ThreadAlarms(self._calls.divert)
        self._running: Sequence[Delivery] = ()
        self._ident = 0

    def start(self, runner: SlotRunner, done: Callable[[], object]) -> None:
        super().start(_Noting(self, runner), done)

    def main(self, consume: Callable[[], None]) -> None:
        self._ident = threading.get_ident()
        try:
            super().main(consume)
        finally:
            self._thread_alarms.close()

    def alarm(self, after_s: float, error: type[BaseException], *, hard: bool, awaited: bool) -> Alarm:
        """Raise it where the thread next runs Python code: a call into C (a socket, a lock) ends first."""
        return self._thread_alarms.set(after_s, error, hard=hard)

    def cancel(self, task_id: str, *, hard: bool, alone: bool = False) -> bool:
        """Raise in the thread; used at the end only, when whatever else it hits ends too."""
        if not any(d.id == task_id for d in self._running):
            return False
        error = TaskKilled if hard else TaskCancelled
        if not self._calls.divert(self._ident, error):
            raise_in(self._ident, error)
        return True


class _Noting:
    """A slot's runner that notes what runs."""

    def __init__(self, pool: InThread, runner: SlotRunner) -> None:
        self._pool = pool
        self._runner = runner
        self.run_async = runner.run_async

    def run(self, slot: int, batch: Sequence[Delivery]) -> None:
        self._pool._running = batch
        try:
            self._runner.run(slot, batch)
        finally:
            self._pool._running = ()


class Threads(ThreadsPool):
    """Slots as threads that have ended when ``main`` returns, unless a task never does."""

    def main(self, consume: Callable[[], None]) -> None:
        slots = list(self._slots.values())
        super().main(consume)
        for slot in slots:
            if slot.batch is None:
                slot.join(END_S)
