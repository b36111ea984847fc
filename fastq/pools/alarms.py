"""Alarms for slots that are OS threads: an exception raised in a running task when its time is over.

Two kinds. In the main thread a signal interrupts whatever waits (solo, prefork, plain functions on an event loop). Any other
thread can only be asked by the interpreter, and sees the exception where it next runs Python code.
"""

from __future__ import annotations

import heapq
import itertools
import signal
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any

__all__ = ["AGAIN_S", "SLOTS", "SignalAlarms", "ThreadAlarms", "in_task", "raise_in"]

#: seconds between looks at a strike that has been announced and not yet thrown: a few instructions of the clock
STRIKE_S = 0.0002
#: seconds after which a signal that came outside of the task is tried again
AGAIN_S = 0.005

#: alarms kept by a clock before it looks which of them are over
PRUNE = 256

#: frames of these modules are the worker's around a task, not the task's: nothing may be raised there
WORKER = "fastq.worker."
#: the frame that calls a task
SLOTS = "fastq.worker.slots"


class SignalAlarm:
    __slots__ = ("_alarms", "error", "hard", "rung", "when_s")

    def __init__(self, alarms: SignalAlarms, when_s: float, error: type[BaseException], hard: bool) -> None:
        self._alarms = alarms
        self.when_s = when_s
        self.error = error
        self.hard = hard
        self.rung = False

    def cancel(self) -> bool:
        self._alarms.cancel(self)
        return self.rung


class SignalAlarms:
    """Alarms of the main thread, by the timer of the process and SIGALRM. Only one task runs there at a time.

    ``divert(error)`` may take an alarm that is not hard on itself (True): it reaches a coroutine that the thread waits for.
    """

    def __init__(self, divert: Callable[[type[BaseException]], bool] | None = None) -> None:
        self._divert = divert
        self._set: list[SignalAlarm] = []
        self._previous: Any = None

    def set(self, after_s: float, error: type[BaseException], *, hard: bool) -> SignalAlarm:
        # looked at each time: a task may have put its own in place. Ours stays when the alarm is over, as a signal that is still
        # on its way would end the process otherwise
        if (handler := signal.getsignal(signal.SIGALRM)) != self._ring:
            self._previous = handler
            signal.signal(signal.SIGALRM, self._ring)
        alarm = SignalAlarm(self, time.monotonic() + after_s, error, hard)
        self._set.append(alarm)
        self._wind()
        return alarm

    def cancel(self, alarm: SignalAlarm) -> None:
        if alarm in self._set:
            self._set.remove(alarm)
            self._wind()

    def end(self) -> None:
        """Cancel what a task has left behind; called between two batches."""
        if self._set:
            self._set = []
            self._wind()

    def _wind(self) -> None:
        if self._set:
            signal.setitimer(signal.ITIMER_REAL, max(min(a.when_s for a in self._set) - time.monotonic(), AGAIN_S))
        else:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _ring(self, signum: int, frame: FrameType | None) -> None:
        now_s = time.monotonic()
        due = [a for a in self._set if a.when_s <= now_s]
        if not due:
            if self._set:
                self._wind()
            elif callable(self._previous):
                self._previous(signum, frame)
            return
        if not in_task(frame):
            signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
            return
        alarm = next((a for a in due if a.hard), due[0])
        self._set = [a for a in self._set if a is not alarm]
        alarm.rung = True
        self._wind()
        if alarm.hard or self._divert is None or not self._divert(alarm.error):
            raise alarm.error()


def in_task(frame: FrameType | None) -> bool:
    """Tell whether a task was interrupted, not what the worker does before and behind it."""
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module == SLOTS:
            return True
        if module.startswith(WORKER):
            return False
        frame = frame.f_back
    return True


class ThreadAlarm:
    """An alarm of the calling thread. ``cancel`` is called there; the clock's thread strikes."""

    __slots__ = ("_alarms", "_coming", "error", "hard", "ident", "over", "rung")

    def __init__(self, alarms: ThreadAlarms, error: type[BaseException], hard: bool) -> None:
        self._alarms = alarms
        self.error = error
        self.hard = hard
        self.rung = False
        self.ident = threading.get_ident()
        self._coming = False
        self.over = False

    def ring(self) -> None:
        """Strike, unless it is over; a thread that waits for a coroutine is struck inside that, hard alarms included: no lock that
        a thread waits for lets an exception through."""
        # Two actors: this one announces the strike, then looks whether the alarm is over. The task's end (cancel) says that it is
        # over, then looks for an announced strike. So one of them sees the other: no strike comes, or its end awaits it.
        self._coming = True
        if not self.over:
            self.rung = True
            if not self._alarms.divert(self.ident, self.error):
                raise_in(self.ident, self.error)
        self._coming = False

    def cancel(self) -> bool:
        """End it; True if it has rung. The strike may come in here, too: call it again then."""
        self.over = True
        while self._coming:
            time.sleep(STRIKE_S)
        if self.rung:
            raise_in(self.ident, None)
        self._alarms.live.discard(self)
        return self.rung


class ThreadAlarms:
    """Alarms of any OS thread: one clock for all, a thread of its own, started with the first of them.

    ``divert(ident, error)`` may take an alarm on itself (True): it reaches a coroutine that the thread waits for.
    Threads hand their alarms over by a queue: a thread that could be struck while it held a lock would never release it.
    """

    def __init__(self, divert: Callable[[int, type[BaseException]], bool]) -> None:
        self.divert = divert
        #: set and not cancelled
        self.live: set[ThreadAlarm] = set()
        self._new: SimpleQueue[tuple[float, ThreadAlarm] | None] = SimpleQueue()
        self._starting = threading.Lock()
        self._clock: threading.Thread | None = None

    def set(self, after_s: float, error: type[BaseException], *, hard: bool) -> ThreadAlarm:
        if self._clock is None:
            with self._starting:
                if self._clock is None:
                    self._clock = threading.Thread(target=self._run, name="fastq-alarms", daemon=True)
                    self._clock.start()
        alarm = ThreadAlarm(self, error, hard)
        self.live.add(alarm)
        self._new.put((time.monotonic() + after_s, alarm))
        return alarm

    def end(self, ident: int) -> None:
        """Cancel what this thread has left behind; called in it, between two batches."""
        for alarm in list(self.live):
            if alarm.ident == ident:
                alarm.cancel()

    def close(self) -> None:
        if self._clock is not None:
            self._new.put(None)
            self._clock.join()

    def _run(self) -> None:
        due: list[tuple[float, int, ThreadAlarm]] = []
        order = itertools.count()
        enough = PRUNE
        while True:
            wait_s = max(0.0, due[0][0] - time.monotonic()) if due else None
            try:
                new = self._new.get(timeout=None if wait_s is None else min(wait_s, threading.TIMEOUT_MAX))
            except Empty:
                heapq.heappop(due)[2].ring()
                continue
            if new is None:
                return
            heapq.heappush(due, (new[0], next(order), new[1]))
            if len(due) > enough:  # most runs end long before their limits
                due = [entry for entry in due if not entry[2].over]
                heapq.heapify(due)
                enough = max(PRUNE, 2 * len(due))


def raise_in(ident: int, error: type[BaseException] | None) -> None:
    """Have the interpreter raise ``error`` in that thread; None takes back what it has not raised yet."""
    import ctypes  # lazy: only an interrupted task needs it

    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(error) if error is not None else None)
