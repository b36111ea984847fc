"""What a look is like in words: the columns and cells of its tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fastq.top.look import Look

__all__ = ["Table", "ago", "headline", "span", "tables"]


class Table(NamedTuple):
    """One table."""

    title: str
    columns: Sequence[str]
    #: what identifies a row, and its cells
    rows: Sequence[tuple[str, Sequence[str]]]
    #: what it says where there is nothing
    empty: str


def tables(look: Look) -> list[Table]:
    """Return the tables nodes, queues, tasks and running, in this order."""
    return [
        Table(
            "Nodes",
            ("node", "state", "pool", "slots", "active", "held", "processed", "failed", "load", "up", "seen", "queues"),
            [
                (
                    node.name,
                    (
                        node.name, node.state, f"{node.pool} x{node.processes}", str(node.slots), str(node.active),
                        str(node.reserved), _count(node.processed), _count(node.failed), f"{node.load:.2f}", span(node.uptime_s),
                        ago(node.age_s), ", ".join(node.queues),
                    ),
                )
                for node in look.nodes
            ],
            "no node is online",
        ),
        Table(
            "Queues",
            ("queue", "ready", "delayed", "taken", "dead", "nodes", ""),
            [
                (
                    queue.name,
                    (
                        queue.name, _count(queue.ready), _count(queue.delayed), _count(queue.leased), _count(queue.dead),
                        str(queue.nodes), "PAUSED" if queue.paused else "nobody takes" if queue.ready and not queue.nodes else "",
                    ),
                )
                for queue in look.queues
            ],
            "no queue",
        ),
        Table(
            "Tasks",
            ("task", "per s", "run", "waited", "succeeded", "failed", ""),
            [
                (
                    task.name,
                    (
                        task.name, "" if task.rate is None else f"{task.rate:,.1f}", _mean(task.runtime_s), _mean(task.wait_s),
                        _count(task.succeeded), _count(task.failed), "PAUSED" if task.paused else "",
                    ),
                )
                for task in sorted(look.tasks, key=lambda task: (-(task.rate or 0.0), task.name))
            ],
            "no task has run yet",
        ),
        Table(
            "Running",
            ("for", "task", "id", "node", "pid"),
            [
                (run.id, (span(run.since_s), run.name, run.id, run.node, "" if run.pid is None else str(run.pid)))
                for run in look.runs
            ],
            "nothing runs",
        ),
    ]  # fmt: skip


def headline(look: Look) -> str:
    """Return one line on the whole."""
    if look.trouble:
        return look.trouble
    ready, delayed, dead = (sum(getattr(queue, word) for queue in look.queues) for word in ("ready", "delayed", "dead"))
    active, slots = (sum(getattr(node, word) for node in look.nodes) for word in ("active", "slots"))
    nodes = f"{len(look.nodes)} {'node' if len(look.nodes) == 1 else 'nodes'}"
    return (
        f"{nodes}, {active} of {slots} slots busy, {look.rate:,.1f} tasks/s; "
        f"{_count(ready)} ready, {_count(delayed)} delayed, {_count(dead)} dead"
    )


def span(seconds: float) -> str:
    """Return a span of time in two units at most: 0.4s, 12s, 3m 5s, 4h 2m, 3d 1h."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = int(seconds)
    for unit, size, small, of in (("d", 86_400, "h", 3_600), ("h", 3_600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size}{unit} {whole % size // of}{small}"
    return f"{whole}s"


def ago(seconds: float) -> str:
    return "now" if seconds < 1.5 else f"{span(seconds)} ago"


def _mean(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds * 1000:.1f}ms" if seconds < 1 else span(seconds)


def _count(number: int) -> str:
    return f"{number:,}"
