"""What the supervisor orders a worker process: the name to lease under, and when to stop."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from fastq.worker.link import Link
from fastq.worker.notify import Notifier, wait_readable

__all__ = ["Orders"]

logger = logging.getLogger("fastq.worker.consumer")


class Orders:
    """Read the link. Owned by the consumer's loop; only ``stop`` is called from elsewhere."""

    def __init__(self, link: Link, notifier: Notifier, on_name: Callable[[str], object]) -> None:
        """``on_name`` is called with every new name."""
        self._link = link
        self._notifier = notifier
        self._on_name = on_name
        #: the name; "": none yet, or taken away
        self.process = ""
        #: a fetch was answered under this name
        self.known = False
        #: "": go on; else "warm", "cold" or "recycle"
        self.stopping = ""
        #: name of an order (its "do") -> what carries it out, in the consumer's loop
        self.obey: dict[str, Callable[[dict[str, Any]], object]] = {}

    def stop(self, how: str) -> None:
        """Take the order to stop; safe from a signal handler."""
        if how == "cold" or not self.stopping:
            self.stopping = how
        self._notifier.armed = True
        self._notifier.notify()

    def read(self) -> None:
        """Take in what the supervisor has sent."""
        for message in self._link.receive():
            if "start" in message:
                self._named(message["start"]["process"])
            elif "process" in message:
                self._named(message["process"])
            elif "stop" in message:
                self.stopping = message["stop"]
            elif "order" in message:
                self._carry_out(message["order"])
        if self._link.closed:
            # the supervisor is gone, so nobody renews the lease
            self.stopping = "cold"

    def _carry_out(self, order: dict[str, Any]) -> None:
        obey = self.obey.get(order["do"])
        if obey is None:
            return  # nothing here has to do with it
        try:
            obey(order)
        except Exception:  # the consumer must live
            logger.exception("The order %r could not be carried out", order)
        if "receipt" in order:
            self._link.send({"receipt": order["receipt"]})

    def _named(self, process: str) -> None:
        if self.process:
            return  # an answer to a question asked before: this name is the newer one
        self.process = process
        self.known = False
        self._on_name(process)

    def await_name(self, look_s: float) -> None:
        """Wait for the supervisor to enter a lease and say under which name, looking at least every ``look_s``."""
        while not self.process and not self.stopping:
            self.wait(look_s)

    def wait(self, timeout_s: float) -> None:
        """Wait for an order, or for what else notifies."""
        wait_readable((self._link.fileno(), self._notifier.fileno()), timeout_s)
        self._notifier.clear()
        self.read()

    def pause(self, delay_s: float) -> None:
        """Wait, unless told to stop, or to stop faster, meanwhile."""
        deadline = time.monotonic() + delay_s
        how = self.stopping
        while self.stopping == how and (left_s := deadline - time.monotonic()) > 0:
            fds = [self._notifier.fileno()]
            if not self._link.closed:  # a closed one is readable for ever
                fds.append(self._link.fileno())
            wait_readable(fds, left_s)
            self._notifier.clear()
            self.read()
