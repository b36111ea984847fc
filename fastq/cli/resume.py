"""``fastq resume``: let paused queues or task names go on."""

from __future__ import annotations

import difflib
import time

import click

from fastq.cli.context import Settings, app_options, load_app
from fastq.cli.pausing import change, show, which

__all__ = ["command"]


@click.command("resume", context_settings={"help_option_names": ["-h", "--help"]})
@which
@click.option("--all", "everything", is_flag=True, help="All that is paused.")
@app_options
def command(
    settings: Settings,
    /,
    queues: tuple[str, ...] | None,
    tasks: tuple[str, ...] | None,
    as_json: bool,
    everything: bool,
) -> None:
    """Let paused queues or task names go on, at once. Exits with 1 if one of them was not paused.

    Tasks that workers had put aside go back to the head of their queue, in their order. A task name can be resumed again: that puts
    back what a resume that was cut off has left.
    """
    app = load_app(settings)
    before = app.control.paused()
    if everything:
        if queues or tasks:
            raise click.UsageError("--all means all that is paused: leave out -Q and -T.")
        queues, tasks = tuple(before.queues), tuple(before.tasks)
    paused = change(queues or (), tasks or (), app.control.resume_queue, app.control.resume_task)
    if paused is None and not everything:
        raise click.UsageError("Say what is to go on: -Q for queues, -T for task names, or --all.")
    show(paused or before, as_json, time.time_ns() // 1_000_000)
    wrong = 0
    for kind, names, were in (("queue", queues or (), before.queues), ("task", tasks or (), before.tasks)):
        for name in names:
            if name not in were:
                near = difflib.get_close_matches(name, were, 1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                click.echo(f"Error: {kind} {name!r} was not paused.{hint}", err=True)
                wrong = 1
    if wrong:
        raise click.exceptions.Exit(wrong)
