"""``fastq result``: print what a task returned."""

from __future__ import annotations

import click

from fastq.cli.context import Settings, app_options, load_app
from fastq.states import READY_STATES, SUCCESS

__all__ = ["command"]


@click.command("result", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("task_id", metavar="ID")
@click.option("--traceback", is_flag=True, help="If it failed, print the traceback of the worker.")
@click.option("--timeout", type=click.FloatRange(min=0), metavar="S", help="Wait at most this long. Default: wait for it.")
@app_options
def command(settings: Settings, /, task_id: str, traceback: bool, timeout: float | None) -> None:
    """Print the result of the task ID, waiting for it if it is not there yet.

    Exits with 1 if the task failed or the time is up.
    """
    result = load_app(settings).AsyncResult(task_id)
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
