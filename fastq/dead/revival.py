"""What a dead letter's message becomes when it is put back, and what is forgotten with that."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from fastq import _core, flow
from fastq.dead.letter import Letter
from fastq.ending import BAD_SIGNATURE
from fastq.exceptions import DecodeError, FastQError
from fastq.records import Revival

if TYPE_CHECKING:
    from fastq.security import Signer

__all__ = ["Unchangeable", "revive"]

FIELDS = _core.ENVELOPE_FIELDS


class Unchangeable(FastQError):
    """Say why a message cannot be put back (never leaves ``DeadLetters``)."""


def revive(letter: Letter, *, reset_retries: bool, now_ms: int, signer: Signer | None) -> Revival:
    """Return how a letter is put back: as it was, but one whose time is over has all the time from now on.

    Unchangeable if the message would have to be another, and nobody here can write it.
    """
    d = letter.delivery
    if d.error or letter.reason == BAD_SIGNATURE:
        # Nothing is known of it, or nothing believed: it goes back as it is.
        return Revival()
    expired = 0 < d.expires_ms <= now_ms
    message = None
    if expired or (reset_retries and d.retries):
        message = _core.encode(
            d.id, d.name, d.content_type, d.body, d.enqueued_ms,
            None if expired else d.expires_ms or None,
            0 if reset_retries else d.retries,
            d.inbox or None, d.options,
        )  # fmt: skip
        why = "its time is over (expires)" if expired else "its retries are to be counted anew"
        message = _signed_as_it_was(letter, message, why, signer)
    return Revival(message, _forgotten(letter))


def _signed_as_it_was(letter: Letter, message: bytes, why: str, signer: Signer | None) -> bytes:
    """Sign a new message if the old one was."""
    old = letter.delivery.message
    values = _core.unpackb(old[2:] if old[:1] == b"\xc1" else old)
    if len(values) == FIELDS:
        return message
    if len(values) > FIELDS + 1 or type(values[FIELDS]) is not bytes:
        raise Unchangeable(f"{why}, and the message was written by a newer fastq: this one cannot change it")
    if signer is None or not signer.signs:
        raise Unchangeable(f"{why}, and the message is signed: an application that has a key (security_key) can sign it anew")
    return signer.sign(message)


def _forgotten(letter: Letter) -> list[str]:
    """Return the tasks whose stored failure is not true any more: this one, and those behind it in its chain."""
    ids = [letter.id]
    following = letter.delivery.flow or {}
    with suppress(DecodeError):  # as where it died: who a damaged one was for cannot be told
        flow.check(following)
        for node in following.get("chain", ()):
            with suppress(DecodeError):
                ids.extend(id for id, _ in flow.ids(node))
    return ids
