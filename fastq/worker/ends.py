"""How a task ended that its own process could not settle: the process is dead, and another settled it."""

from __future__ import annotations

from typing import NamedTuple

from fastq.exceptions import TaskError, TimeLimitExceeded, WorkerLostError

__all__ = ["LOST", "REVOKED", "TIMED_OUT", "End"]

#: kinds
REVOKED, TIMED_OUT, LOST = "revoked", "time-limit", "worker-lost"


class End(NamedTuple):
    """One end; plain values, so that it can be told to another process."""

    kind: str
    #: it was leased from
    queue: str
    #: REVOKED: the name of the signal it was revoked with; LOST: what is said of the death
    text: str = ""
    #: TIMED_OUT: the limit that had passed
    hard_s: float = 0.0

    @property
    def outcome(self) -> str:
        """Return what it counts as: "failed" or "revoked"."""
        return "revoked" if self.kind == REVOKED else "failed"

    @property
    def why(self) -> str:
        """Return it as events tell it: the signal, or the error."""
        if self.kind == REVOKED:
            return self.text
        return f"TimeLimitExceeded({self.hard_s:g})" if self.kind == TIMED_OUT else f"WorkerLostError: {self.text}"

    def error(self) -> TaskError:
        """Return what the task has failed with; of one that was not revoked."""
        return TimeLimitExceeded(self.hard_s) if self.kind == TIMED_OUT else WorkerLostError(self.text)
