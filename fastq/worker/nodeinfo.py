"""What a node says of itself with every heartbeat: how many, how much, since when."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fastq import __version__
from fastq._core import HELD, STARTED

if TYPE_CHECKING:
    from fastq.worker.node import Node, WorkerProcess

__all__ = ["busy", "describe", "load"]


def describe(node: Node, *, events: bool) -> dict[str, Any]:
    """Return the record of a node, of plain values. ``events``: they are on."""
    hello, processes = node.hello, node.processes()
    active, reserved = busy(processes)
    totals = node.tallies.totals()
    return {
        "name": node.name,
        "pid": node.pid,
        "host": socket.gethostname(),
        "pool": hello.pool,
        "processes": len(processes),
        "slots": node.steering.capacity.slots * len(processes),
        "queues": list(node.queues),
        "version": __version__,
        "started_at": node.started_at,
        "lease_ms": hello.lease_ms,
        "state": node.stage.name.lower(),
        "active": active,
        "reserved": reserved,
        "processed": totals.ended,
        "failed": totals.outcome("failed"),
        "loadavg": load(),
        "freq_s": hello.lease_ms / 3000,
        "events": events,
        "tasks": totals.for_record(),
    }


def busy(processes: Sequence[WorkerProcess]) -> tuple[int, int]:
    """Return how many deliveries have started, and how many wait in the processes."""
    states = [record[3] for process in processes for record in process.board.held()]
    return states.count(STARTED), states.count(HELD)


def load() -> list[float]:
    """Return the load of the machine over 1, 5 and 15 minutes; zeros where it does not say."""
    try:
        return [round(value, 2) for value in os.getloadavg()]
    except OSError:
        return [0.0, 0.0, 0.0]
