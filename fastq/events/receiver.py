"""Listen to events: ``app.events.Receiver``."""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from fastq.events.expansion import Expansion
from fastq.exceptions import FastQError

if TYPE_CHECKING:
    from fastq.app import FastQ
    from fastq.transports.channel import Channel

__all__ = ["Event", "EventReceiver", "Receiver"]

#: an event, as Celery has it
Event = dict[str, Any]
#: seconds for which the word that somebody listens is good: workers of a listener that was killed go on telling for so long
LISTEN_S = 15.0
#: longest wait for events before ``should_stop`` is looked at
LOOK_S = 1.0


class Receiver:
    """Call handlers with events as they come, by their type; "*" is called with those that have none of their own.

    Workers tell of tasks as long as a receiver captures and events are enabled on them (``fastq worker -E``).
    """

    def __init__(
        self,
        connection: Any = None,
        handlers: Mapping[str, Callable[[Event], object]] | None = None,
        routing_key: str = "#",
        node_id: str | None = None,
        app: FastQ | None = None,
        queue_prefix: str | None = None,
        accept: Any = None,
        queue_ttl: float | None = None,
        queue_expires: float | None = None,
        **options: Any,
    ) -> None:
        """``routing_key``: which events, such as "task.#" or "worker.*". The connection and what concerns queues are accepted:
        a receiver has a connection of its own to the application's broker."""
        if app is None:
            app = getattr(connection, "app", None)
        if app is None:
            from fastq.shared import get_current_app  # lazy: only where no application is given

            app = get_current_app()
        self.app = app
        self.connection = connection
        self.handlers: dict[str, Callable[[Event], object]] = dict(handlers or {})
        self.routing_key = routing_key
        self.node_id = node_id or f"{os.getpid()}-{secrets.token_hex(6)}"
        #: set it, from any thread, to end what captures
        self.should_stop = False
        self._expansion = Expansion()
        self._wanted = _pattern(routing_key)
        self._position = ""

    @property
    def left_out(self) -> int:
        """How many tasks workers have left out so far, to stay within ``event_rate_max``."""
        return self._expansion.left_out

    def capture(self, limit: int | None = None, timeout: float | None = None, wakeup: bool = True) -> None:
        """Call handlers with events until ``limit`` of them have come or ``should_stop`` is set.

        TimeoutError after ``timeout`` seconds without one; OperationalError when the broker is lost: call it again, and it goes on
        where it was. ``wakeup``: ask workers to tell at once who they are.
        """
        for _ in self.itercapture(limit, timeout, wakeup):
            pass

    def itercapture(self, limit: int | None = None, timeout: float | None = None, wakeup: bool = True) -> Iterator[Event]:
        """The same as a generator of events, each when its handler has returned."""
        channel = self.app.events.open_channel()
        try:
            for event in self._events(channel, timeout, wakeup):
                self.process(event["type"], event)
                yield event
                if limit is not None and (limit := limit - 1) <= 0:
                    return
        finally:
            with suppress(FastQError):  # it expires
                channel.listen(self.node_id, 0)
            channel.close()

    def _events(self, channel: Channel, timeout: float | None, wakeup: bool) -> Iterator[Event]:
        if not self._position:
            self._position = channel.events("", 0)[-1][0]
        listen_at = 0.0
        heard_at = time.monotonic()
        while not self.should_stop:
            now = time.monotonic()
            if now >= listen_at:
                channel.listen(self.node_id, LISTEN_S)
                first, listen_at = listen_at == 0.0, now + LISTEN_S / 3
                if first and wakeup:
                    self.wakeup_workers()
            wait_s = LOOK_S if timeout is None else min(LOOK_S, heard_at + timeout - now)
            batches = channel.events(self._position, max(0.0, wait_s))
            for position, batch in batches:
                for event in self._expansion.events(batch):
                    if self._wanted is None or self._wanted(event["type"].replace("-", ".")):
                        event["local_received"] = time.time()
                        yield event
                        heard_at = time.monotonic()
                self._position = position
                if self.should_stop or time.monotonic() >= listen_at:
                    break  # the handlers are slow: what follows is read again
            if timeout is not None and not batches and time.monotonic() - heard_at >= timeout:
                raise TimeoutError(f"no event came within {timeout:g} s")

    def process(self, type: str, event: Event) -> None:
        """Call the handler of an event."""
        handler = self.handlers.get(type) or self.handlers.get("*")
        if handler is not None:
            handler(event)

    def wakeup_workers(self, channel: Any = None) -> None:
        """Ask workers to look now who listens, and to say who they are."""
        self.app.control.broadcast("listening")


#: Celery's name
EventReceiver = Receiver


def _pattern(routing_key: str) -> Callable[[str], object] | None:
    """Return what says whether a routing key matches ("*": one word, "#": any number of words); None: all do."""
    if routing_key in ("#", ""):
        return None
    words = [r"[^.]+" if word == "*" else r".*" if word == "#" else re.escape(word) for word in routing_key.split(".")]
    return re.compile(r"\.".join(words).replace(r"\..*", r"(\..*)?")).fullmatch
