"""``fastq pause``: let queues or task names rest."""

from __future__ import annotations

import time

import click

from fastq.cli.context import Settings, app_options, load_app
from fastq.cli.pausing import change, named, show, which

__all__ = ["command"]


@click.command("pause", context_settings={"help_option_names": ["-h", "--help"]})
@which
@click.option("-l", "--list", "list_only", is_flag=True, help="Only show what is paused.")
@app_options
def command(
    settings: Settings,
    /,
    queues: tuple[str, ...] | None,
    tasks: tuple[str, ...] | None,
    as_json: bool,
    list_only: bool,
) -> None:
    """Let queues or task names rest, on all workers, until `fastq resume`.

    Nothing is lost: messages still come in and wait. What runs goes on. It is a record in the broker: no worker need be online,
    and it survives restarts.
    """
    app = load_app(settings)
    if list_only:
        if queues or tasks:
            raise click.UsageError("--list shows what is paused, and pauses nothing: leave out -Q and -T.")
        show(app.control.paused(), as_json, time.time_ns() // 1_000_000)
        return
    named(app, tasks or ())
    paused = change(queues or (), tasks or (), app.control.pause_queue, app.control.pause_task)
    if paused is None:
        raise click.UsageError("Say what is to rest: -Q for queues, -T for task names (--list shows what is paused).")
    show(paused, as_json, time.time_ns() // 1_000_000)
