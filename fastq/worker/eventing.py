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
    from fastq.worker.node import Node

__all__ = ["Eventing"]

logger = logging.getLogger("fastq.worker")

#: as Celery's workers say who they are
IDENT = "fastq"


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
            self._node.order({"do": "events", "on": wanted}, standing="events")

    # --- what the node tells of itself ---

    def beaten(self, listened: bool, info: Mapping[str, Any]) -> None:
        """A heartbeat was answered: it says whether somebody listens. What a node says of itself is told whether events of tasks
        are enabled or not: it costs one call per beat."""
        self._listened, self._said = listened, info
        self._tell_processes()
        if not listened:
            self._online = False  # whoever listens next hears of it as of a new one
        elif self._online:
            self._send("worker-heartbeat", info)
        else:
            self._online = True
            self._send("worker-online", info)

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
        if self._online:
            self._online = False
            # not looked at again: its processes, and what they have counted, are gone
            self._send("worker-offline", {**self._said, "active": 0})


def _number_of(name: str) -> int | None:
    found = getattr(signal, name, None)
    return None if found is None else int(found)
