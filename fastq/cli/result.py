"""``fastq result``: print what a task returned."""

from __future__ import annotations

import click

from fastq.cli.context import Settings, app_options, load_app
from fastq.settings.table import suggest
from fastq.states import READY_STATES, SUCCESS

__all__ = ["command"]


@click.command("result", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("task_id", metavar="ID")
@click.option("-t", "--task", metavar="NAME", help="The task's name: needed if it keeps its results in a backend of its own.")
@click.option("--traceback", is_flag=True, help="If it failed, print the traceback of the worker.")
@click.option("--timeout", type=click.FloatRange(min=0), metavar="S", help="Wait at most this long. Default: wait for it.")
@app_options
def command(settings: Settings, /, task_id: str, task: str | None, traceback: bool, timeout: float | None) -> None:
    """Print the result of the task ID, waiting for it if it is not there yet.

    Exits with 1 if the task failed or the time is up.
    """
    app = load_app(settings)
    if task is not None and task not in app.tasks:
        raise click.BadParameter(f"no task named {task!r} is registered{suggest(task, app.tasks)}.", param_hint="--task")
    result = app.AsyncResult(task_id) if task is None else app.tasks[task].AsyncResult(task_id)
    if timeout != 0 and (state := result.state) not in READY_STATES:
        settings.hint(f"{task_id} is {state}: waiting")
    value = result.get(timeout=timeout, propagate=False)
    state = result.state
    if state == SUCCESS:
        click.echo(value if isinstance(value, str) else repr(value))
        return
    if traceback:
        click.echo(result.traceback or "no traceback was stored")
    raise click.ClickException(f"task {task_id} ended as {state}: {type(value).__name__}: {value}")
