"""How a node stops: warm at the first signal, cold at the second.

Warm: what runs finishes, what waits goes back to its queue, exit 0. Cold: processes are killed, what they ran goes back
uncharged and runs again elsewhere, exit 1.
"""

from __future__ import annotations

import enum
import signal

__all__ = ["Shutdown", "Stage"]

#: seconds within which INT and TERM are one request: ^C in a terminal reaches the supervisor by itself, and once more as
#: TERM from the process manager in between
SAME_REQUEST_S = 0.5


class Stage(enum.IntEnum):
    RUNNING = 0
    WARM = 1
    COLD = 2
    #: without even the moment that a cold stop leaves for settling
    KILL = 3


class Shutdown:
    """Decide what a signal means. Pure: the caller carries it out."""

    def __init__(self) -> None:
        self.stage = Stage.RUNNING
        self._first: tuple[int, float] | None = None

    def signal(self, signum: int, now_s: float) -> Stage | None:
        """Take a signal in; return the stage it leads to, None if it changes nothing. ``now_s``: monotonic."""
        if signum == signal.SIGQUIT:
            wanted = max(Stage.COLD, Stage(min(self.stage + 1, Stage.KILL)))
        elif self._first is not None and signum != self._first[0] and now_s - self._first[1] < SAME_REQUEST_S:
            return None
        else:
            wanted = Stage(min(self.stage + 1, Stage.KILL))
        if self._first is None:
            self._first = (signum, now_s)
        return self.move(wanted)

    def move(self, stage: Stage) -> Stage | None:
        """Go on to a stage; None if it has been reached before."""
        if stage <= self.stage:
            return None
        self.stage = stage
        return stage

    @property
    def exit_code(self) -> int:
        return 1 if self.stage >= Stage.COLD else 0
