"""What a node offers beside running tasks: it says how it is, and it answers. All of it runs in the node's loop."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from fastq.security import make_signer
from fastq.transports import open_channel
from fastq.worker.cancelling import Cancelling
from fastq.worker.eventing import Eventing
from fastq.worker.heartbeat import Heartbeat
from fastq.worker.http.doors import Doors
from fastq.worker.opening import transport_options
from fastq.worker.station import Station

if TYPE_CHECKING:
    from fastq.worker.node import Node

__all__ = ["Service", "Services"]

logger = logging.getLogger("fastq.worker")


class Service(Protocol):
    """A part that begins when the broker has answered for the first time, and ends with the node."""

    def start(self) -> None:
        """Begin; in the node's loop. What it raises is logged, and the node goes on without this part."""
        ...

    def stop(self) -> None:
        """End; the loop does not run any more. Also called if it never began."""
        ...


class Services:
    """The services of one node."""

    def __init__(self, node: Node) -> None:
        hello = node.hello
        #: short timeouts, as the keeper's
        self.channel = open_channel(hello.broker_url, transport_options(hello))
        #: somebody listens to events, as the last heartbeat was told
        self.listened = False
        #: called with ``listened`` when it has changed
        self.on_listened: list[Callable[[bool], object]] = []
        #: called when the node has come to another stage
        self.on_changed: list[Callable[[], object]] = []
        self.heartbeat = Heartbeat(node, self.channel, self._hear)
        self.events = Eventing(node, self.channel)
        self.heartbeat.beaten = self.events.beaten
        self.cancelling = Cancelling(node)
        self.doors = Doors(node)
        self._parts: list[Service] = [self.heartbeat, self.events, node.steering.autoscaler, self.cancelling]
        if hello.remote_control:
            signer = make_signer(hello.security_key, hello.security_trusted_keys)
            self._parts.append(Station(node, self.channel, signer, self.heartbeat.now_ms))

    def _hear(self, listened: bool) -> None:
        if listened == self.listened:
            return
        self.listened = listened
        for tell in self.on_listened:
            tell(listened)

    def add(self, part: Service) -> None:
        """Add a part, before they begin."""
        self._parts.append(part)

    def open(self) -> None:
        """Serve health and metrics, before the broker has answered; ImproperlyConfigured if ``worker_http`` cannot be served."""
        self.doors.open()

    def start(self) -> None:
        """Begin: the broker has answered."""
        for part in self._parts:
            try:
                part.start()
            except Exception:  # tasks must run all the same
                logger.exception("%s of this node does not work", type(part).__name__)

    def changed(self) -> None:
        """Take in that the node has come to another stage."""
        self.heartbeat.now()
        for tell in self.on_changed:
            tell()

    def stop(self) -> None:
        """End: nothing runs any more, and the loop has ended. Harmless if it never began, and to call again."""
        parts, self._parts = self._parts, []
        for part in reversed(parts):
            try:
                part.stop()
            except Exception:  # the others must end too
                logger.exception("%s of this node did not end well", type(part).__name__)
        self.doors.close()
        if parts:
            self.channel.close()
