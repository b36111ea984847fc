"""The thread that reads the inbox for event loops, when no thread or greenlet does."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from fastq.exceptions import OperationalError

if TYPE_CHECKING:
    from fastq.waiting.mailroom import Mailroom

__all__ = ["LoopReader"]

logger = logging.getLogger("fastq.waiting.waiter")

#: how soon the reader thread sees that it is no longer needed
READER_STEP_S = 1.0


class LoopReader:
    """One per mailroom; its thread is started when it is first needed and sleeps between times."""

    __slots__ = ("_gate", "_room", "_thread")

    def __init__(self, room: Mailroom) -> None:
        # weakly: the thread must not keep alive what nobody uses any more
        self._room = weakref.ref(room)
        self._gate: threading.Lock | None = None
        self._thread: threading.Thread | None = None

    def call(self) -> None:
        """Make it lead if nobody does."""
        room = self._room()
        if room is None:
            return
        wake: Callable[[], object] | None = None
        with room.lock:
            if not room.leading:
                room.leading = True
                wake = self.wake()
        if wake is not None:
            wake()

    def wake(self) -> Callable[[], object]:
        """Return what wakes it, to lead. Called under the lock of the mailroom, whose lead it has been given."""
        gate = self._gate
        if gate is None:
            gate = self._gate = threading.Lock()
            gate.acquire()
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=_serve, args=(self._room, gate), name="fastq-inbox", daemon=True)
            self._thread.start()
        return gate.release


def _serve(owner: weakref.ref[Mailroom], gate: threading.Lock) -> None:
    """Lead whenever woken."""
    while True:
        gate.acquire()
        room = owner()
        if room is None:
            return
        then: Callable[[], object] | None = None
        try:
            room.lead(None, None, False)
        except OperationalError as exc:  # every ticket has been told
            logger.error("The inbox cannot be reached: %s", exc)
        finally:
            with room.lock:
                then = room.pass_lead()
            if then is not None:
                then()
            if room.ripe:
                room.tell_ripe()
            del room
