"""What the command line says about a worker, in one record that crosses process borders."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any

__all__ = ["WorkerOptions"]


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """Options of one worker node. ``None`` means: the application's setting decides."""

    #: where the application is (``-A``); None: found as ``fastq.finding`` describes
    app: str | None = None
    pool: str | None = None
    #: slots per process (prefork: the number of processes)
    concurrency: int | None = None
    processes: int | None = None
    #: (most, fewest) that the node scales itself between, in the unit of ``concurrency``, which it takes the place of
    autoscale: tuple[int, int] | None = None
    queues: tuple[str, ...] = ()
    #: queues left out of those
    exclude_queues: tuple[str, ...] = ()
    loglevel: str = "WARNING"
    #: node name; ``%h`` host, ``%n`` name part, ``%d`` domain
    hostname: str | None = None
    #: messages held beyond the slots at most; 0: none; None: adaptive
    prefetch: int | None = None
    max_tasks_per_child: int | None = None
    #: KiB
    max_memory_per_child: int | None = None
    #: False: fail at once when the broker cannot be reached at start
    retry: bool = True
    broker: str | None = None
    result_backend: str | None = None
    include: tuple[str, ...] = ()
    #: drop what waits in those queues before the first task is taken
    purge: bool = False
    #: further settings by name, which win over the application's; plain values, as JSON has them
    settings: dict[str, Any] = field(default_factory=dict)
    #: arguments of ``fastq beat`` for a beat of this node's own; None: it has none
    beat: tuple[str, ...] | None = None
    #: no banner
    quiet: bool = False
    #: where log lines go, as ``fastq.daemon.filenames`` expands it; None: standard error
    logfile: str | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> WorkerOptions:
        """Read what ``to_json`` wrote; unknown names are an error (both sides are of one version)."""
        values = json.loads(text)
        known = {f.name for f in fields(cls)}
        if unknown := set(values) - known:
            raise ValueError(f"unknown worker options {sorted(unknown)}, expected some of {sorted(known)}")
        for name in ("queues", "exclude_queues", "include"):
            values[name] = tuple(values.get(name) or ())
        if values.get("beat") is not None:
            values["beat"] = tuple(values["beat"])
        if values.get("autoscale"):
            values["autoscale"] = tuple(values["autoscale"])
        return cls(**values)
