"""What ``fastq pause`` and ``fastq resume`` share."""

from __future__ import annotations

import difflib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import click

from fastq.cli.types import Names

if TYPE_CHECKING:
    from fastq.app import FastQ
    from fastq.records import Paused

__all__ = ["change", "named", "show", "which"]


def which(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Let a command take the names of queues and tasks, and --json."""
    options = [
        click.option("-Q", "--queues", type=Names(), metavar="A,B", help="These queues."),
        click.option("-T", "--tasks", type=Names(), metavar="NAME,...", help="These task names."),
        click.option("-j", "--json", "as_json", is_flag=True, help="Print what is paused as JSON."),
    ]
    for option in reversed(options):
        fn = option(fn)
    return fn


def change(
    queues: Iterable[str], tasks: Iterable[str], of_queues: Callable[..., Paused], of_tasks: Callable[..., Paused]
) -> Paused | None:
    """Pause or resume; return what is paused now, None if nothing was named."""
    paused = None
    if queues:
        paused = of_queues(*queues)
    if tasks:
        paused = of_tasks(*tasks)
    return paused


def named(app: FastQ, tasks: Iterable[str]) -> None:
    """Warn of task names that the application does not have: a typing error would pause nothing, silently."""
    known = [name for name in app.tasks if not name.startswith("celery.")]
    for name in tasks:
        if known and name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            click.echo(f"Warning: the application {app.main or app.name!r} has no task named {name!r}.{hint}", err=True)


def show(paused: Paused, as_json: bool, now_ms: int) -> None:
    """Print what is paused."""
    if as_json:
        click.echo(json.dumps({"queues": dict(paused.queues), "tasks": dict(paused.tasks)}))
        return
    if not paused.queues and not paused.tasks:
        click.echo("Nothing is paused.")
    for kind, names in (("queue", paused.queues), ("task", paused.tasks)):
        for name, since_ms in _sorted(names):
            when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(since_ms / 1000))
            click.echo(f"{kind} {name}: paused since {when} ({_span(now_ms - since_ms)})")


def _sorted(names: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(names.items())


def _span(ms: int) -> str:
    """Return a duration in its largest whole unit."""
    seconds = max(0, ms // 1000)
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
