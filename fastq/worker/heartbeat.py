"""Say to the broker how a node is, every third of a lease, so that others can see it without asking it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from fastq._core import packb
from fastq.exceptions import OperationalError
from fastq.worker.nodeinfo import describe

if TYPE_CHECKING:
    from fastq.transports.channel import Channel
    from fastq.worker.loop import Timer
    from fastq.worker.node import Node

__all__ = ["Heartbeat"]

logger = logging.getLogger("fastq.worker")


class Heartbeat:
    """A service: see ``Services``."""

    def __init__(self, node: Node, channel: Channel, hear: Callable[[bool], object]) -> None:
        """``hear`` is told by each beat whether somebody listens to events."""
        self._node = node
        self._channel = channel
        self._hear = hear
        #: called after each beat with whether somebody listens to events, and what the node has said of itself
        self.beaten: Callable[[bool, Mapping[str, Any]], object] | None = None
        self._timer: Timer | None = None
        self._running = False
        #: the broker's clock minus the monotonic one, ms; None: never seen
        self._offset_ms: float | None = None

    @property
    def every_s(self) -> float:
        return self._node.hello.lease_ms / 3000

    def now_ms(self) -> int | None:
        """Return the broker's clock, Unix ms; None as long as no beat was answered."""
        return None if self._offset_ms is None else round(time.monotonic() * 1000 + self._offset_ms)

    def start(self) -> None:
        self._running = True
        self._beat()

    def now(self) -> None:
        """Beat soon, not only when it is time."""
        if self._running:
            # not at once: a caller in the middle of a change has not finished it
            self._schedule(0)

    def _schedule(self, delay_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._node.loop.after(delay_s, self._beat)

    def _beat(self) -> None:
        self._schedule(self.every_s)
        if not self._node.reachable:
            return  # the keeper tries it, and one that waits for an answer is enough
        try:
            said = describe(self._node, events=self._node.services.events.enabled)
            info = packb(said)
        except Exception:  # the next beats must come
            logger.exception("This node cannot say how it is")
            return
        try:
            answer = self._channel.beat(self._node.name, info, 2 * self._node.hello.lease_ms)
        except OperationalError as exc:
            logger.debug("The broker has not taken the heartbeat: %s", exc)  # the keeper says what is wrong, once
            return
        self._offset_ms = answer.now_ms - time.monotonic() * 1000
        try:
            self._hear(answer.listened)
            if self.beaten is not None:
                self.beaten(answer.listened, said)
        except Exception:  # the next beats must come
            logger.exception("What the heartbeat was answered could not be made use of")

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._running:
            self._running = False
            with suppress(OperationalError):  # it expires
                self._channel.leave(self._node.name)
