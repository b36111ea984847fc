"""What a worker prints when it starts: who it is, where it takes tasks from, and which it knows."""

from __future__ import annotations

import datetime
import os
import sys

from fastq import __version__
from fastq.worker.hello import Hello

__all__ = ["banner"]

_LOGO = (
    r"    ______           __  ____ ",
    r"   / ____/___ ______/ /_/ __ \ ",
    r"  / /_  / __ `/ ___/ __/ / / /",
    r" / __/ / /_/ (__  ) /_/ /_/ / ",
    r"/_/    \__,_/____/\__/\___\_\ ",
)


def banner(hello: Hello, node: str, now: datetime.datetime | None = None) -> str:
    """Return the banner. Passwords are hidden in what ``hello`` displays already."""
    head = _head(node, now or datetime.datetime.now())
    return "\n".join([*head, "", *_config(hello), "", *_queues(hello), "", *_tasks(hello), ""])


def _head(node: str, now: datetime.datetime) -> list[str]:
    # not the module platform: it costs a supervisor memory for what is said once
    system, python = os.uname(), sys.version_info
    about = (
        f"{node} v{__version__}",
        "",
        f"{system.sysname}-{system.release}-{system.machine}",
        f"Python {python.major}.{python.minor}.{python.micro}",
        f"{now:%Y-%m-%d %H:%M:%S}",
    )
    return [" ", *(f" {logo:<34}{text}".rstrip() for logo, text in zip(_LOGO, about, strict=True))]


def _config(hello: Hello) -> list[str]:
    many = f", {hello.processes} processes" if hello.processes > 1 and hello.pool != "prefork" else ""
    lines = [
        "[config]",
        f".> app:         {hello.app}",
        f".> transport:   {hello.broker_display}",
        f".> results:     {hello.backend_display}",
        f".> concurrency: {_concurrency(hello)} ({hello.pool}{many})",
        f".> task events: {'ON' if hello.events else 'OFF'}",
    ]
    if hello.embedded:
        lines.append(f".> embedded broker, no server: one file, {hello.embedded}")
    return lines


def _concurrency(hello: Hello) -> str:
    if not hello.autoscale:
        return str(hello.concurrency)
    most, fewest = hello.autoscale
    return f"{{min={fewest}, max={most}}}"


def _queues(hello: Hello) -> list[str]:
    bindings = hello.bindings or tuple(f"exchange={queue}(direct) key={queue}" for queue in hello.queues)
    return ["[queues]", *(f".> {queue:<12} {binding}" for queue, binding in zip(hello.queues, bindings, strict=True))]


def _tasks(hello: Hello) -> list[str]:
    return ["[tasks]", *(f"  . {name}" for name in hello.tasks)]
