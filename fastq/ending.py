"""How a task is ended, or kept as a dead letter, without a worker: the same for every transport."""

from __future__ import annotations

from typing import NamedTuple

from fastq import flow
from fastq._core import Delivery, encode_result, packb, peek
from fastq.exceptions import FastQError
from fastq.records import Drop, Effects, StoredResult
from fastq.states import REVOKED

__all__ = ["BAD_SIGNATURE", "FAILURE", "End", "kept_join", "lasting", "revoked"]

#: reason of the dead letter of a message that is not signed, or wrongly: nothing that it says is believed
BAD_SIGNATURE = "bad-signature"
#: how the record of a failure begins: an array of six, and its state
FAILURE = b"\x96\xa7FAILURE"
#: as the core writes it among a message's options: what does not contain it is no body of a join
JOINED = packb("joined")

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


def lasting(effects: Effects, dead_letter_s: int) -> Effects:
    """Return the effects of what becomes a dead letter: the body of a join keeps it as long as the letter is kept."""
    return effects._replace(drops=[drop._replace(keep_s=dead_letter_s) for drop in effects.drops])


def kept_join(reason: str, message: bytes) -> Drop | None:
    """Return the end of the join that is kept for a dead letter, None if it is no body of one."""
    if JOINED not in message or reason == BAD_SIGNATURE:
        return None
    try:
        following = peek(message).flow
        if following is None:
            return None
        flow.check(following)
        joined = following.get("joined")
    except _NO_FLOW:  # as where it died: nobody can read what it belongs to
        return None
    return None if joined is None else Drop(joined[1], joined[0])
