"""``app.events``: what tells monitors, and what listens as one."""

from __future__ import annotations

import atexit
import os
import socket
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastq.app import FastQ
    from fastq.events.dispatcher import Dispatcher as _Dispatcher
    from fastq.events.outbox import Outbox
    from fastq.events.receiver import Receiver as _Receiver
    from fastq.events.state import State as _State
    from fastq.transports.channel import Channel

__all__ = ["Events"]

#: longest wait for one answer of the broker, seconds: nobody waits for events
ANSWER_S = 2.0
#: how long the end of a process waits for its last events, seconds
EXIT_WAIT_S = 1.0

#: outboxes of this process that have something to send at its end
_outboxes: weakref.WeakSet[Outbox] = weakref.WeakSet()


class Events:
    """Events of one application."""

    def __init__(self, app: FastQ) -> None:
        self.app = app
        self._lock = threading.Lock()
        self._outbox: Outbox | None = None

    def open_channel(self) -> Channel:
        """Return a channel of one's own to the application's broker."""
        import dataclasses  # lazy: only where somebody tells or listens

        from fastq.transports import open_channel  # lazy: as above

        options = self.app.transport_options()
        options = dataclasses.replace(options, socket_timeout_s=min(ANSWER_S, options.socket_timeout_s))
        return open_channel(self.app.broker_url, options)

    @property
    def outbox(self) -> Outbox:
        """Return what this process tells events by."""
        outbox = self._outbox
        if outbox is None:
            from fastq.events.outbox import Outbox  # lazy: only where something is told

            with self._lock:
                outbox = self._outbox
                if outbox is None:
                    conf = self.app.conf
                    outbox = self._outbox = Outbox(
                        self.open_channel,
                        self.app.hostname or f"gen{os.getpid()}@{socket.gethostname()}",
                        keep=conf.event_stream_max or 2_000,
                        expires_s=max(1, round(conf.event_queue_expires)),
                    )
                    _outboxes.add(outbox)
        return outbox

    def Receiver(
        self,
        connection: Any = None,
        handlers: Mapping[str, Callable[[dict[str, Any]], object]] | None = None,
        **options: Any,
    ) -> _Receiver:
        """Return what calls handlers with events, by their type; "*" is called with all others."""
        from fastq.events.receiver import Receiver  # lazy: only where somebody listens

        return Receiver(connection, handlers, app=self.app, **options)

    def State(self, *args: Any, **options: Any) -> _State:
        """Return what keeps in memory how tasks and workers are, as far as events tell."""
        from fastq.events.state import State  # lazy: only where somebody listens

        return State(*args, **options)

    def Dispatcher(self, connection: Any = None, **options: Any) -> _Dispatcher:
        """Return what sends events."""
        from fastq.events.dispatcher import Dispatcher  # lazy: only where something is told

        return Dispatcher(connection, app=self.app, **options)

    def default_dispatcher(
        self, hostname: str | None = None, enabled: bool = True, buffer_while_offline: bool = False
    ) -> _Dispatcher:
        """Return a Dispatcher, for a ``with`` block."""
        return self.Dispatcher(hostname=hostname, enabled=enabled, buffer_while_offline=buffer_while_offline)

    def close(self) -> None:
        """Send what waits and close the connection."""
        if self._outbox is not None:
            self._outbox.close()


def __getattr__(name: str) -> Any:
    """Return Celery's ``EventReceiver`` and ``EventDispatcher``; here, as everywhere, nobody pays for them who does not listen."""
    if name == "EventReceiver":
        from fastq.events.receiver import Receiver  # lazy: as said above

        return Receiver
    if name == "EventDispatcher":
        from fastq.events.dispatcher import Dispatcher  # lazy: as said above

        return Dispatcher
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _flush_at_exit() -> None:
    for outbox in list(_outboxes):
        outbox.flush(EXIT_WAIT_S)


atexit.register(_flush_at_exit)
