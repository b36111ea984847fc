"""Have ends told to the application that no process of their own could tell: the node's side.

A task whose process was killed is settled by the supervisor, which knows no application. So a process that has it is asked to
send the signal and to call the hook (``telling``): the nursery forks one for that, elsewhere it is a thread. At most once: what was
asked is not asked again, whoever was asked may have died in the middle of it.
"""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING, Any

from fastq.worker.asking import NotAsked
from fastq.worker.ends import End

if TYPE_CHECKING:
    from fastq._core import Delivery
    from fastq.worker.node import Node

__all__ = ["Untold"]

logger = logging.getLogger("fastq.worker")

#: seconds for which ends are gathered, and between two attempts while nobody can be asked
GATHER_S, AGAIN_S = 0.05, 0.5
#: attempts: a process that takes the place of the one killed imports the application first
ATTEMPTS = 120
#: ends that wait, and those of one question, at most; bytes of their messages in one question
ENDS_MAX, ASKED_MAX = 1_000, 100
BYTES_MAX = 4 * 1024 * 1024
#: ends that a log line names
NAMED = 10


class Untold:
    """What is to be told. In the node's loop."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._ends: list[tuple[str, bytes, End]] = []
        self._attempts = 0
        self._due = False
        self._ending = False
        self._asked = 0
        #: processes that tell just now
        self._telling: set[int] = set()

    def ended(self, d: Delivery, end: End) -> None:
        """Take in the end of a task that was settled from here."""
        if len(self._ends) >= ENDS_MAX or len(d.message) > BYTES_MAX:
            logger.warning("The application is not told that task %s[%s] has ended: %s", d.name, d.id, end.why)
            return
        self._ends.append((d.id, d.message, end))
        self._ask_in(GATHER_S)

    def _ask_in(self, delay_s: float) -> None:
        if not self._due:
            self._due = True
            self._node.loop.after(delay_s, self._ask)

    def _ask(self) -> None:
        self._due = False
        while self._ends:
            asked = self._take()
            self._asked += 1
            question = {"what": "ended", "ends": [[message, *end] for _, message, end in asked]}
            self._node.ask(question, lambda answer, asked=asked: self._answered(asked, answer))  # type: ignore[misc]
            if self._due:
                return  # there is nobody to be asked now

    def _take(self) -> list[tuple[str, bytes, End]]:
        n = size = 0
        while n < min(len(self._ends), ASKED_MAX) and size < BYTES_MAX:
            size += len(self._ends[n][1])
            n += 1
        taken, self._ends = self._ends[:n], self._ends[n:]
        return taken

    def _answered(self, asked: list[tuple[str, bytes, End]], answer: Any) -> None:
        self._asked -= 1
        if isinstance(answer, NotAsked) and not self._ending and self._attempts < ATTEMPTS:
            self._attempts += 1
            self._ends = asked + self._ends
            self._ask_in(AGAIN_S)
            return
        self._attempts = 0
        if isinstance(answer, Exception):
            shown = ", ".join(id for id, _, _ in asked[:NAMED]) + (", ..." if len(asked) > NAMED else "")
            told = "is not" if isinstance(answer, NotAsked) else "may not have been"
            logger.warning("The application %s told that %d tasks have ended: %s (%s)", told, len(asked), answer, shown)
        elif answer:
            self._telling.add(answer)

    def finish(self, longest_s: float) -> None:
        """Wait for what is being told, of a node that ends; call it while the loop can still be turned."""
        deadline_s = time.monotonic() + longest_s
        self._ending = True  # there is no time for a process that is not there yet
        self._ask()
        while (self._asked or self._alive()) and time.monotonic() < deadline_s:
            self._node.loop.turn(longest_s=0.05)
        if self._asked or self._alive():
            logger.warning("What is told of tasks whose process was killed has not returned in time: the node ends without it")

    def _alive(self) -> bool:
        for pid in list(self._telling):
            try:
                gone = os.waitpid(pid, os.WNOHANG)[0] == pid
            except ChildProcessError:  # the loop has seen its end
                gone = True
            if gone:
                self._telling.discard(pid)
        return bool(self._telling)
