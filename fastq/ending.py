"""How a task that waits in a queue is ended there, without a worker: the same for every transport."""

from __future__ import annotations

from typing import NamedTuple

from fastq import flow
from fastq._core import Delivery, encode_result
from fastq.exceptions import FastQError
from fastq.records import Effects, StoredResult
from fastq.states import REVOKED

__all__ = ["End", "revoked"]

#: what reading a flow raises that somebody else than fastq has written
_NO_FLOW = (FastQError, AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError)


class End(NamedTuple):
    """The end of one task."""

    #: None: the task's result is ignored
    stored: StoredResult | None
    #: what follows from that
    effects: Effects | None

    def results(self) -> list[StoredResult]:
        """Return all records of this end, those of the tasks that cannot run any more too."""
        own = [] if self.stored is None else [self.stored]
        return own if self.effects is None else [*own, *self.effects.results]


def revoked(d: Delivery, now_ms: int) -> End:
    """Return the end of a revoked task. As where a worker ends one, its errbacks are not called: nothing has failed."""
    record = encode_result(REVOKED, "application/x-msgpack", b"", None, now_ms, None)
    effects = None
    if d.flow is not None:
        try:
            effects = flow.failed(d, record, now_ms, errbacks=False)
        except _NO_FLOW:  # nobody can read what follows, so nothing does
            effects = None
    return End(None if d.ignore_result else StoredResult(d.id, record, d.inbox), effects)
