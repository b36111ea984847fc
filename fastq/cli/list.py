"""``fastq list``: what the application declares and what the broker holds."""

from __future__ import annotations

from collections.abc import Sequence

import click

from fastq.cli.context import Settings, app_options, load_app
from fastq.transports import open_inspector

__all__ = ["command"]


@click.group("list", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """List bindings, queues or tasks."""


@command.command("bindings")
@app_options
def bindings(settings: Settings, /) -> None:
    """Print the queues that the application declares, each with its exchange and key."""
    router = load_app(settings).router
    rows = []
    for name in sorted(router.queues):
        exchange, _, key = router.binding(name).removeprefix("exchange=").partition(" key=")
        rows.append((name, exchange, key))
    _table(("Queue", "Exchange", "Routing Key"), rows)


@command.command("queues")
@app_options
def queues(settings: Settings, /) -> None:
    """Print every queue of the broker, and how many messages it holds: ready, delayed, taken by workers, dead."""
    app = load_app(settings)
    inspector = open_inspector(app.broker_url, app.transport_options())
    try:
        paused = app.control.paused().queues
        names = sorted({*inspector.queues(), *app.router.queues, *paused})
        depths = [(name, inspector.depth(name)) for name in names]
    finally:
        inspector.close()
    counts = ("ready", "delayed", "leased", "dead")
    rows = [(name, *(str(depth[key]) for key in counts)) for name, depth in depths]
    if paused:
        _table(("Queue", *map(str.capitalize, counts), "State"), [(*row, "paused" if row[0] in paused else "") for row in rows])
        return
    _table(("Queue", *map(str.capitalize, counts)), rows)


@command.command("tasks")
@app_options
def tasks(settings: Settings, /) -> None:
    """Print the names of the application's tasks; built-in ones are left out."""
    app = load_app(settings)
    app.finalize()
    for task in sorted(app.tasks.regular(), key=lambda task: task.name):
        click.echo(task.name)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[at]) for row in [head, *rows]) for at in range(len(head))]
    for row in (head, tuple("=" * len(word) for word in head), *rows):
        click.echo("  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip())
