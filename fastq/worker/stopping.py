"""Carry a stop out, stage after stage, and say what it waits for. In the process that supervises, in its loop."""

from __future__ import annotations

import logging
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from fastq._core import STARTED, ProcessBoard
from fastq.worker.loop import Loop, Timer
from fastq.worker.say import say
from fastq.worker.shutdown import Shutdown, Stage

__all__ = ["COLD_GRACE_S", "Holdup", "Running", "Stopping", "running_on"]

logger = logging.getLogger("fastq.worker")

#: seconds a cold stop leaves for settling what has finished
COLD_GRACE_S = 1.0
#: seconds until it is said what a warm stop waits for, and between the times that this is said again
REPORT_S = (10.0, 20.0, 30.0, 60.0)
#: so many tasks are named one by one
FEW = 5


class Running(NamedTuple):
    """A task that runs, as the status board knows it."""

    queue: str
    tag: str
    #: Unix ms, 0: unknown
    since_ms: int


class Holdup(NamedTuple):
    """A process that has not ended."""

    title: str
    #: 0: not yet there
    pid: int
    #: names that it leases under
    names: Sequence[str]
    tasks: Sequence[Running]


def running_on(board: ProcessBoard, queues: Sequence[str]) -> list[Running]:
    """Return what a process runs."""
    return [
        Running(queues[at], tag, started_ms)
        for _, tag, at, state, _, started_ms in board.held()
        if state == STARTED and at < len(queues)
    ]


class Stopping:
    """Take signals in and lead a node from stage to stage.

    ``act`` carries a stage out: WARM and SOFT ask the processes to finish, COLD to leave, KILL makes them. It is called with KILL
    also when a cold stop has had its time. ``holdups`` tells who has not ended. ``look_up`` returns names of running tasks by
    (queue, tag), of which it may know none: it asks the broker.
    """

    def __init__(
        self,
        loop: Loop,
        shutdown: Shutdown,
        *,
        act: Callable[[Stage, str], object],
        holdups: Callable[[], Sequence[Holdup]],
        look_up: Callable[[Holdup], dict[tuple[str, str], str]],
    ) -> None:
        self._loop = loop
        self._shutdown = shutdown
        self._act = act
        self._holdups = holdups
        self._look_up = look_up
        self._timers: list[Timer] = []
        self._reports = 0
        self._since_s = 0.0

    def signal(self, signum: int) -> None:
        """Take a stop signal in."""
        holdups = self._holdups()
        stage = self._shutdown.signal(signum, time.monotonic(), busy=any(holdup.tasks for holdup in holdups))
        if stage is not None:
            self._enter(stage, signal.Signals(signum).name, holdups)

    def request(self, how: str) -> None:
        """Stop "warm" or "cold" as somebody has asked for who sent no signal. It is no news to a node that stops already."""
        stage = self._shutdown.move(Stage.COLD if how == "cold" else Stage.WARM)
        if stage is not None:
            self._enter(stage, "", self._holdups())

    def _enter(self, stage: Stage, sig: str, holdups: Sequence[Holdup]) -> None:
        busy = any(holdup.tasks for holdup in holdups)
        if stage is Stage.WARM:
            if busy and sig == "SIGINT":
                say("worker: Hitting Ctrl+C again will initiate cold shutdown, terminating all running tasks!")
            say("worker: Warm shutdown (MainProcess)")
            self._begin_reports(holdups, busy)
        elif stage is Stage.SOFT:
            logger.warning("Initiating Soft Shutdown, terminating in %g seconds", self._shutdown.soft_s)
            self._timers.append(self._loop.after(self._shutdown.soft_s, self._soft_is_over))
            self._begin_reports(holdups, busy)
        else:
            self.end()
            if stage is Stage.COLD:
                say("worker: Cold shutdown (MainProcess)")
                if busy:
                    logger.warning("Not waiting any longer for %s", self._describe(holdups))
                self._timers.append(self._loop.after(COLD_GRACE_S, lambda: self._act(Stage.KILL, sig)))
        self._act(stage, sig)

    def _soft_is_over(self) -> None:
        stage = self._shutdown.move(Stage.COLD)
        if stage is not None:
            self._enter(stage, "", self._holdups())

    def end(self) -> None:
        """Let nothing happen any more."""
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()

    # --- what it waits for ---

    def _begin_reports(self, holdups: Sequence[Holdup], busy: bool) -> None:
        if self._since_s:
            return  # it goes on
        self._since_s = time.monotonic()
        if busy:
            logger.warning("Waiting for %s", self._describe(holdups))
        self._next_report()

    def _next_report(self) -> None:
        delay_s = REPORT_S[min(self._reports, len(REPORT_S) - 1)]
        self._timers.append(self._loop.after(delay_s, self._report))

    def _report(self) -> None:
        self._reports += 1
        if holdups := self._holdups():
            waited_s = time.monotonic() - self._since_s
            logger.warning("Stopping since %.0f s, still waiting for %s", waited_s, self._describe(holdups))
        self._next_report()

    def _describe(self, holdups: Sequence[Holdup]) -> str:
        """Say what is waited for."""
        tasks = sum(len(holdup.tasks) for holdup in holdups)
        parts = []
        if tasks:
            text = f"{tasks} running task{'s' if tasks > 1 else ''}"
            if tasks <= 100 * FEW and (names := self._name(holdups, one_by_one=tasks <= FEW)):
                text += f": {names}"
            parts.append(text)
        else:
            parts += [f"process {holdup.title!r} pid:{holdup.pid}, which runs no task" for holdup in holdups[:FEW]]
        parts += [
            f"process {holdup.title!r} pid:{holdup.pid} is stopped (SIGSTOP, or a debugger) and goes on with SIGCONT"
            for holdup in holdups
            if _is_frozen(holdup.pid)
        ]
        return "; ".join(parts)

    def _name(self, holdups: Sequence[Holdup], *, one_by_one: bool) -> str:
        now_ms = time.time() * 1000
        words: Counter[str] = Counter()
        for holdup in holdups:
            if not holdup.tasks:
                continue
            names = self._look_up(holdup)
            for task in holdup.tasks:
                name = names.get((task.queue, task.tag), "")
                if not name:
                    continue
                if one_by_one:
                    since = f" ({max(0.0, now_ms - task.since_ms) / 1000:.0f} s)" if task.since_ms else ""
                    words[f"{name}{since}"] += 1
                else:
                    words[name.partition("[")[0]] += 1
        if one_by_one:
            return ", ".join(words)
        return ", ".join(f"{name} ({count})" for name, count in words.most_common(FEW))


def _is_frozen(pid: int) -> bool:
    """Say whether a process is stopped, where /proc tells."""
    try:
        return bool(pid) and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("T", "t")
    except (OSError, IndexError):
        return False
