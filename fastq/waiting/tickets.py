"""One caller's wait for some results: a ticket."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    import asyncio

__all__ = ["Awaited", "Ticket", "Watched", "sort_out"]


class Awaited(Protocol):
    """What the waiter needs of an AsyncResult."""

    id: str
    #: the inbox epoch in which its task was sent; -1: not sent by this process (nor one that forked it)
    epoch: int

    def arrived(self) -> bool:
        """Say whether its final record is here."""
        ...

    def deliver(self, record: bytes) -> bool:
        """Take a record; True if it is a final one."""
        ...


class Watched(Awaited, Protocol):
    """A result that does something when it has come."""

    def fire(self) -> None:
        """Do it, once; its record is there."""
        ...


A = TypeVar("A", bound=Awaited)


def sort_out(results: Iterable[A]) -> tuple[list[A], dict[str, list[Awaited]]]:
    """Return those that have arrived, and the others by id."""
    come: list[A] = []
    missing: dict[str, list[Awaited]] = {}
    for result in results:
        if result.arrived():
            come.append(result)
        else:
            missing.setdefault(result.id, []).append(result)
    return come, missing


class Ticket:
    """One caller's wait for some results. What is in it changes under the lock of the mailroom."""

    __slots__ = ("error", "fresh", "gate", "lead", "loop", "missing", "wake")

    def __init__(self, missing: dict[str, list[Awaited]]) -> None:
        self.missing = missing
        #: results that have arrived and were not taken yet
        self.fresh: deque[Awaited] = deque()
        #: of a thread or greenlet: released when something arrived, when it should lead, or on error
        self.gate: threading.Lock | None = None
        #: of an event loop
        self.loop: asyncio.AbstractEventLoop | None = None
        self.wake: asyncio.Event | None = None
        #: it is this caller who reads the inbox
        self.lead = False
        self.error: BaseException | None = None

    @classmethod
    def blocking(cls, missing: dict[str, list[Awaited]]) -> Ticket:
        """Return the ticket of a thread or greenlet."""
        ticket = cls(missing)
        ticket.gate = threading.Lock()
        ticket.gate.acquire()
        return ticket

    @classmethod
    def looping(cls, missing: dict[str, list[Awaited]], loop: asyncio.AbstractEventLoop) -> Ticket:
        """Return the ticket of a coroutine in that loop."""
        import asyncio  # lazy: only where an event loop runs already

        ticket = cls(missing)
        ticket.loop = loop
        ticket.wake = asyncio.Event()
        return ticket

    def waits(self, first: bool) -> bool:
        """Say whether it still waits: for all, or (``first``) for anything that was not taken yet."""
        return bool(self.missing) and not (first and self.fresh)

    def take(self) -> list[Awaited]:
        """Return what has arrived since the last time."""
        taken: list[Awaited] = []
        with suppress(IndexError):  # others may put in more meanwhile
            while True:
                taken.append(self.fresh.popleft())
        return taken

    def notify(self) -> None:
        """Wake the caller. Called under the lock."""
        if self.gate is not None:
            if self.gate.locked():
                self.gate.release()
        elif self.loop is not None and self.wake is not None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self.loop.call_soon_threadsafe(self.wake.set)
