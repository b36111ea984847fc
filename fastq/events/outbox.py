"""Send what a process tells, from a thread of its own: nobody waits for it, and what cannot be sent is dropped and counted."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from fastq._core import peek
from fastq.events import batch
from fastq.exceptions import FastQError

if TYPE_CHECKING:
    from fastq.records import Publication
    from fastq.transports.channel import Channel

__all__ = ["Outbox"]

logger = logging.getLogger("fastq.events")

#: seconds for which single events are gathered
GATHER_S = 0.05
#: batches and single events that wait, at most: a broker that is slow or away costs no more memory than that
BATCHES_MAX = 16
EVENTS_MAX = 2_000
#: seconds without an attempt after one that failed
PAUSE_S = 2.0
#: seconds for which it is believed whether somebody listens
ASK_S = 3.0


class Outbox:
    """What one process tells. Any thread may put something in; the thread that sends starts with the first of it.

    Survives forks: a child has a thread and a connection of its own, and nothing that its parent had put in.
    """

    def __init__(self, open_channel: Callable[[], Channel], node: str, *, keep: int, expires_s: int) -> None:
        self.node = node
        self._open_channel = open_channel
        self._keep = keep
        self._expires_s = expires_s
        #: what was told and never sent, since the start
        self.dropped = 0
        self._fresh()

    def _fresh(self) -> None:
        self._pid = os.getpid()
        self._batches: deque[tuple[bytes, int]] = deque()
        self._events: deque[dict[str, Any]] = deque()
        self._sent: deque[tuple[float, Publication]] = deque()
        self._left = 0
        self._wake = threading.Event()
        self._hurry = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._channel: Channel | None = None
        self._silent_until = 0.0
        self._listened = True
        self._ask_at = 0.0

    # --- putting in ---

    def put(self, packed: bytes, events: int = 1) -> None:
        """Send a batch; ``events`` count as dropped if that fails."""
        self._ready()
        if len(self._batches) >= BATCHES_MAX:
            self._drop(events)
            return
        self._batches.append((packed, events))
        self._notify()

    def take_left(self) -> int:
        """Return how many were dropped and nobody has told of; whoever asks tells of them with the next batch."""
        self._ready()
        left, self._left = self._left, 0
        return left

    def tell(self, type: str, **fields: Any) -> dict[str, Any]:
        """Send one event, together with others of the same moment."""
        self._ready()
        event = {"type": type, "timestamp": time.time(), **fields}
        if len(self._events) >= EVENTS_MAX:
            self._drop(1)
        else:
            self._events.append(event)
            self._notify()
        return event

    def published(self, publications: Sequence[Publication]) -> None:
        """Tell task-sent of what was published just now; called by producers, so as little as can be is done here."""
        self._ready()
        sent = self._sent
        room = EVENTS_MAX - len(sent)
        now_s = time.time()
        if room < len(publications):
            self._drop(len(publications) - max(0, room))
            publications = publications[: max(0, room)]
        sent.extend([(now_s, publication) for publication in publications])
        self._notify()

    def _ready(self) -> None:
        if self._pid != os.getpid():
            self._fresh()

    def _notify(self) -> None:
        self._idle.clear()
        self._wake.set()
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    thread = threading.Thread(target=self._run, name="fastq-events", daemon=True)
                    with suppress(RuntimeError):  # the interpreter ends: no more threads
                        thread.start()
                        self._thread = thread

    def flush(self, timeout_s: float = 1.0) -> bool:
        """Wait until what was put in is sent, or dropped; False if that took too long."""
        self._ready()
        if self._thread is None:
            return True
        self._hurry.set()
        try:
            return self._idle.wait(timeout_s)
        finally:
            self._hurry.clear()

    def close(self, timeout_s: float = 1.0) -> None:
        """Send what is there and end the thread. It can be used again."""
        self._ready()
        thread = self._thread
        if thread is None:
            return
        self._closing = True
        self._hurry.set()
        self._wake.set()
        thread.join(timeout_s)
        self._fresh()

    # --- the thread ---

    def _run(self) -> None:
        while True:
            self._wake.wait()
            if not self._batches and not self._closing:
                self._hurry.wait(GATHER_S)
            self._wake.clear()
            try:
                self._send()
            except Exception:  # events must never end what they tell of
                logger.exception("Events could not be sent")
                self._silent_until = time.monotonic() + PAUSE_S
            if not (self._batches or self._events or self._sent):
                self._idle.set()
                if self._wake.is_set():
                    self._idle.clear()
            if self._closing and self._idle.is_set():
                self._drop_channel()
                return

    def _send(self) -> None:
        batches, told, n = self._take()
        if not n:
            return
        if time.monotonic() < self._silent_until:
            self._drop(n)
            return
        try:
            channel = self._channel
            if channel is None:
                channel = self._channel = self._open_channel()
            if told and self._heard(channel):
                batches.append(batch.pack(self.node, told=told, left=self.take_left()))
            if batches:
                channel.send_events(batches, keep=self._keep, expires_s=self._expires_s)
        except FastQError as exc:
            if not self._silent_until:
                logger.warning("Events cannot be sent now, and are dropped: %s", exc)
            self._silent_until = time.monotonic() + PAUSE_S
            self._drop(n)
            self._drop_channel()
        else:
            self._silent_until = 0.0

    def _take(self) -> tuple[list[bytes], list[dict[str, Any]], int]:
        """Return batches, single events, and how many events that are in all."""
        batches: list[bytes] = []
        told: list[dict[str, Any]] = []
        n = 0
        while self._batches:
            packed, events = self._batches.popleft()
            batches.append(packed)
            n += events
        while self._events:
            told.append(self._events.popleft())
        while self._sent:
            at_s, publication = self._sent.popleft()
            told.append(_sent(at_s, publication))
        return batches, told, n + len(told)

    def _heard(self, channel: Channel) -> bool:
        """Say whether somebody listens to single events, as far as is known: asked now and then. Batches are only made where a
        supervisor has said so."""
        now = time.monotonic()
        if now >= self._ask_at:
            self._ask_at = now + ASK_S
            self._listened = channel.listened()
        return self._listened

    def _drop(self, n: int) -> None:
        self.dropped += n
        self._left += n

    def _drop_channel(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            with suppress(FastQError):
                channel.close()


def _sent(at_s: float, publication: Publication) -> dict[str, Any]:
    d = peek(publication.message)
    return {
        "type": "task-sent", "timestamp": at_s, "uuid": d.id, "queue": publication.queue, "exchange": "",
        "routing_key": publication.queue, **batch.what_of(d),
    }  # fmt: skip
