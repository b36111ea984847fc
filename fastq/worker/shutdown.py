"""How a node stops: what a signal means, given what came before it.

Warm: what runs finishes, what waits goes back to its queue, exit 0. Soft: warm for a time, then cold. Cold: processes are killed,
what they ran goes back uncharged and runs again elsewhere, exit 1.
"""

from __future__ import annotations

import enum
import os
import signal

from fastq.exceptions import ImproperlyConfigured

__all__ = ["Shutdown", "Stage", "term_is_quit"]

#: seconds within which signals from different senders are one request: ^C in a terminal reaches the supervisor by itself, and once
#: more as TERM from the process manager in between; a container's runtime and the init process in it may both send TERM
SAME_REQUEST_S = 0.5

#: environment variable of Celery's: the signal that TERM is to be taken for
REMAP = "REMAP_SIGTERM"


class Stage(enum.IntEnum):
    RUNNING = 0
    WARM = 1
    #: warm, for ``worker_soft_shutdown_timeout`` seconds at most
    SOFT = 2
    COLD = 3
    #: without even the moment that a cold stop leaves for settling
    KILL = 4


def term_is_quit() -> bool:
    """Say whether TERM is to do what QUIT does; ImproperlyConfigured if the environment asks for something else."""
    wanted = os.environ.get(REMAP, "")
    if wanted in ("", "SIGTERM"):
        return False
    if wanted != "SIGQUIT":
        raise ImproperlyConfigured(
            f"the environment variable {REMAP} is {wanted!r}: it can be SIGQUIT (TERM stops the worker cold, or softly), or unset"
        )
    return True


class Shutdown:
    """Decide what a signal means. Pure: the caller carries it out.

    The first is warm, each further one is harder; QUIT is cold at once. Programs that pass on what they get may send TERM twice
    within an instant, and that is one; people who press ^C twice mean two.
    """

    def __init__(self, *, remap: bool = False) -> None:
        """``remap``: TERM is QUIT."""
        self.stage = Stage.RUNNING
        #: how long a stop is soft before it is cold, and whether it is also if nothing runs; known once the application is
        self.soft_s = 0.0
        self.soft_on_idle = False
        self._remap = remap
        self._first: tuple[int, float] | None = None

    def signal(self, signum: int, now_s: float, *, busy: bool = True) -> Stage | None:
        """Take a signal in; return the stage it leads to, None if it changes nothing. ``now_s``: monotonic. ``busy``: tasks run."""
        again = self._is_again(signum, now_s)
        if self._first is None:
            self._first = (signum, now_s)
        if again:
            return None
        cold = signum == signal.SIGQUIT or (signum == signal.SIGTERM and self._remap)
        if cold or self.stage is not Stage.RUNNING:
            return self._further(busy)
        return self.move(Stage.WARM)

    def _is_again(self, signum: int, now_s: float) -> bool:
        """Say whether this is the first request, come once more."""
        if self._first is None or now_s - self._first[1] >= SAME_REQUEST_S or signum == signal.SIGQUIT:
            return False
        return signum != self._first[0] or signum in (signal.SIGTERM, signal.SIGHUP)

    def _further(self, busy: bool) -> Stage | None:
        """Go on to a stop that leaves tasks unfinished, softly if that is wanted, or to a harder one."""
        if self.stage < Stage.SOFT and self.soft_s > 0 and (busy or self.soft_on_idle):
            return self.move(Stage.SOFT)
        return self.move(Stage.COLD if self.stage < Stage.COLD else Stage.KILL)

    def move(self, stage: Stage) -> Stage | None:
        """Go on to a stage; None if it has been reached before."""
        if stage <= self.stage:
            return None
        self.stage = stage
        return stage

    @property
    def exit_code(self) -> int:
        """1 if tasks were not given the time they need, or might not have been."""
        return 1 if self.stage >= Stage.SOFT else 0
