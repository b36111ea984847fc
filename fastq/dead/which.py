"""Which dead letters are meant: filters, and ids as people give them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fnmatch import fnmatchcase

from fastq.dead.letter import REASONS, Letter
from fastq.exceptions import AmbiguousDeadLetter

__all__ = ["PREFIX_MIN", "Wanted", "Which", "which"]

#: characters of an id that must be given at least, where not all of it is
PREFIX_MIN = 4
#: letters kept of those that one id names: enough to say that it is not one
FEW = 6


@dataclass(frozen=True, slots=True)
class Which:
    """A filter; one that says nothing lets all pass."""

    queues: tuple[str, ...] = ()
    task: str = "*"
    reasons: frozenset[str] = frozenset()
    #: died at or after, and before
    since_ms: int | None = None
    until_ms: int | None = None
    #: in lower case
    text: str = ""

    @property
    def whole_queues(self) -> bool:
        """Say whether every letter of the queues is meant."""
        return self.task == "*" and not self.reasons and self.since_ms is None and self.until_ms is None and not self.text

    @property
    def everything(self) -> bool:
        return self.whole_queues and not self.queues

    def passes(self, letter: Letter, written: Callable[[Letter], str]) -> bool:
        """Say whether a letter is meant. ``written``: its arguments as text, asked for only if nothing else has the text."""
        if self.reasons and letter.reason not in self.reasons:
            return False
        if self.since_ms is not None and letter.record.dead_ms < self.since_ms:
            return False
        if self.until_ms is not None and letter.record.dead_ms >= self.until_ms:
            return False
        if self.task != "*" and not fnmatchcase(letter.name, self.task):
            return False
        if not self.text:
            return True
        seen = "\n".join((letter.id, letter.name, letter.full_error, letter.traceback))
        return self.text in seen.lower() or self.text in written(letter).lower()


def which(
    *,
    queue: str | Iterable[str] | None = None,
    task: str | None = None,
    reason: str | Iterable[str] | None = None,
    since: datetime | float | None = None,
    until: datetime | float | None = None,
    older_than: float | timedelta | None = None,
    newer_than: float | timedelta | None = None,
    text: str | None = None,
    now_ms: Callable[[], int],
) -> Which:
    """Make a filter of what callers give (see ``DeadLetters``); ValueError for what cannot be meant."""
    reasons = frozenset(_names(reason))
    for name in sorted(reasons - REASONS.keys()):
        near = difflib.get_close_matches(name, REASONS, 1)
        meant = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{name!r} is no reason of a dead letter.{meant} They are: {', '.join(REASONS)}.")
    since_ms, until_ms = _ms(since), _ms(until)
    if newer_than is not None:
        since_ms = max(since_ms or 0, now_ms() - _span_ms(newer_than, "newer_than"))
    if older_than is not None:
        limit_ms = now_ms() - _span_ms(older_than, "older_than")
        until_ms = limit_ms if until_ms is None else min(until_ms, limit_ms)
    return Which(tuple(dict.fromkeys(_names(queue))), task or "*", reasons, since_ms, until_ms, (text or "").lower())


def _names(given: str | Iterable[str] | None) -> list[str]:
    return [] if given is None else [given] if isinstance(given, str) else [*given]


def _ms(at: datetime | float | None) -> int | None:
    """A time without a zone is this machine's."""
    if at is None:
        return None
    return round((at.timestamp() if isinstance(at, datetime) else at) * 1000)


def _span_ms(span: float | timedelta, name: str) -> int:
    seconds = span.total_seconds() if isinstance(span, timedelta) else span
    if seconds < 0:
        raise ValueError(f"{name} is {seconds:g} s: expected how long ago, a number of seconds above 0 or a timedelta")
    return round(seconds * 1000)


@dataclass(slots=True)
class _Named:
    """The letters that one given id names."""

    #: by their own key or their whole id, by the beginning of it
    exact: list[Letter] = field(default_factory=list)
    begun: list[Letter] = field(default_factory=list)


class Wanted:
    """Ids as they were given: a task's id, a beginning of it that no other letter has, or a letter's own key."""

    def __init__(self, ids: Iterable[str]) -> None:
        self._named = {id: _Named() for id in ids}
        self._lengths = sorted({len(id) for id in self._named if len(id) >= PREFIX_MIN})

    def see(self, letter: Letter) -> None:
        """Take in one letter of all there are."""
        names = {letter.key, letter.id}
        for name in names:
            if (named := self._named.get(name)) is not None:
                _keep(named.exact, letter)
        for length in self._lengths:
            if length < len(letter.id) and (named := self._named.get(letter.id[:length])) is not None:
                _keep(named.begun, letter)

    def found(self) -> tuple[list[Letter], list[str]]:
        """Return the letters, each once, and the ids that name none. AmbiguousDeadLetter if one names several."""
        letters: dict[str, Letter] = {}
        missing: list[str] = []
        for id, named in self._named.items():
            meant = named.exact or named.begun
            if len(meant) > 1:
                raise AmbiguousDeadLetter(_ambiguous(id, meant, whole=bool(named.exact)))
            if not meant:
                missing.append(id)
            for letter in meant:
                letters[letter.key] = letter
        return list(letters.values()), missing


def _keep(letters: list[Letter], letter: Letter) -> None:
    if len(letters) < FEW:
        letters.append(letter)


def _ambiguous(id: str, letters: list[Letter], *, whole: bool) -> str:
    few = letters[: FEW - 1]
    lines = [f"  {letter.key}  {letter.id}  {letter.name}  {letter.reason}" for letter in few]
    if len(letters) > len(few):
        lines.append("  ...")
    if whole:
        return f"task {id} has died more than once; name one of its dead letters by its own key:\n" + "\n".join(lines)
    return f"more than one id begins with {id!r}; give more of it:\n" + "\n".join(lines)
