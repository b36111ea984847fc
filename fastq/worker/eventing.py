"""Events of a node: switched on and off, told to its processes as long as somebody listens; and what a node tells of itself."""

from __future__ import annotations

import logging
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from fastq import __version__
from fastq.events.batch import ENDED, pack, what_of
from fastq.exceptions import OperationalError

if TYPE_CHECKING:
    from fastq._core import Delivery
    from fastq.transports.channel import Channel
    from fastq.worker.loop import Timer
    from fastq.worker.node import Node

__all__ = ["Eventing"]

logger = logging.getLogger("fastq.worker")

#: as Celery's workers say who they are
IDENT = "fastq"
#: seconds for which a node that is listened to again waits for its processes to tell of their tasks, before it says that it is
#: there; one that is held up by a task needs longer
CONFIRM_S = 1.0


class Eventing:
    """A service: see ``Services``."""

    def __init__(self, node: Node, channel: Channel) -> None:
        self._node = node
        self._channel = channel
        #: tasks are to be told of: ``-E``, ``worker_send_task_events``, ``enable_events``
        self.enabled = node.hello.events
        self._listened = False
        self._told = False
        self._online = False
        #: what the node has said of itself last
        self._said: Mapping[str, Any] = {}
        #: number of the last order to the processes, and how many have not carried it out yet
        self._number = 0
        self._awaited = 0
        self._patience: Timer | None = None

    # --- on and off ---

    def enable(self) -> bool:
        """Tell of tasks from now on; False if that was so already."""
        if self.enabled:
            return False
        self.enabled = True
        self._tell_processes()
        self._node.services.heartbeat.now()  # others see it at once
        return True

    def disable(self) -> bool:
        """Tell of no task any more; False if that was so already."""
        if not self.enabled:
            return False
        self.enabled = False
        self._tell_processes()
        self._node.services.heartbeat.now()
        return True

    def _tell_processes(self) -> None:
        wanted = self.enabled and self._listened
        if wanted != self._told:
            self._told = wanted
            self._number += 1
            order = {"do": "events", "on": wanted, "receipt": self._number}
            self._awaited = self._node.order(order, standing="events")

    def confirmed(self, number: int) -> None:
        """A process has carried out the order with this number."""
        if number == self._number and self._awaited:
            self._awaited -= 1
            if not self._awaited and self._patience is not None:
                self._say()

    # --- what the node tells of itself ---

    def beaten(self, listened: bool, info: Mapping[str, Any]) -> None:
        """A heartbeat was answered: it says whether somebody listens. What a node says of itself is told whether events of tasks
        are enabled or not: it costs one call per beat.

        It says so when its processes have carried out the order: whoever has heard of a node hears of every task that begins there.
        """
        self._listened, self._said = listened, info
        self._tell_processes()
        if not listened:
            self._online = False  # whoever listens next hears of it as of a new one
            self._hurry()
        elif not self._awaited:
            self._say()
        elif self._patience is None:
            self._patience = self._node.loop.after(CONFIRM_S, self._say)

    def _hurry(self) -> None:
        """Wait for no process."""
        self._awaited = 0
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _say(self) -> None:
        self._hurry()
        kind = "worker-heartbeat" if self._online else "worker-online"
        self._online = True
        self._send(kind, self._said)

    def ended(self, d: Delivery, outcome: str, why: str) -> None:
        """A task was settled from here, because its process is dead. ``why``: the error, or the signal that ended it."""
        if not self._told:
            return
        fields: dict[str, Any] = {"exception": why, "traceback": None}
        if outcome == "revoked":
            fields = {"terminated": True, "signum": _number_of(why), "expired": False}
        event = {"type": f"task-{outcome}", "of_task": ENDED, "timestamp": time.time(), "uuid": d.id, "by_another": True}
        self._put({**event, **what_of(d), **fields})

    def _send(self, kind: str, info: Mapping[str, Any]) -> None:
        event = {
            "type": kind,
            "timestamp": time.time(),
            "freq": info.get("freq_s"),
            "active": info.get("active"),
            "processed": info.get("processed"),
            "loadavg": info.get("loadavg"),
            "sw_ident": IDENT,
            "sw_ver": __version__,
            "sw_sys": sys.platform.capitalize(),
        }
        self._put(event)

    def _put(self, event: Mapping[str, Any]) -> None:
        hello = self._node.hello
        with suppress(OperationalError):  # the keeper says what is wrong with the broker
            self._channel.send_events(
                [pack(self._node.name, told=[event])], keep=hello.event_stream_max, expires_s=hello.event_expires_s
            )

    # --- a service ---

    def start(self) -> None:
        """Nothing to do before the first beat."""

    def stop(self) -> None:
        self._hurry()
        if self._online:
            self._online = False
            # not looked at again: its processes, and what they have counted, are gone
            self._send("worker-offline", {**self._said, "active": 0})


def _number_of(name: str) -> int | None:
    found = getattr(signal, name, None)
    return None if found is None else int(found)
