"""Decide which fetched deliveries may run, and settle the others at once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping

from fastq import flow
from fastq._core import packb
from fastq.exceptions import DecodeError, SecurityError
from fastq.records import DEAD, DONE, RETURN, Delivery, Settlement
from fastq.security import Signer
from fastq.stamps import stamps_of
from fastq.worker.failures import UNDECODABLE, Failures, plain

__all__ = ["Gate"]

logger = logging.getLogger("fastq.worker.gate")


class Gate:
    """Let pass what is readable, registered, accepted, not revoked and not expired.

    Everything else ends here in one settlement: a dead letter with its reason, or REVOKED where it was revoked or its time is
    over. A bad message costs the worker nothing but that.
    """

    def __init__(self, accept: Collection[str], failures: Failures, signer: Signer | None = None) -> None:
        """``accept``: the content types of ``accept_content``; ``signer``: checks signatures, None: messages are not signed."""
        self._accept = frozenset(accept)
        self._failures = failures
        self._signer = signer
        #: ids of tasks that must not start, and stamps (see ``fastq.stamps``); the consumer keeps it up to date
        self.revoked: set[str] = set()
        #: one of them is a stamp
        self.stamped = False
        #: names of tasks that are paused
        self.paused: frozenset[str] = frozenset()

    def sort(self, batch: list[Delivery], now_ms: int, refuse: Callable[[Settlement], object]) -> list[Delivery]:
        """Return the deliveries that may run, in order; hand a settlement for each of the others to ``refuse``."""
        accept = self._accept
        if self._signer is not None:
            batch = self._signed(batch, self._signer, refuse)
        if self.revoked:
            batch = self._not_revoked(batch, refuse)
        if self.paused:
            batch = self._not_paused(batch, refuse)
        passed = [
            d
            for d in batch
            if d.entry is not None
            and d.content_type in accept
            and not d.error
            and not (d.expires_ms and d.expires_ms <= now_ms)
            and (d.flow is None or not _damage(d))
        ]
        if len(passed) != len(batch):
            kept = {id(d) for d in passed}
            for d in batch:
                if id(d) not in kept:
                    refuse(self._refusal(d))
        return passed

    def _signed(self, batch: list[Delivery], signer: Signer, refuse: Callable[[Settlement], object]) -> list[Delivery]:
        """Return those with a good signature. Of the others nothing is believed, so nobody is told and nothing follows."""
        good = []
        for d in batch:
            try:
                signer.check(d.message)
                good.append(d)
            except SecurityError as exc:
                logger.error("Discarding a message that cannot be trusted (%d bytes, queue %s): %s", len(d.message), d.queue, exc)
                refuse(self._failures.untrusted(d, str(exc)))
        return good

    def revoke(self, d: Delivery) -> Settlement:
        """Return the settlement of a revoked delivery."""
        logger.info("Discarding revoked task: %s[%s]", d.name, d.id, extra={"task_id": d.id, "task_name": d.name})
        try:
            return self._failures.revoked(d)
        except Exception:  # as in ``_refusal``
            logger.exception("The end of revoked task %s[%s] cannot be told to anybody", d.name, d.id)
            return Settlement(d.queue, d.tag, d.id, DONE, reason="revoked", record=d.record)

    def _not_revoked(self, batch: list[Delivery], refuse: Callable[[Settlement], object]) -> list[Delivery]:
        passed = []
        for d in batch:
            if self.is_revoked(d):
                refuse(self.revoke(d))
            else:
                passed.append(d)
        return passed

    def is_revoked(self, d: Delivery) -> bool:
        """Say whether a delivery must not start."""
        return d.id in self.revoked or (self.stamped and any(stamp in self.revoked for stamp in stamps_of(d.options)))

    def terminate(self, signals: Mapping[str, str]) -> None:
        """Take in ids that are revoked, with the signals of those that run."""
        self.revoked.update(signals)
        self._failures.terminating(signals)

    def _not_paused(self, batch: list[Delivery], refuse: Callable[[Settlement], object]) -> list[Delivery]:
        passed = []
        for d in batch:
            if d.name in self.paused:
                refuse(self.park(d))
            else:
                passed.append(d)
        return passed

    def park(self, d: Delivery) -> Settlement:
        """Return the settlement of a delivery of a paused task: nothing has happened to it."""
        return Settlement(d.queue, d.tag, d.id, RETURN, reason=d.name, record=d.record)

    def _refusal(self, d: Delivery) -> Settlement:
        try:
            return self._judge(d)
        except Exception as exc:  # a message that nobody can even describe must not stop the process, and every one that takes it
            logger.exception("Discarding a message that cannot be described (%d bytes, queue %s)", len(d.message), d.queue)
            detail = packb({"error": f"the message cannot be described ({type(exc).__name__}); the worker's log says more"})
            return Settlement(d.queue, d.tag, "", DEAD, reason=UNDECODABLE, detail=detail, record=d.record)

    def _judge(self, d: Delivery) -> Settlement:
        if d.error:
            logger.error("Discarding a message that cannot be read: %s (%d bytes, queue %s)", d.error, len(d.message), d.queue)
            return self._failures.undecodable(d, d.error)
        if why := _damage(d):
            logger.error("Discarding %s[%s]: what is to follow it cannot be read: %s", d.name, d.id, why)
            return self._failures.undecodable(d, why)
        if d.entry is None:
            logger.error(
                "Received unregistered task of type %r. The message [%s] goes to the dead letters. "
                "Is the module that defines it imported by this worker (see include)?",
                d.name,
                d.id,
            )
            return self._failures.unregistered(d)
        if d.content_type not in self._accept:
            logger.error(
                "Refusing to deserialize %s[%s]: content type %s is not in accept_content (%s)",
                d.name,
                d.id,
                d.content_type,
                plain(self._accept),
            )
            return self._failures.disallowed(d, self._accept)
        logger.info("Discarding expired task %s[%s]", d.name, d.id)
        return self._failures.expired(d)


def _damage(d: Delivery) -> str:
    """Return why the flow of a delivery cannot be carried out, "" if it can: past the gate nobody looks again."""
    if d.flow is None:
        return ""
    try:
        flow.check(d.flow)
    except DecodeError as exc:
        return str(exc)
    return ""
