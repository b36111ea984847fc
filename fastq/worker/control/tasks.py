"""Describe tasks as Celery's ``Request.info`` does: those that run, wait in a process, or are delayed in the broker."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastq._core import FINISHED, RETURNED, STARTED, peek
from fastq.exceptions import EnvelopeError, FastQError
from fastq.worker.control.plain import pack

if TYPE_CHECKING:
    from fastq.serialization import Serializers
    from fastq.worker.node import Node, WorkerProcess

__all__ = ["Held", "described", "held"]

#: bytes of arguments that are shown; the node reads them itself, and must not choke on them
BODY_MAX = 64 * 1024


@functools.cache
def _reads() -> Serializers:
    """Return what a node reads without the application.

    Not pickle, which runs code; not yaml, nor what is compressed, of which a few bytes can become gigabytes.
    """
    # lazy: half a MiB, and most supervisors are asked for no arguments
    from fastq.serialization import Serializers

    return Serializers(accept=("msgpack", "json"))


@dataclass(frozen=True, slots=True)
class Held:
    """A task that a process of the node has."""

    process: WorkerProcess
    queue: str
    message: bytes
    #: else it waits in the process
    started: bool
    #: Unix ms, 0: unknown
    started_ms: int


def held(node: Node, processes: Sequence[WorkerProcess] | None = None) -> Iterator[Held]:
    """Yield what the processes of a node run and hold. One call to the broker per process and queue that has something."""
    for process in node.processes() if processes is None else processes:
        records = process.board.held()
        if not records or not process.names:
            continue
        known = node.known_queues
        states = {(known[at], tag): (state, started_ms) for _, tag, at, state, _, started_ms in records if at < len(known)}
        for queue, tag, message in node.leased(process.names):
            state, started_ms = states.get((queue, tag), (0, 0))
            if state not in (FINISHED, RETURNED):
                yield Held(process, queue, message, state == STARTED, started_ms)


def described(node: Node, queue: str, message: bytes, task: Held | None = None, *, safe: bool = False) -> dict[str, Any] | None:
    """Return what is known of a task, with exactly Celery's fields; None for what is no task. ``task``: None for one that waits in
    the broker. ``safe``: arguments as text."""
    try:
        d = peek(message)
        options = d.options or {}
    except (EnvelopeError, FastQError):
        return None
    args, kwargs = _arguments(d, options, safe=safe)
    level = int(options.get("priority") or 0)
    started = task is not None and task.started
    return {
        "id": d.id,
        "name": d.name,
        "type": d.name,
        "args": args,
        "kwargs": kwargs,
        "hostname": node.name,
        "time_start": task.started_ms / 1000 if task is not None and started and task.started_ms else None,
        "acknowledged": started,
        "delivery_info": {
            "exchange": "",
            "routing_key": options.get("routing_key") or queue,
            "priority": 9 - level if node.hello.reversed_priority else level,
            "redelivered": d.deliveries > 0 or bool(options.get("requeued")),
        },
        "worker_pid": task.process.pid if task is not None and started else None,
    }


def _arguments(d: Any, options: dict[str, Any], *, safe: bool) -> tuple[Any, Any]:
    """Return arguments as far as they can be shown."""
    args, kwargs = options.get("argsrepr"), options.get("kwargsrepr")
    if not safe and len(d.body) <= BODY_MAX and d.content_type in _reads().accept_base:
        try:
            args, kwargs = _reads().loads(d.content_type, d.body)
            pack([args, kwargs])  # what cannot be sent is not shown
            return list(args), dict(kwargs)
        except Exception:  # whatever it is, it must not keep the other tasks from being shown
            args, kwargs = None, None
    unread = f"<{len(d.body)} bytes of {d.content_type}>"
    return args or unread, kwargs or unread
