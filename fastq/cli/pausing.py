"""What ``fastq pause`` and ``fastq resume`` share."""

from __future__ import annotations

import difflib
import json
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from fastq.cli.context import Settings, app_options
from fastq.cli.types import Names

if TYPE_CHECKING:
    from fastq.app import FastQ
    from fastq.records import Paused

__all__ = ["Which", "named", "near", "pausing_command", "show"]


@dataclass(frozen=True, slots=True)
class Which:
    """What a command line names."""

    queues: tuple[str, ...]
    tasks: tuple[str, ...]
    as_json: bool
    #: its flag was given: --list, --all
    flag: bool

    def __bool__(self) -> bool:
        """Say whether a queue or a task is named."""
        return bool(self.queues or self.tasks)

    def change(self, of_queues: Callable[..., Paused], of_tasks: Callable[..., Paused]) -> Paused | None:
        """Pause or resume; return what is paused now, None if nothing was named."""
        paused = of_queues(*self.queues) if self.queues else None
        return of_tasks(*self.tasks) if self.tasks else paused

    def show(self, paused: Paused) -> None:
        """Print what is paused."""
        show(paused, self.as_json, time.time_ns() // 1_000_000)


def pausing_command(name: str, *flag: str, help: str) -> Callable[[Callable[[Settings, Which], None]], click.Command]:
    """Make a command that takes names of queues and tasks, --json, and a flag of its own."""

    def make(fn: Callable[[Settings, Which], None]) -> click.Command:
        @click.command(name, help=fn.__doc__, context_settings={"help_option_names": ["-h", "--help"]})
        @click.option("-Q", "--queues", type=Names(), metavar="A,B", help="These queues.")
        @click.option("-T", "--tasks", type=Names(), metavar="NAME,...", help="These task names.")
        @click.option("-j", "--json", "as_json", is_flag=True, help="Print what is paused as JSON.")
        @click.option(*flag, "flag", is_flag=True, help=help)
        @app_options
        def command(
            settings: Settings, /, queues: tuple[str, ...] | None, tasks: tuple[str, ...] | None, as_json: bool, flag: bool
        ) -> None:
            fn(settings, Which(queues or (), tasks or (), as_json, flag))

        return command

    return make


def named(app: FastQ, tasks: Iterable[str]) -> None:
    """Warn of task names that the application does not have: a typing error would pause nothing, silently."""
    known = [name for name in app.tasks if not name.startswith("celery.")]
    for name in tasks:
        if known and name not in known:
            click.echo(
                f"Warning: the application {app.main or app.name!r} has no task named {name!r}.{near(name, known)}", err=True
            )


def near(name: str, names: Collection[str]) -> str:
    """Return the sentence that offers a name like this one, or nothing."""
    found = difflib.get_close_matches(name, names, 1)
    return f" Did you mean {found[0]!r}?" if found else ""


def show(paused: Paused, as_json: bool, now_ms: int) -> None:
    """Print what is paused."""
    if as_json:
        kinds = {"queues": paused.queues, "tasks": paused.tasks, "resuming": paused.resuming}
        click.echo(json.dumps({kind: dict(names) for kind, names in kinds.items()}))
        return
    for name, since_ms in _sorted(paused.resuming):
        held = ", ".join(sorted(paused.held))
        click.echo(f"task {name}: resumed {_span(now_ms - since_ms)} ago, goes back to {held}, where nothing is taken until then")
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
