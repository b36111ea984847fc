"""Interrupt, from another thread, a task that runs in the main thread.

A signal does it: it interrupts also what waits in C, if that returns on signals (sockets, locks, sleeping). SIGURG, because it is
ignored by default: a strike that comes when nothing listens any more, or in a program that a task has started, harms nobody.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from fastq.pools.alarms import AGAIN_S, SLOTS, in_task
from fastq.running import current

__all__ = ["MainStrikes"]


class MainStrikes:
    """Strikes at what runs in the main thread; one at a time."""

    def __init__(self) -> None:
        self._main = 0
        self._previous: Any = None
        self._coming: tuple[str, type[BaseException], Callable[[], bool]] | None = None

    def open(self) -> None:
        """Take the signal; called in the thread that runs tasks. Nothing can be struck if that is not the main one."""
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGURG, self._on_signal)
            self._main = threading.get_ident()

    def close(self) -> None:
        if self._main:
            self._main = 0
            signal.signal(signal.SIGURG, self._previous if self._previous is not None else signal.SIG_DFL)

    def strike(self, task_id: str, error: type[BaseException], running: Callable[[], bool]) -> bool:
        """Raise ``error()`` in a task as soon as the main thread is in it; called elsewhere.

        ``running`` says whether its batch is still the one that runs. False: it is not, or nothing can be struck here.
        """
        if not self._main or not running():
            return False
        self._coming = (task_id, error, running)
        self._send()
        return True

    def _send(self) -> None:
        if self._main:
            signal.pthread_kill(self._main, signal.SIGURG)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        coming = self._coming
        if coming is None:
            if callable(self._previous):
                self._previous(signum, frame)
            return
        task_id, error, running = coming
        d = current.get()
        # without a delivery the worker is between two runs of a batch; a pool's own tests run without the worker
        if not running() or (d.id != task_id if d is not None else _between(frame)):
            self._coming = None
        elif in_task(frame):
            self._coming = None
            raise error()
        else:
            again = threading.Timer(AGAIN_S, self._send)
            again.daemon = True
            again.start()


def _between(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_globals.get("__name__") == SLOTS:
            return True
        frame = frame.f_back
    return False
