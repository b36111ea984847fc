"""``fastq resume``: let paused queues or task names go on."""

from __future__ import annotations

from dataclasses import replace

import click

from fastq.cli.context import Settings, load_app
from fastq.cli.pausing import Which, near, pausing_command

__all__ = ["command"]


@pausing_command("resume", "--all", help="All that is paused.")
def command(settings: Settings, which: Which) -> None:
    """Let paused queues or task names go on, at once. Exits with 1 if one of them was not paused.

    Tasks that workers had put aside go back to the head of their queue, in their order. Should this command be ended on the way,
    any worker that runs, or the next that starts, puts back the rest; so does the same command.
    """
    app = load_app(settings)
    before = app.control.paused()
    tasks = {**before.tasks, **before.resuming}
    if which.flag:
        if which:
            raise click.UsageError("--all means all that is paused: leave out -Q and -T.")
        which = replace(which, queues=tuple(before.queues), tasks=tuple(tasks))
    paused = which.change(app.control.resume_queue, app.control.resume_task)
    if paused is None and not which.flag:
        raise click.UsageError("Say what is to go on: -Q for queues, -T for task names, or --all.")
    which.show(paused or before)
    wrong = 0
    for kind, names, were in (("queue", which.queues, before.queues), ("task", which.tasks, tasks)):
        for name in names:
            if name not in were:
                click.echo(f"Error: {kind} {name!r} was not paused.{near(name, were)}", err=True)
                wrong = 1
    if wrong:
        raise click.exceptions.Exit(wrong)
