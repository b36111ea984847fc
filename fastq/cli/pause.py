"""``fastq pause``: let queues or task names rest."""

from __future__ import annotations

import click

from fastq.cli.context import Settings, load_app
from fastq.cli.pausing import Which, named, pausing_command

__all__ = ["command"]


@pausing_command("pause", "-l", "--list", help="Only show what is paused.")
def command(settings: Settings, which: Which) -> None:
    """Let queues or task names rest, on all workers, until `fastq resume`.

    Nothing is lost: messages still come in and wait. What runs goes on. It is a record in the broker: no worker need be online,
    and it survives restarts.
    """
    app = load_app(settings)
    if which.flag:
        if which:
            raise click.UsageError("--list shows what is paused, and pauses nothing: leave out -Q and -T.")
        which.show(app.control.paused())
        return
    named(app, which.tasks)
    paused = which.change(app.control.pause_queue, app.control.pause_task)
    if paused is None:
        raise click.UsageError("Say what is to rest: -Q for queues, -T for task names (--list shows what is paused).")
    which.show(paused)
