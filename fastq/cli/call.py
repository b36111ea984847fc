"""``fastq call``: send one task by name."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

import click

from fastq import patience
from fastq.cli.context import Settings, app_options, load_app
from fastq.cli.remote import EX_UNAVAILABLE
from fastq.cli.types import JSONValue, When
from fastq.exceptions import OperationalError

__all__ = ["command"]

#: seconds; less than the ten after which people take a command for dead, with the half second that a last attempt may take
TIMEOUT_S = 8.0


@click.command("call", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("name")
@click.option("-a", "--args", "positional", type=JSONValue(list), metavar="JSON", help="Positional arguments, a JSON array.")
@click.option("-k", "--kwargs", "keywords", type=JSONValue(dict), metavar="JSON", help="Keyword arguments, a JSON object.")
@click.option("--eta", type=When(seconds=False), metavar="TIME", help="Run not before this time (ISO 8601).")
@click.option("--countdown", type=click.FloatRange(min=0), metavar="S", help="Run not before this many seconds from now.")
@click.option("--expires", type=When(seconds=True), metavar="S|TIME", help="Do not run after that: seconds from now, or a time.")
@click.option("--serializer", metavar="NAME", help="How to write the arguments: msgpack, json, yaml, pickle.")
@click.option("--queue", metavar="NAME", help="Queue to send it to.")
@click.option("--exchange", metavar="NAME", help="Exchange to send it to, where task_queues binds queues to one.")
@click.option("--routing-key", metavar="KEY", help="Key that chooses the queues of the exchange.")
@click.option("--priority", type=click.IntRange(0, 9), metavar="N", help="0 to 9, higher is more urgent.")
@click.option(
    *("-t", "--timeout", "timeout_s"),
    type=click.FloatRange(min=0, min_open=True),
    default=TIMEOUT_S,
    show_default=True,
    metavar="S",
    help="Wait so long for the broker at most, all attempts together.",
)
@app_options
def command(
    settings: Settings,
    /,
    name: str,
    positional: list[Any] | None,
    keywords: dict[str, Any] | None,
    eta: datetime | None,
    countdown: float | None,
    expires: float | datetime | None,
    serializer: str | None,
    queue: str | None,
    exchange: str | None,
    routing_key: str | None,
    priority: int | None,
    timeout_s: float,
) -> None:
    """Send the task NAME and print its id once the broker has it.

    A task that the application does not know is sent too: a worker of another application may. Exits with 69 if the broker has not
    answered within --timeout.
    """
    if eta is not None and countdown is not None:
        raise click.UsageError("--eta and --countdown exclude each other: give one of them.")
    given = {
        "eta": eta,
        "countdown": countdown,
        "expires": expires,
        "serializer": serializer,
        "queue": queue,
        "exchange": exchange,
        "routing_key": routing_key,
        "priority": priority,
    }
    options: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    app = load_app(settings)
    if name not in app.tasks:
        # it may stand in a module that only a worker imports
        app.finalize()
    if name not in app.tasks:
        settings.hint(f"{name!r} is not a task of {app.main!r}; sending it all the same")
    deadline = time.monotonic() + timeout_s
    try:
        with patience.until(deadline):
            if name in app.tasks:
                result = app.tasks[name].apply_async(positional or [], keywords or {}, **options)
            else:
                result = app.send_task(name, positional or [], keywords or {}, **options)
    except TypeError as exc:
        # the arguments do not fit the task's signature
        raise click.UsageError(str(exc)) from exc
    except OperationalError as exc:
        if time.monotonic() < deadline:
            raise
        click.echo(f"Error: not sent within {timeout_s:g} s: {exc}{_advice(exc)}", err=True)
        raise click.exceptions.Exit(EX_UNAVAILABLE) from exc
    click.echo(result.id)


def _advice(error: OperationalError) -> str:
    """Say what to do about a task that may be there or not."""
    if not error.task_ids:
        return " Nothing was sent: try again, or wait longer with --timeout."
    return (
        f" If it did, the task runs once the broker goes on: look with `fastq result {error.task_ids[0]}` before sending it again."
    )
