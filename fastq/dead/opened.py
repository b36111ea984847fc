"""What is inside of a dead letter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from fastq import flow
from fastq.dead.letter import Letter, moment
from fastq.ending import BAD_SIGNATURE
from fastq.exceptions import DecodeError, FastQError
from fastq.serialization import JSON, MSGPACK, Serializers

__all__ = ["Event", "Opened", "arguments", "open_letter"]


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that is known to have happened to it."""

    #: UTC; None: nobody has written down when
    at: datetime | None
    what: str


@dataclass(frozen=True, slots=True)
class Opened:
    """A dead letter and what is in it."""

    letter: Letter
    #: None: they could not be read, ``unread`` says why
    args: Sequence[Any] | None
    kwargs: Mapping[str, Any] | None
    unread: str
    content_type: str
    #: bytes of the message, and of the arguments in it
    size: int
    body_size: int
    headers: Mapping[str, Any]
    root_id: str
    parent_id: str
    #: when it is not to be started any more, UTC; None: that does not matter
    expires_at: datetime | None
    #: what was to come after it, and what it belongs to
    follows: Sequence[str]
    traceback: str
    #: oldest first
    history: Sequence[Event] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return all of it, ready for JSON; values that JSON has no word for as they are in Python."""
        return {
            **self.letter.as_dict(),
            "error": self.letter.full_error,
            "args": self.args,
            "kwargs": self.kwargs,
            "unread": self.unread,
            "content_type": self.content_type,
            "size": self.size,
            "body_size": self.body_size,
            "headers": self.headers,
            "root_id": self.root_id,
            "parent_id": self.parent_id,
            "expires_at": self.expires_at.isoformat() if self.expires_at is not None else None,
            "follows": list(self.follows),
            "process": self.letter.process,
            "traceback": self.traceback,
            "history": [{"at": event.at.isoformat() if event.at else None, "what": event.what} for event in self.history],
        }


def arguments(letter: Letter, serializers: Serializers) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """Return the arguments of a letter's task, those in front that a task before it has left there included.

    Raises FastQError: why they cannot be read.
    """
    d = letter.delivery
    if d.error:
        raise DecodeError(f"the message cannot be read: {d.error}")
    if letter.reason == BAD_SIGNATURE and d.content_type.partition(";")[0] not in (MSGPACK, JSON):
        # Reading it may run code, and nobody says who wrote it.
        raise DecodeError("its signature is not good, so what is written as anything but msgpack or JSON is not read")
    front = []
    for content_type, value in _flow(letter).get("args", ()):
        front.append(serializers.loads(content_type, value))
    body = serializers.loads(d.content_type, d.body)
    if not (isinstance(body, list | tuple) and len(body) == 2 and isinstance(body[0], list | tuple) and isinstance(body[1], dict)):
        raise DecodeError("the body is not [arguments, keyword arguments]")
    return [*front, *body[0]], body[1]


def open_letter(letter: Letter, serializers: Serializers) -> Opened:
    """Read everything in a letter."""
    d = letter.delivery
    args: Sequence[Any] | None = None
    kwargs: Mapping[str, Any] | None = None
    unread = ""
    try:
        args, kwargs = arguments(letter, serializers)
    except (FastQError, TypeError, ValueError) as exc:
        unread = str(exc)
    options: Mapping[str, Any] = {} if d.error else d.options or {}
    headers = options.get("headers")
    return Opened(
        letter=letter,
        args=args,
        kwargs=kwargs,
        unread=unread,
        content_type=d.content_type,
        size=len(letter.record.message),
        body_size=0 if d.error else len(d.body),
        headers=headers if isinstance(headers, dict) else {},
        root_id=str(options.get("root_id") or ""),
        parent_id=str(options.get("parent_id") or ""),
        expires_at=moment(d.expires_ms) if d.expires_ms else None,
        follows=_follows(_flow(letter)),
        traceback=letter.traceback,
        history=_history(letter),
    )


def _flow(letter: Letter) -> Mapping[str, Any]:
    following = None if letter.delivery.error else letter.delivery.flow
    if following is None:
        return {}
    try:
        flow.check(following)
    except DecodeError:
        return {}
    return following


def _follows(following: Mapping[str, Any]) -> list[str]:
    found: list[str] = []
    for kind, text in (("chain", "step of a chain"), ("links", "link"), ("errbacks", "errback")):
        if n := len(following.get(kind, ())):
            found.append(f"{n} {text}{'' if n == 1 else 's'}")
    if "join" in following:
        found.append(f"it was a member of the chord {following['join'][0]}")
    if "joined" in following:
        found.append(f"it is the body of the chord {following['joined'][0]}: the results of its members are its first argument")
    if "errback" in following:
        found.append(f"it is an errback: task {following['errback'][0]} had failed")
    return found


def _history(letter: Letter) -> list[Event]:
    """Return what is known; which processes died under it before the last is not written down anywhere."""
    d = letter.delivery
    events: list[Event] = []
    if not d.error and d.enqueued_ms:
        events.append(Event(moment(d.enqueued_ms), "sent"))
    if letter.retries:
        events.append(Event(None, f"tried again {_times(letter.retries)}"))
    if letter.deliveries:
        under = f", the last was {letter.process}" if letter.reason == "worker-lost" and letter.process else ""
        events.append(Event(None, f"its process died {_times(letter.deliveries)}{under}"))
    by = f" on {letter.process}" if letter.process and letter.reason != "worker-lost" else ""
    events.append(Event(letter.died_at, f"became a dead letter{by}: {letter.reason}"))
    return events


def _times(n: int) -> str:
    return "once" if n == 1 else f"{n} times"
