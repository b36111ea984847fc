"""Where an application's messages and results are kept, and its connections there."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from fastq.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from fastq.app.application import FastQ
    from fastq.app.handle import Connection
    from fastq.beat.book import Schedules
    from fastq.config import Settings
    from fastq.control import Control
    from fastq.dead import DeadLetters
    from fastq.events import Events
    from fastq.producer import Producer
    from fastq.routes import Router
    from fastq.security import Signer
    from fastq.serialization import Serializers
    from fastq.store import ResultStore
    from fastq.transports.base import Backend, Broker, TransportOptions

__all__ = ["DISABLED", "EMBEDDED_FILE", "Connections", "embedded_url"]

logger = logging.getLogger("fastq.app")

#: how long an answer of the broker may take where nothing is set, seconds
SOCKET_TIMEOUT_S = 30.0

#: results are not kept
DISABLED = "disabled://"
#: the embedded broker's file
EMBEDDED_FILE = "fastq.db"


class Connections:
    """The part of an application that knows servers. Opens nothing before it is needed."""

    conf: Settings
    _lock: threading.RLock

    def __init__(self) -> None:
        self._producer: Producer | None = None
        self._store: ResultStore | None = None
        self._control: Control | None = None
        self._dead_letters: DeadLetters | None = None
        self._schedules: Schedules | None = None
        self._events: Events | None = None
        self._serializers: tuple[int, Serializers] | None = None
        self._router: tuple[int, Router] | None = None
        self._signer: tuple[int, Signer | None] | None = None
        self._urls: tuple[int, str, str, bool] | None = None
        self._said_where = False

    def _use_settings(self) -> None:
        """Be told that the settings are about to be used."""
        raise NotImplementedError

    @property
    def backend(self) -> ResultStore:
        """Return the result store."""
        store = self._store
        if store is None:
            from fastq.store import ResultStore  # lazy: only where results are used

            with self._lock:
                store = self._store
                if store is None:
                    store = self._store = ResultStore(cast("FastQ", self), self.open_backend)
        return store

    @property
    def control(self) -> Control:
        """Return what steers the workers from outside: revoking tasks, emptying queues."""
        control = self._control
        if control is None:
            from fastq.control import Control  # lazy: only where workers are steered

            control = self._control = Control(cast("FastQ", self))
        return control

    @property
    def dead_letters(self) -> DeadLetters:
        """Return what looks at dead letters, puts them back and drops them."""
        letters = self._dead_letters
        if letters is None:
            from fastq.dead import DeadLetters  # lazy: only where somebody looks

            letters = self._dead_letters = DeadLetters(cast("FastQ", self))
        return letters

    @property
    def events(self) -> Events:
        """Return what tells monitors and what listens as one: Receiver, State, Dispatcher."""
        events = self._events
        if events is None:
            from fastq.events import Events  # lazy: only where events are sent or read

            with self._lock:
                events = self._events
                if events is None:
                    events = self._events = Events(cast("FastQ", self))
        return events

    @property
    def schedules(self) -> Schedules:
        """Return what lists, adds and changes periodic entries in the broker, while beats run."""
        schedules = self._schedules
        if schedules is None:
            from fastq.beat.book import Schedules  # lazy: only where somebody looks at schedules

            schedules = self._schedules = Schedules(cast("FastQ", self))
        return schedules

    @property
    def producer(self) -> Producer:
        """Return what publishes for this application in this process."""
        producer = self._producer
        if producer is None:
            from fastq.producer import Producer  # lazy: only where something is sent

            with self._lock:
                producer = self._producer
                if producer is None:
                    producer = self._producer = Producer(self.open_broker)
                    if self.conf.task_send_sent_event:
                        producer.tell = self.events.outbox.published
        return producer

    @property
    def serializers(self) -> Serializers:
        """Return what this application writes and reads."""
        known = self._serializers
        if known is None or known[0] != self.conf.generation:
            from fastq.serialization import Serializers  # lazy: only where something is sent or read

            conf = self.conf
            known = self._serializers = (
                conf.generation,
                Serializers(
                    task=conf.task_serializer,
                    result=conf.result_serializer,
                    accept=conf.accept_content,
                    result_accept=conf.result_accept_content,
                ),
            )
        return known[1]

    def _where(self) -> tuple[int, str, str, bool]:
        known = self._urls
        if known is None or known[0] != self.conf.generation:
            broker = self.conf.broker_url
            embedded = broker is None
            if broker is None:
                broker = embedded_url(os.getcwd())
            backend = self.conf.result_backend
            if backend is None:
                backend = broker if broker.partition("://")[0].lower() in ("sqlite", "memory") else DISABLED
            elif backend.lower() in ("disabled", DISABLED):
                backend = DISABLED
            known = self._urls = (self.conf.generation, broker, backend, embedded)
            if embedded and not self._said_where:
                self._said_where = True
                logger.info("No broker is configured: using the embedded one, %s", broker)
        return known

    @property
    def broker_url(self) -> str:
        """Return where messages are kept, the embedded broker's file if nothing is configured. May hold a password."""
        return self._where()[1]

    @property
    def backend_url(self) -> str:
        """Return where results are kept, ``disabled://`` for nowhere. May hold a password."""
        return self._where()[2]

    @property
    def broker_is_embedded(self) -> bool:
        """Say whether no broker is configured, so that the embedded one is used."""
        return self._where()[3]

    @property
    def keeps_results(self) -> bool:
        """Say whether there is a result backend."""
        return self._where()[2] != DISABLED

    def transport_options(self, extra: Mapping[str, object] | None = None) -> TransportOptions:
        """Return the settings that concern transports. ``extra``: options of the technology, other than the broker's."""
        from fastq.transports.base import TransportOptions  # lazy: only where a connection is made

        conf = self.conf
        expires_s = conf.result_expires
        extra = dict(conf.broker_transport_options if extra is None else extra)
        connect_s = conf.redis_socket_connect_timeout or conf.broker_connection_timeout
        return TransportOptions(
            prefix=conf.key_prefix,
            result_expires_s=max(1, int(expires_s)) if expires_s else None,
            max_deliveries=conf.task_max_deliveries,
            dead_letter_max=conf.dead_letter_max,
            dead_letter_expires_s=int(conf.dead_letter_expires),
            connect_timeout_s=_seconds(extra, "socket_connect_timeout", connect_s),
            socket_timeout_s=_seconds(extra, "socket_timeout", conf.redis_socket_timeout or SOCKET_TIMEOUT_S),
            lease_ms=round(conf.worker_lease * 1000),
            wait_replicas=conf.broker_wait_replicas,
            wait_replicas_s=conf.broker_wait_replicas_timeout,
            extra=extra,
        )

    def connection(self, url: str | None = None, *args: Any, **options: Any) -> Connection:
        """Return a handle on the broker for code that wants one, such as ``app.events.Receiver``; it opens nothing by itself."""
        from fastq.app.handle import Connection  # lazy: only where code asks for one

        return Connection(cast("FastQ", self), url)

    def connection_for_read(self, url: str | None = None, **options: Any) -> Connection:
        """Return the same: one broker serves both ways."""
        return self.connection(url)

    connection_for_write = connection_for_read

    def connection_or_acquire(self, connection: Connection | None = None, pool: bool = True, **options: Any) -> Connection:
        """Return the given handle, else one on the broker; either serves a ``with`` statement."""
        return self.connection() if connection is None else connection

    default_connection = connection_or_acquire

    def open_broker(self, longest_s: float | None = None) -> Broker:
        """Return a broker of one's own; it connects at its first call. ``longest_s``: no server is waited for longer."""
        from fastq.transports import open_broker  # lazy: only where a connection is made

        return open_broker(self.broker_url, _within(self.transport_options(), self.broker_url, longest_s), self.signer)

    @property
    def signer(self) -> Signer | None:
        """Return what signs messages and checks signatures, None where ``security_key`` sets none."""
        known = self._signer
        if known is None or known[0] != self.conf.generation:
            from fastq.security import make_signer  # lazy: only where a connection is made

            known = self._signer = (self.conf.generation, make_signer(self.conf.security_key, self.conf.security_trusted_keys))
        return known[1]

    def _listeners(self, queue: str) -> list[str]:
        """Return the worker nodes that take tasks from a Broadcast queue now."""
        from fastq.queues import node_of  # lazy: only where something is broadcast
        from fastq.transports import open_inspector

        inspector = open_inspector(self.broker_url, self.transport_options())
        try:
            return sorted({node_of(process) for process in inspector.listeners(queue)})
        finally:
            inspector.close()

    def open_backend(self, longest_s: float | None = None) -> Backend | None:
        """Return a backend of one's own, None where results are disabled. ``longest_s``: as for ``open_broker``."""
        if not self.keeps_results:
            return None
        from fastq.transports import open_backend  # lazy: only where a connection is made

        own = self.conf.result_backend_transport_options
        options = self.transport_options(own if own or self.backend_url != self.broker_url else None)
        return open_backend(self.backend_url, _within(options, self.backend_url, longest_s))

    @property
    def router(self) -> Router:
        """Return what says which queue a call goes to, made anew when the settings change."""
        known = self._router
        if known is None or known[0] != self.conf.generation:
            from fastq.routes import Router  # lazy: only where something is sent

            self._use_settings()
            known = self._router = (self.conf.generation, Router(self.conf, audience=self._listeners))
        return known[1]

    def _disconnect(self) -> None:
        if self._producer is not None:
            self._producer.close()
        if self._store is not None:
            self._store.close()
        if self._events is not None:
            self._events.close()


def _seconds(extra: Mapping[str, object], name: str, default: float) -> float:
    """Return a timeout from the transport options, the default where they have none."""
    value = extra.get(name)
    if value is None or value == 0:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ImproperlyConfigured(f"the transport option {name}={value!r} is no time: expected seconds, above 0, or None")
    return float(value)


def _within(options: TransportOptions, url: str, longest_s: float | None) -> TransportOptions:
    """Return options under which no answer is waited for longer than that; a file has no host that could vanish."""
    if longest_s is None or options.socket_timeout_s <= longest_s or url.startswith("sqlite:"):
        return options
    import dataclasses  # lazy: only where a connection is made

    return dataclasses.replace(options, socket_timeout_s=longest_s)


def embedded_url(directory: str) -> str:
    """Return the URL of the embedded broker: beside the nearest ``pyproject.toml`` upwards, else in the directory itself."""
    from fastq.finding import nearest_pyproject  # lazy: finding imports this module

    project = nearest_pyproject(directory)
    home = os.path.dirname(project) if project else os.path.abspath(directory)
    return f"sqlite:///{os.path.join(home, EMBEDDED_FILE)}"
