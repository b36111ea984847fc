"""Look at dead letters, put them back, drop them: what ``app.dead_letters`` is."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

from fastq.dead.letter import Letter
from fastq.dead.opened import Opened, arguments, open_letter
from fastq.dead.revival import Unchangeable, revive
from fastq.dead.which import Wanted, Which, which
from fastq.ending import FAILURE
from fastq.exceptions import DeadLetterNotFound
from fastq.records import DeadLetter, Revival
from fastq.transports import open_inspector

if TYPE_CHECKING:
    from typing import Unpack

    from fastq.app import FastQ
    from fastq.transports.base import Backend, Broker, Inspector

__all__ = ["DeadLetters", "Filter", "Handled"]

#: letters read, put back or dropped in one step
PAGE = 50


class Filter(TypedDict, total=False):
    """What narrows down which dead letters are meant."""

    #: one or several; none: all queues of the broker
    queue: str | Iterable[str] | None
    #: task name, with ``*`` and ``?``
    task: str | None
    #: one or several of REASONS
    reason: str | Iterable[str] | None
    #: died at or after; and before: a datetime (without a zone: this machine's), or Unix seconds
    since: datetime | float | None
    until: datetime | float | None
    #: died longer ago than so many seconds; less long ago
    older_than: float | timedelta | None
    newer_than: float | timedelta | None
    #: in the error, the traceback, the id, the name or the arguments, in capitals or not
    text: str | None


class Handled(NamedTuple):
    """What became of a call that puts back or drops."""

    #: letters that were put back or dropped
    number: int
    #: ids that name no dead letter
    missing: tuple[str, ...] = ()
    #: letters that were left where they are, and why
    left: tuple[tuple[Letter, str], ...] = ()


class DeadLetters:
    """The dead letters of an application's broker. Opens its connections for each call; safe from any thread.

    They are read in pages: no call holds more of them than it returns, however many there are. An *id* is that of the task, or a
    beginning of it (4 characters at least) that no other dead letter has, or the letter's own ``key``. Where ids and a filter are
    given, both must fit.
    """

    def __init__(self, app: FastQ) -> None:
        self._app = app

    # --- looking ---

    def walk(self, **filter: Unpack[Filter]) -> Iterator[Letter]:
        """Yield letters, newest first. Those that come in meanwhile are not among them."""
        with self._inspecting() as inspector:
            meant = self._which(filter)
            walks = [self._queue(inspector, queue, meant) for queue in self._queues(inspector, meant)]
            yield from heapq.merge(*walks, key=lambda letter: -letter.record.dead_ms)

    def list(self, *, limit: int | None = 100, offset: int = 0, **filter: Unpack[Filter]) -> Sequence[Letter]:
        """Return letters, newest first; ``limit`` None: all of them."""
        return [*islice(self.walk(**filter), offset, None if limit is None else offset + limit)]

    def count(self, **filter: Unpack[Filter]) -> int:
        """Return how many there are."""
        with self._inspecting() as inspector:
            meant = self._which(filter)
            queues = self._queues(inspector, meant)
            if meant.whole_queues:
                return sum(inspector.depth(queue)["dead"] for queue in queues)
            return sum(1 for queue in queues for _ in self._queue(inspector, queue, meant))

    def find(self, ids: str | Iterable[str], **filter: Unpack[Filter]) -> tuple[Sequence[Letter], Sequence[str]]:
        """Return the letters that the ids name, and the ids that name none. AmbiguousDeadLetter if one names several."""
        with self._inspecting() as inspector:
            return self._find(inspector, _ids(ids), self._which(filter))

    def show(self, id: str, **filter: Unpack[Filter]) -> Opened:
        """Return one letter with all that is in it. DeadLetterNotFound, AmbiguousDeadLetter."""
        letters, missing = self.find(id, **filter)
        if missing:
            raise DeadLetterNotFound(
                f"no dead letter has the id {id!r}, a beginning of it (4 characters at least), or the key {id!r}: it may have been "
                "put back or dropped, or its time is over (dead_letter_expires, dead_letter_max)"
            )
        return self.open(letters[0])

    def open(self, letter: Letter) -> Opened:
        """Read what is in a letter, with what this application accepts."""
        return open_letter(letter, self._app.serializers)

    # --- doing ---

    def retry(
        self,
        ids: str | Iterable[str] | None = None,
        *,
        everything: bool = False,
        to: str | None = None,
        reset_retries: bool = False,
        limit: int | None = None,
        **filter: Unpack[Filter],
    ) -> Handled:
        """Put letters back into their queues, or into the queue ``to``, to be run as if they had just been sent.

        Per letter one step: a call that dies has put back some of them, none twice. What was counted against the task is forgiven;
        its retries are not, unless ``reset_retries``: a task at its ``max_retries`` that fails once is a dead letter again. A time
        for its start (``expires``) that is over is lifted. The stored failure of the task goes, and of those behind it in its
        chain: they are PENDING until they end, so ``get()`` waits again. A chord of which it was a member hears nothing of it.

        ValueError if neither ids nor a filter are given, and not ``everything`` either.
        """
        if to == "":
            raise ValueError("to='': expected the name of a queue, or None for that of each letter")
        with self._inspecting() as inspector, self._reviving(inspector, to, reset_retries) as put_back:
            return self._handle(inspector, "retry", ids, everything, limit, filter, put_back)

    def delete(
        self,
        ids: str | Iterable[str] | None = None,
        *,
        everything: bool = False,
        limit: int | None = None,
        **filter: Unpack[Filter],
    ) -> Handled:
        """Drop letters; there is no undo. ValueError as for ``retry``."""
        with self._inspecting() as inspector:

            def drop(queue: str, letters: Sequence[Letter]) -> Handled:
                return Handled(inspector.delete_dead(queue, [letter.record.key for letter in letters]))

            return self._handle(inspector, "delete", ids, everything, limit, filter, drop)

    def purge(self, **filter: Unpack[Filter]) -> int:
        """Drop all letters, or all that a filter lets pass; return how many. There is no undo."""
        return self.delete(everything=True, **filter).number

    # ---

    def _handle(
        self,
        inspector: Inspector,
        verb: str,
        ids: str | Iterable[str] | None,
        everything: bool,
        limit: int | None,
        filter: Filter,
        do: Callable[[str, Sequence[Letter]], Handled],
    ) -> Handled:
        meant = self._which(filter)
        if ids is not None:
            return self._handle_named(inspector, _ids(ids), meant, do)
        if meant.everything and not everything:
            raise ValueError(f"{verb}() of which dead letters? Give ids or a filter, or everything=True")
        number = 0
        left: list[tuple[Letter, str]] = []
        for queue in self._queues(inspector, meant):
            for page in self._pages(inspector, queue, meant):
                some = page if limit is None else page[: limit - number - len(left)]
                if some:
                    # The oldest of the page first, as they were sent.
                    done = do(queue, some[::-1])
                    number += done.number
                    left += done.left
                if limit is not None and number + len(left) >= limit:
                    return Handled(number, left=tuple(left))
        return Handled(number, left=tuple(left))

    def _handle_named(
        self, inspector: Inspector, ids: Sequence[str], meant: Which, do: Callable[[str, Sequence[Letter]], Handled]
    ) -> Handled:
        letters, missing = self._find(inspector, ids, meant)
        number = 0
        left: list[tuple[Letter, str]] = []
        for queue in dict.fromkeys(letter.queue for letter in letters):
            here = sorted((letter for letter in letters if letter.queue == queue), key=lambda letter: letter.record.place)
            for start in range(0, len(here), PAGE):
                done = do(queue, here[start : start + PAGE])
                number += done.number
                left += done.left
        return Handled(number, tuple(missing), tuple(left))

    @contextmanager
    def _reviving(
        self, inspector: Inspector, to: str | None, reset_retries: bool
    ) -> Iterator[Callable[[str, Sequence[Letter]], Handled]]:
        """Yield what puts letters of one queue back."""
        app = self._app
        broker = app.open_broker()
        backend = app.backend.raw if app.keeps_results else None
        elsewhere = None if backend is None or backend.shares(broker) else backend

        def put_back(queue: str, letters: Sequence[Letter]) -> Handled:
            now_ms = broker.now_ms()
            changes: dict[str, Revival] = {}
            left = []
            for letter in letters:
                try:
                    changes[letter.record.key] = revive(letter, reset_retries=reset_retries, now_ms=now_ms, signer=app.signer)
                except Unchangeable as exc:
                    left.append((letter, str(exc)))
            if elsewhere is not None:
                # First: forgotten behind it, the result of the new run might be what is forgotten. Should this process die in
                # between, the letter is still there, to be put back again.
                _forget(elsewhere, [id for change in changes.values() for id in change.forget])
            return Handled(inspector.retry_dead(queue, list(changes), changes=changes, to=to), left=tuple(left))

        try:
            yield put_back
        finally:
            broker.close()

    def _find(self, inspector: Inspector, ids: Sequence[str], meant: Which) -> tuple[Sequence[Letter], Sequence[str]]:
        wanted = Wanted(ids)
        for queue in self._queues(inspector, meant):
            for letter in self._queue(inspector, queue, meant):
                wanted.see(letter)
        return wanted.found()

    def _queue(self, inspector: Inspector, queue: str, meant: Which) -> Iterator[Letter]:
        for page in self._pages(inspector, queue, meant):
            yield from page

    def _pages(self, inspector: Inspector, queue: str, meant: Which) -> Iterator[Sequence[Letter]]:
        """Yield what a filter lets pass of each page of a queue. Newest first: what dies meanwhile, perhaps because it was put
        back, is not met."""
        last: DeadLetter | None = None
        while page := inspector.dead(queue, limit=PAGE, before=last):
            last = page[-1]
            yield [letter for letter in map(Letter, page) if meant.passes(letter, self._written)]

    def _written(self, letter: Letter) -> str:
        try:
            return repr(arguments(letter, self._app.serializers))
        except Exception:  # what cannot be read, or not be shown, has no text to look in
            return ""

    @staticmethod
    def _queues(inspector: Inspector, meant: Which) -> Sequence[str]:
        return meant.queues or inspector.queues()

    def _which(self, filter: Filter) -> Which:
        return which(**filter, now_ms=self._now_ms)

    def _now_ms(self) -> int:
        broker: Broker = self._app.open_broker()
        try:
            return broker.now_ms()
        finally:
            broker.close()

    @contextmanager
    def _inspecting(self) -> Iterator[Inspector]:
        inspector = open_inspector(self._app.broker_url, self._app.transport_options())
        try:
            yield inspector
        finally:
            inspector.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._app.name}>"


def _forget(backend: Backend, ids: Sequence[str]) -> None:
    records = backend.get(ids)
    if failed := [id for id, record in zip(ids, records, strict=True) if record is not None and record.startswith(FAILURE)]:
        backend.forget(failed)


def _ids(given: Any) -> Sequence[str]:
    ids = [given] if isinstance(given, str) else [*given]
    for id in ids:
        if not isinstance(id, str):
            raise TypeError(f"the id of a dead letter is text, not {type(id).__name__}: {id!r:.80}")
        if not id:
            raise ValueError("the id of a dead letter is empty")
    return ids
