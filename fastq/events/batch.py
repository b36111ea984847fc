"""The wire form of events: what one process tells at one moment, a MessagePack map.

``v`` 1, ``node``, ``pid``, ``zone`` (hours west of UTC), ``clock`` (of the first event), ``left`` (how many tasks were left out
since the last batch), ``base`` and ``runs`` (see ``fastq._core.Trace``), ``told``: maps of single events, with ``type`` and
``timestamp`` (Unix seconds). Those that say ``of_task`` are about one run, with ``received`` and ``started`` (Unix seconds) as far
as it came; their type is "" while it runs (``of_task`` RUNS_ON), and if its end is none that events tell; ``by_another``: the
process that tells is not the one that ran it. Arguments and results are the bytes that exist anyway; whoever reads makes text of
them (see ``expansion``).
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from fastq._core import Delivery, packb

__all__ = ["ENDED", "RUNS_ON", "VALUE_MAX", "VERSION", "pack", "utcoffset", "what_of"]

VERSION = 1
#: values of ``of_task``
RUNS_ON, ENDED = 1, 2
#: bytes of arguments that are told, as the core has it
VALUE_MAX = 1024

_FURTHER = ("root_id", "parent_id", "eta_ms", "argsrepr", "kwargsrepr")


def utcoffset() -> int:
    """Return how many hours this machine's zone is west of UTC, as Celery's events say it."""
    local = time.localtime()
    return -(local.tm_gmtoff or 0) // 3600


def pack(
    node: str,
    *,
    told: Sequence[Mapping[str, Any]] = (),
    runs: bytes | None = None,
    base_ms: int = 0,
    left: int = 0,
    pid: int | None = None,
) -> bytes:
    """Write a batch. Values in ``told`` that MessagePack cannot hold become their ``repr``."""
    batch: dict[str, Any] = {
        "v": VERSION,
        "node": node,
        "pid": os.getpid() if pid is None else pid,
        "zone": utcoffset(),
        # rises over all processes of a node and over their restarts
        "clock": time.time_ns() // 1000,
    }
    if runs is not None:
        batch["base"], batch["runs"] = base_ms, runs
    if told:
        batch["told"] = list(told)
    if left:
        batch["left"] = left
    return packb(batch, repr)


def what_of(d: Delivery) -> dict[str, Any]:
    """Return what is told of a message beside its id: name, retries, arguments as they are written."""
    found: dict[str, Any] = {"name": d.name, "retries": d.retries}
    if d.expires_ms:
        found["expires_ms"] = d.expires_ms
    options = d.options or {}
    for key in _FURTHER:
        if (value := options.get(key)) is not None:
            found[key] = value[:VALUE_MAX] if isinstance(value, str) else value
    if "argsrepr" not in found and "kwargsrepr" not in found:
        body = d.body
        if len(body) <= VALUE_MAX:
            if d.content_type == "application/x-msgpack":
                found["body"] = body
            elif d.content_type == "application/json":
                found["body"] = [body]
    return found
