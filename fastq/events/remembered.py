"""What is remembered of a task and of a worker, as far as events have told."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from fastq import states

__all__ = ["HEARTBEATS_MAX", "HEARTBEAT_EXPIRE_WINDOW", "Task", "Worker", "heartbeat_expires"]

#: how many heartbeats of a worker are remembered
HEARTBEATS_MAX = 4
#: percent of its frequency that a heartbeat may be late before a worker counts as gone
HEARTBEAT_EXPIRE_WINDOW = 200
#: where a worker does not say how often it beats, seconds
DEFAULT_FREQ_S = 60.0


def heartbeat_expires(timestamp: float, freq: float | None = DEFAULT_FREQ_S, expire_window: int = HEARTBEAT_EXPIRE_WINDOW) -> float:
    """Return the time at which a worker counts as gone whose last heartbeat was then."""
    return timestamp + (freq or DEFAULT_FREQ_S) * (expire_window / 100)


class Worker:
    """A worker node."""

    #: attributes that its events have told of
    _fields = ("hostname", "pid", "freq", "heartbeats", "clock", "active", "processed", "loadavg", "sw_ident", "sw_ver", "sw_sys")
    heartbeat_max = HEARTBEATS_MAX
    expire_window = HEARTBEAT_EXPIRE_WINDOW

    def __init__(self, hostname: str | None = None, **fields: Any) -> None:
        self.hostname = hostname
        self.pid: int | None = None
        self.freq: float = DEFAULT_FREQ_S
        #: timestamps, the last one last
        self.heartbeats: list[float] = []
        self.clock = 0
        self.active: int | None = None
        self.processed: int | None = None
        self.loadavg: Any = None
        self.sw_ident: str | None = None
        self.sw_ver: str | None = None
        self.sw_sys: str | None = None
        self.update(fields)

    def event(
        self,
        type_: str,
        timestamp: float | None = None,
        local_received: float | None = None,
        fields: Mapping[str, Any] | None = None,
    ) -> None:
        """Take in ``worker-<type_>``."""
        self.update(fields or {})
        if type_ == "offline":
            self.heartbeats.clear()
        elif local_received or timestamp:
            # by the clock of whoever asks whether it is alive
            seen = self.heartbeats
            at = local_received or timestamp or 0.0
            if not seen or at >= seen[-1]:
                seen.append(at)
            else:  # told late
                seen.append(at)
                seen.sort()
            del seen[: -self.heartbeat_max]

    def update(self, fields: Mapping[str, Any] | None = None, **more: Any) -> None:
        for key, value in {**(fields or {}), **more}.items():
            if key in self._fields and key != "heartbeats":
                setattr(self, key, value)

    @property
    def heartbeat_expires(self) -> float:
        return heartbeat_expires(self.heartbeats[-1], self.freq, self.expire_window)

    @property
    def alive(self) -> bool:
        """Say whether it has been heard of lately."""
        return bool(self.heartbeats) and time.time() < self.heartbeat_expires

    @property
    def status_string(self) -> str:
        return "ONLINE" if self.alive else "OFFLINE"

    @property
    def id(self) -> str:
        return f"{self.hostname}.{self.pid}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Worker) and self.hostname == other.hostname

    def __hash__(self) -> int:
        return hash(self.hostname)

    def __repr__(self) -> str:
        return f"<Worker: {self.hostname} ({self.status_string})>"


class Task:
    """A task, as its last events have told."""

    #: state by event; one of the application's own makes a state of its name
    event_states: ClassVar[Mapping[str, str]] = {
        "sent": states.PENDING,
        "received": "RECEIVED",
        "started": states.STARTED,
        "failed": states.FAILURE,
        "retried": states.RETRY,
        "succeeded": states.SUCCESS,
        "revoked": states.REVOKED,
        "rejected": "REJECTED",
    }
    #: what a later state may not replace: of two events that come in the wrong order the beginning tells its fields only
    merge_rules: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "RECEIVED": ("name", "args", "kwargs", "parent_id", "root_id", "retries", "eta", "expires")
    }
    _info_fields = (
        "args", "kwargs", "retries", "result", "eta", "runtime", "expires", "exception", "exchange", "routing_key", "root_id",
        "parent_id",
    )  # fmt: skip
    _fields = (
        "uuid", "name", "state", "received", "sent", "started", "rejected", "succeeded", "failed", "retried", "revoked", "args",
        "kwargs", "eta", "expires", "retries", "worker", "result", "exception", "timestamp", "runtime", "traceback", "exchange",
        "routing_key", "root_id", "parent_id", "client", "queue", "clock", "pid",
    )  # fmt: skip

    def __init__(self, uuid: str | None = None, cluster_state: Any = None, **fields: Any) -> None:
        self.uuid = uuid
        self.cluster_state = cluster_state
        self.name: str | None = None
        self.state: str = states.PENDING
        self.worker: Worker | None = None
        self.client: str | None = None
        self.timestamp: float | None = None
        self.clock = 0
        self.sent: float | None = None
        self.received: float | None = None
        self.started: float | None = None
        self.succeeded: float | None = None
        self.failed: float | None = None
        self.retried: float | None = None
        self.revoked: float | None = None
        self.rejected: float | None = None
        self.args: str | None = None
        self.kwargs: str | None = None
        self.eta: str | None = None
        self.expires: str | None = None
        self.retries: int | None = None
        self.result: str | None = None
        self.exception: str | None = None
        self.traceback: str | None = None
        self.runtime: float | None = None
        self.queue: str | None = None
        self.exchange: str | None = None
        self.routing_key: str | None = None
        self.root_id: str | None = None
        self.parent_id: str | None = None
        self.pid: int | None = None
        for key, value in fields.items():
            setattr(self, key, value)

    def event(
        self,
        type_: str,
        timestamp: float | None = None,
        local_received: float | None = None,
        fields: Mapping[str, Any] | None = None,
    ) -> None:
        """Take in ``task-<type_>``."""
        fields = dict(fields or {})
        state = self.event_states.get(type_, type_.upper())
        if type_ in self.event_states:
            setattr(self, type_, timestamp)
        # one that is told late says when it happened, and does not undo what came of it
        late = (
            state not in (states.RETRY, states.REJECTED)
            and self.state != states.RETRY
            and states.precedence(state) > states.precedence(self.state)
        )
        if late:
            known = self.merge_rules.get(state, ())
            fields = {key: value for key, value in fields.items() if key in known and getattr(self, key, None) is None}
        else:
            self.state = state
            self.timestamp = timestamp
        for key, value in fields.items():
            if key in self._fields:
                setattr(self, key, value)

    @property
    def ready(self) -> bool:
        """Say whether it has come to its end."""
        return self.state in states.READY_STATES

    @property
    def id(self) -> str | None:
        return self.uuid

    @property
    def origin(self) -> str | None:
        return self.client if self.worker is None else self.worker.id

    @property
    def parent(self) -> Task | None:
        return self._other(self.parent_id)

    @property
    def root(self) -> Task | None:
        return self._other(self.root_id)

    def _other(self, uuid: str | None) -> Task | None:
        found: Task | None = self.cluster_state.tasks.get(uuid) if uuid and self.cluster_state is not None else None
        return found

    def info(self, fields: Iterable[str] | None = None, extra: Iterable[str] = ()) -> dict[str, Any]:
        """Return what is known about it, beside its state; only what is."""
        names = (*(self._info_fields if fields is None else fields), *extra)
        return {name: value for name in names if (value := getattr(self, name, None)) is not None}

    def as_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name, None) for name in self._fields}

    def __repr__(self) -> str:
        return f"<Task: {self.name}({self.uuid}) {self.state}>"
