"""Wait for results without asking for each: the inbox of this process.

A process has one inbox, subscribed at its first wait: subscribe, read what came before, then wait. Whatever arrives is put straight
into the AsyncResult objects that the application holds (weakly known from the moment their task is sent), so a loop of ``get()``
over ten thousand results is a handful of calls. Who reads the inbox, and what can go wrong: ``mailroom.py``.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from fastq import patience
from fastq.waiting.mailroom import Mailroom
from fastq.waiting.tickets import Awaited, Ticket, Watched, sort_out

if TYPE_CHECKING:
    from fastq.transports.base import Inbox

__all__ = ["Awaited", "Waiter", "Watched"]

A = TypeVar("A", bound=Awaited)
T = TypeVar("T")

#: polling for results whose tasks this process did not send: there is no inbox for them
FOREIGN_FIRST_S, FOREIGN_MOST_S = 0.005, 0.5

_waiters: weakref.WeakSet[Waiter] = weakref.WeakSet()
_inherited: list[object] = []


class Waiter:
    """Wait for results of one application in one process. Safe from any thread, greenlet and event loop."""

    def __init__(
        self,
        read: Callable[[Sequence[str]], list[bytes | None]],
        open_inbox: Callable[[], Inbox],
        tells: Callable[[], bool] = lambda: True,
    ) -> None:
        """``read`` asks the backend for records (from any thread); ``open_inbox`` makes this process' inbox, not yet open;
        ``tells`` says whether anything will ever come there, or all must be read."""
        self._read = read
        self._open_inbox = open_inbox
        self._tells = tells
        self._mailroom: Mailroom | None = None
        self._base = 0
        _waiters.add(self)

    def _room(self) -> Mailroom:
        room = self._mailroom
        if room is None:
            # two threads may come here: both take the one that was put first
            fresh = Mailroom(self._base, lambda ids: self._read(ids), self._open_inbox)
            room = self._mailroom = self.__dict__.setdefault("_first", fresh)
        return room

    # --- sending ---

    def expect(self, result: Awaited) -> None:
        """Note a result before its task is sent, so that its record finds it however fast it comes."""
        room = self._mailroom or self._room()
        result.epoch = room.epoch
        sent = room.sent
        sent[result.id] = weakref.ref(result)
        if len(sent) > room.sweep_at:
            room.sweep()

    def watch(self, result: Watched) -> None:
        """Keep a result, and let it ``fire`` when its record comes while somebody waits."""
        room = self._room()
        with room.lock:
            room.watched[id(result)] = result
            if result.id not in room.sent:
                room.sent[result.id] = weakref.ref(result)

    # --- waiting ---

    def wait(self, results: Iterable[A], timeout_s: float | None, *, first: bool = False) -> list[A]:
        """Wait until all (``first``: at least one) of the results have arrived or the time is over; return those that have,
        without those that had before.

        Raises OperationalError when the inbox could not be reached for a while.
        """
        _, missing = sort_out(results)
        if not missing:
            return []
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        room = self._room()
        if self._foreign(room, missing):
            return self._poll(room, missing, deadline, first, deadline)
        ticket = Ticket.blocking(missing)
        stale = room.enter(ticket)
        try:
            with patience.until(deadline):
                while stale:
                    room.read_batch(stale)
                room.serve(ticket, deadline, first)
        finally:
            room.leave(ticket)
        return _taken(ticket)

    def arrivals(self, results: Iterable[A], timeout_s: float | None, step_s: float | None = None) -> Iterator[list[A]]:
        """Yield results as they arrive, several at once, those that have already first; ends with the last, or when the time is
        over.

        The work per result does not grow with their number, as it does in a loop of ``wait(first=True)``. With ``step_s`` also
        yields (perhaps nothing) about so often, seconds. Raises as ``wait`` does.
        """
        come, missing = sort_out(results)
        if come:
            yield come
        if not missing:
            return
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        room = self._room()
        foreign = self._foreign(room, missing)
        ticket = Ticket.blocking(missing)
        try:
            stale = None if foreign else room.enter(ticket)
            with patience.until(deadline):
                while stale:
                    room.read_batch(stale)
            while missing or ticket.fresh:
                until = deadline
                if step_s is not None:
                    step = time.monotonic() + step_s
                    until = step if deadline is None else min(step, deadline)
                if foreign:
                    fresh: list[A] = self._poll(room, missing, until, True, deadline)
                else:
                    with patience.until(deadline):
                        room.serve(ticket, until, True)
                    room.step_out(ticket)
                    fresh = _taken(ticket)
                if not fresh and until is deadline:
                    return
                yield fresh
                if not foreign and missing:
                    room.step_in(ticket)
        finally:
            if not foreign:
                room.leave(ticket)

    def _poll(
        self, room: Mailroom, missing: dict[str, list[Awaited]], deadline: float | None, first: bool, patient_until: float | None
    ) -> list[Any]:
        """Read with back-off what this process did not send; what comes is taken out of ``missing``. ``patient_until``: how long a
        server that does not answer is waited for."""
        found: list[Awaited] = []
        pause_s = FOREIGN_FIRST_S
        while True:
            with patience.until(patient_until):
                records = room.records.of(list(missing))
            for id, record in records:
                if record is None:
                    continue
                group = missing[id]
                if all([result.deliver(record) for result in group]):
                    del missing[id]
                    found.extend(group)
            if room.watched:
                room.ripen(records)
                room.tell_ripe()
            if not missing or (first and found):
                return found
            if deadline is not None:
                left = deadline - time.monotonic()
                if left <= 0:
                    return found
                pause_s = min(pause_s, left)
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.5, FOREIGN_MOST_S)

    # --- event loops ---

    async def await_(self, results: Iterable[A], timeout_s: float | None, *, first: bool = False) -> list[A]:
        """``wait`` for an event loop, any of several."""
        _, missing = sort_out(results)
        if not missing:
            return []
        import asyncio  # lazy: only where an event loop runs already

        loop = asyncio.get_running_loop()
        deadline = None if timeout_s is None else loop.time() + timeout_s
        room = self._room()
        if self._foreign(room, missing):
            return await self._apoll(room, missing, deadline, first)
        ticket = Ticket.looping(missing, loop)
        stale = room.enter(ticket)
        try:
            while stale:
                await loop.run_in_executor(None, _within(timeout_s, room.read_batch), stale)
            await self._aserve(room, ticket, deadline, first)
        finally:
            room.leave(ticket)
        return _taken(ticket)

    async def aarrivals(self, results: Iterable[A], timeout_s: float | None) -> AsyncGenerator[list[A]]:
        """``arrivals`` for an event loop."""
        come, missing = sort_out(results)
        if come:
            yield come
        if not missing:
            return
        import asyncio  # lazy: only where an event loop runs already

        loop = asyncio.get_running_loop()
        deadline = None if timeout_s is None else loop.time() + timeout_s
        room = self._room()
        if self._foreign(room, missing):
            while missing and (polled := await self._apoll(room, missing, deadline, True)):
                yield polled
            return
        ticket = Ticket.looping(missing, loop)
        stale = room.enter(ticket)
        try:
            while stale:
                await loop.run_in_executor(None, _within(timeout_s, room.read_batch), stale)
            while missing or ticket.fresh:
                await self._aserve(room, ticket, deadline, True)
                fresh: list[A] = _taken(ticket)
                if not fresh:
                    return
                yield fresh
        finally:
            room.leave(ticket)

    async def _aserve(self, room: Mailroom, ticket: Ticket, deadline: float | None, first: bool) -> None:
        import asyncio  # lazy: only where an event loop runs already

        loop, wake = ticket.loop, ticket.wake
        assert loop is not None and wake is not None
        while ticket.waits(first):
            if ticket.error is not None:
                raise ticket.error
            wake.clear()
            room.reader.call()
            if ticket.waits(first):
                left = None if deadline is None else deadline - loop.time()
                if left is not None and left <= 0:
                    break
                try:
                    async with asyncio.timeout(left):
                        await wake.wait()
                except TimeoutError:
                    break
        if ticket.waits(first):
            await loop.run_in_executor(None, _within(0.0, room.read_waiting), ticket)

    async def _apoll(self, room: Mailroom, missing: dict[str, list[Awaited]], deadline: float | None, first: bool) -> list[Any]:
        import asyncio  # lazy: only where an event loop runs already

        loop = asyncio.get_running_loop()
        found: list[Awaited] = []
        pause_s = FOREIGN_FIRST_S
        patient_until = None if deadline is None else time.monotonic() + deadline - loop.time()
        while True:
            found += await loop.run_in_executor(None, self._poll, room, missing, time.monotonic(), first, patient_until)
            if not missing or (first and found):
                return found
            if deadline is not None:
                left = deadline - loop.time()
                if left <= 0:
                    return found
                pause_s = min(pause_s, left)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.5, FOREIGN_MOST_S)

    def _foreign(self, room: Mailroom, missing: dict[str, list[Awaited]]) -> bool:
        """Say whether one is not known to come to this process' inbox."""
        return not self._tells() or any(result.epoch < room.base for group in missing.values() for result in group)

    # --- end ---

    def close(self) -> None:
        """Drop the subscription; a later wait subscribes again."""
        if self._mailroom is not None:
            self._mailroom.close()

    def _after_fork(self) -> None:
        room = self.__dict__.pop("_first", None)
        self._mailroom = None
        if room is not None:
            _inherited.append(room)
            self._base = room.epoch + 1


def _within(seconds: float | None, read: Callable[[T], object]) -> Callable[[T], object]:
    """Return what reads in a thread of an executor, which does not know how long the caller can wait."""
    if seconds is None:
        return read
    deadline = time.monotonic() + seconds

    def hurried(what: T) -> object:
        with patience.until(deadline):
            return read(what)

    return hurried


def _taken(ticket: Ticket) -> list[Any]:
    return ticket.take()


def _after_fork_in_child() -> None:
    for waiter in list(_waiters):
        waiter._after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)
