"""Look at a fleet: what its nodes say of themselves, what its queues hold, what runs.

Costs a few calls to the broker and one question to the nodes a look; nothing a task. Rates and means are of the time between two
heartbeats of each node, which a look asks for.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fastq._core import unpackb
from fastq.exceptions import DecodeError, OperationalError
from fastq.transports import open_channel, open_inspector

if TYPE_CHECKING:
    from fastq.app import FastQ
    from fastq.transports.channel import NodeRecord

__all__ = ["Look", "Looker", "NodeRow", "QueueRow", "RunRow", "TaskRow"]

#: how long nodes may take to say what they run, s
ANSWER_S = 0.5


@dataclass(frozen=True, slots=True)
class NodeRow:
    """One node, as of its last heartbeat."""

    name: str
    #: running, warm, soft, cold
    state: str
    pool: str
    processes: int
    slots: int
    active: int
    reserved: int
    processed: int
    failed: int
    queues: tuple[str, ...]
    load: float
    uptime_s: float
    #: since its last heartbeat
    age_s: float


@dataclass(frozen=True, slots=True)
class QueueRow:
    """One queue, now."""

    name: str
    ready: int
    delayed: int
    leased: int
    dead: int
    #: nodes that take from it
    nodes: int
    paused: bool


@dataclass(frozen=True, slots=True)
class TaskRow:
    """What became of the tasks of one name: since the nodes started, and lately."""

    name: str
    succeeded: int
    failed: int
    #: runs per second, None: not known yet
    rate: float | None = None
    #: means of what ended lately
    runtime_s: float | None = None
    wait_s: float | None = None
    paused: bool = False


@dataclass(frozen=True, slots=True)
class RunRow:
    """A task that runs."""

    id: str
    name: str
    node: str
    pid: int | None
    #: how long it has been running
    since_s: float
    #: as the node said it
    about: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Look:
    """What one look has seen."""

    #: Unix time
    at: float
    nodes: list[NodeRow] = field(default_factory=list)
    queues: list[QueueRow] = field(default_factory=list)
    tasks: list[TaskRow] = field(default_factory=list)
    runs: list[RunRow] = field(default_factory=list)
    #: why there is nothing to see
    trouble: str = ""

    @property
    def rate(self) -> float:
        """Runs that ended per second, all names together."""
        return sum(task.rate or 0.0 for task in self.tasks)


@dataclass(slots=True)
class _Beat:
    """The counters of a node at one heartbeat, and how fast they grew up to it."""

    at: float
    started_at: float
    tasks: Mapping[str, list[float]]
    #: task name -> runs, seconds of running, seconds of waiting, and over how many seconds
    growth: Mapping[str, tuple[float, float, float, float]] = field(default_factory=dict)


class Looker:
    """Look at the fleet of an application. Used by one thread; ``close`` it."""

    def __init__(self, app: FastQ) -> None:
        self._app = app
        options = app.transport_options()
        self._channel = open_channel(app.broker_url, options)
        self._inspector = open_inspector(app.broker_url, options)
        self._beats: dict[str, _Beat] = {}

    def look(self) -> Look:
        """Look once. A broker that does not answer is told in the answer, and tried again by the next look."""
        at = time.time()
        try:
            # in this order: a node that says what it runs has said how it is before
            self._app.control.heartbeat()
            replies = self._app.control.inspect(timeout=ANSWER_S).active()
            records = self._channel.nodes()
            paused_queues, paused_tasks = _paused(self._app)
            infos = {name: info for name, record in records.items() if (info := _info(record)) is not None}
            queues = self._queues(infos.values(), paused_queues)
        except OperationalError as exc:
            return Look(at, trouble=str(exc))
        nodes = [_node(name, info, records[name].age_ms / 1000, at) for name, info in sorted(infos.items())]
        self._note_beats(infos, {name: at - record.age_ms / 1000 for name, record in records.items()})
        return Look(at, nodes, queues, self._tasks(paused_tasks), _runs(replies or {}, at))

    def close(self) -> None:
        self._channel.close()
        self._inspector.close()

    # ---

    def _queues(self, infos: Iterable[Mapping[str, Any]], paused: frozenset[str]) -> list[QueueRow]:
        taken = [queue for info in infos for queue in info.get("queues", ())]
        names = sorted({*self._inspector.queues(), *self._app.router.queues, *taken, *paused})
        rows = []
        for name in names:
            depth = self._inspector.depth(name)
            counts = (depth["ready"], depth["delayed"], depth["leased"], depth["dead"])
            rows.append(QueueRow(name, *counts, taken.count(name), name in paused))
        return rows

    def _note_beats(self, infos: Mapping[str, Mapping[str, Any]], beaten_at: Mapping[str, float]) -> None:
        for name in set(self._beats) - set(infos):
            del self._beats[name]
        for name, info in infos.items():
            tasks = info.get("tasks") or {}
            now = _Beat(beaten_at[name], info.get("started_at", 0.0), tasks)
            before = self._beats.get(name)
            if before is not None and before.started_at == now.started_at:
                if now.at - before.at < 0.2:
                    continue  # the same heartbeat, or none to speak of since
                now.growth = {task: _growth(before, now, task) for task in tasks}
            self._beats[name] = now

    def _tasks(self, paused: frozenset[str]) -> list[TaskRow]:
        names = sorted({name for beat in self._beats.values() for name in beat.tasks} | paused)
        return [self._task(name, name in paused) for name in names]

    def _task(self, name: str, paused: bool) -> TaskRow:
        counts = [beat.tasks[name] for beat in self._beats.values() if name in beat.tasks]
        succeeded, failed = (int(sum(count[at] for count in counts)) for at in (0, 1))
        grown = [beat.growth[name] for beat in self._beats.values() if name in beat.growth]
        if not grown:
            return TaskRow(name, succeeded, failed, paused=paused)
        runs = sum(growth[0] for growth in grown)
        rate = sum(growth[0] / growth[3] for growth in grown)
        if not runs:
            return TaskRow(name, succeeded, failed, rate, paused=paused)
        runtime_s, wait_s = (sum(growth[at] for growth in grown) / runs for at in (1, 2))
        return TaskRow(name, succeeded, failed, rate, runtime_s, wait_s, paused)


def _growth(before: _Beat, now: _Beat, task: str) -> tuple[float, float, float, float]:
    old = before.tasks.get(task, [0.0] * 4)
    succeeded, failed, runtime_s, wait_s = (max(0.0, new - past) for new, past in zip(now.tasks[task][:4], old[:4], strict=True))
    return succeeded + failed, runtime_s, wait_s, now.at - before.at


def _info(record: NodeRecord) -> dict[str, Any] | None:
    try:
        info = unpackb(record.info)
    except DecodeError:
        return None
    return info if isinstance(info, dict) else None


def _node(name: str, info: Mapping[str, Any], age_s: float, at: float) -> NodeRow:
    get = info.get
    return NodeRow(
        name=name,
        state=str(get("state", "?")),
        pool=str(get("pool", "?")),
        processes=int(get("processes", 0)),
        slots=int(get("slots", 0)),
        active=int(get("active", 0)),
        reserved=int(get("reserved", 0)),
        processed=int(get("processed", 0)),
        failed=int(get("failed", 0)),
        queues=tuple(get("queues", ())),
        load=float((get("loadavg") or [0.0])[0]),
        uptime_s=max(0.0, at - float(get("started_at", at))),
        age_s=age_s,
    )


def _runs(replies: Mapping[str, Any], at: float) -> list[RunRow]:
    rows = []
    for node, tasks in replies.items():
        for task in tasks if isinstance(tasks, list) else ():
            started = task.get("time_start")
            since_s = max(0.0, at - started) if started else 0.0
            rows.append(RunRow(str(task.get("id")), str(task.get("name")), node, task.get("worker_pid"), since_s, task))
    return sorted(rows, key=lambda row: -row.since_s)


def _paused(app: FastQ) -> tuple[frozenset[str], frozenset[str]]:
    paused = app.control.paused()
    return frozenset(paused.queues), frozenset(paused.tasks)
