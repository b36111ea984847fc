"""``fastq schedule``: list, add, change, pause, run and remove periodic entries."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from fastq.cli.context import Settings, app_options, load_app
from fastq.cli.types import JSONValue, Span

if TYPE_CHECKING:
    from fastq.beat.book import Entry, Schedules
    from fastq.schedules import BaseSchedule

__all__ = ["command"]

HELP = {"help_option_names": ["-h", "--help"]}


class Group(click.Group):
    """Say which commands there are."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.commands and not args[0].startswith("-"):
            # lazy: only where something is misspelt
            import difflib

            near = difflib.get_close_matches(args[0], self.commands, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            ctx.fail(f"No such command {args[0]!r}.{hint} Commands: {', '.join(sorted(self.commands))}.")
        return super().resolve_command(ctx, args)


@click.group("schedule", cls=Group, context_settings=HELP)
@app_options
def command(settings: Settings, /) -> None:
    """The periodic tasks that all beats of an application share, in its broker. Changes hold at once, while beats run."""
    click.get_current_context().obj = settings


name_argument = click.argument("name")
as_json = click.option("-j", "--json", "as_json", is_flag=True, help="As JSON, one object per line.")


def described(fn: Callable[..., None]) -> Callable[..., None]:
    """Let a command take what describes an entry."""
    for option in reversed(
        (
            click.option("--every", type=Span(), metavar="SPAN", help="Every 30s, 15m, 2h, 1d."),
            click.option("--crontab", metavar="'M H D M W'", help="Minute, hour, day of month, month, day of week."),
            click.option("--tz", metavar="ZONE", help="The zone of --crontab, such as Europe/Paris; else the application's."),
            click.option("--solar", metavar="EVENT,LAT,LON", help="At sunrise,48.85,2.35 and the like (needs ephem)."),
            click.option("-a", "--args", "positional", type=JSONValue(list), metavar="JSON", help="Positional arguments."),
            click.option("-k", "--kwargs", "keywords", type=JSONValue(dict), metavar="JSON", help="Keyword arguments."),
            click.option("--queue", metavar="NAME", help="Queue to send it to."),
            click.option("--priority", type=click.IntRange(0, 9), metavar="N", help="0 to 9, higher is more urgent."),
            click.option("--expires", type=Span(), metavar="SPAN", help="A run that has not started after that is dropped."),
            click.option("--missed", type=click.Choice(("once", "skip", "all")), help="What to do with runs not sent in time."),
        )
    ):
        fn = option(fn)
    return fn


@command.command("list", context_settings=HELP)
@as_json
@app_options
def list_entries(settings: Settings, /, as_json: bool) -> None:
    """List all entries."""
    schedules = _schedules(settings)
    entries = schedules.list()
    if as_json:
        for entry in entries:
            click.echo(_json(entry))
        return
    if not entries:
        click.echo("No periodic tasks.")
        return
    _print_table(entries)
    if not schedules.leader():
        settings.hint("No beat is running, so nothing is sent: start `fastq beat`.")


@command.command("show", context_settings=HELP)
@name_argument
@as_json
@app_options
def show(settings: Settings, /, name: str, as_json: bool) -> None:
    """Show all of one entry."""
    entry = _schedules(settings).get(name)
    if as_json:
        click.echo(_json(entry))
    else:
        _print_entry(entry)


@command.command("add", context_settings=HELP)
@name_argument
@click.argument("task")
@described
@click.option("--paused", is_flag=True, help="Do not send it before it is resumed.")
@app_options
def add(settings: Settings, /, name: str, task: str, paused: bool, **given: Any) -> None:
    """Add the entry NAME, which sends TASK."""
    schedules = _schedules(settings)
    app = load_app(settings)
    if task not in app.tasks:
        settings.hint(f"{task!r} is not a task of {app.name!r}; it is added all the same")
    with _asked_wrongly():
        schedule = _times(given)
        if schedule is None:
            raise click.UsageError("When? Give one of --every, --crontab and --solar.")
        missed: Any = given["missed"] or "once"
        entry = schedules.add(
            name, task, schedule, given["positional"] or (), given["keywords"], missed=missed, paused=paused, **_options(given)
        )
    click.echo(f"added {name}: {_next(entry)}")


@command.command("change", context_settings=HELP)
@name_argument
@click.option("--task", metavar="NAME", help="Send this task.")
@described
@app_options
def change(settings: Settings, /, name: str, task: str | None, **given: Any) -> None:
    """Change what is given of the entry NAME, and leave the rest."""
    with _asked_wrongly():
        schedule, options = _times(given), _options(given)
        said: dict[str, Any] = {"task": task, "schedule": schedule, "missed": given["missed"]}
        said.update(args=given["positional"], kwargs=given["keywords"])
        if all(value is None for value in said.values()) and not options:
            raise click.UsageError("Nothing to change was given.")
        entry = _schedules(settings).change(name, **said, **options)
    click.echo(f"changed {name}: {_next(entry)}")


@command.command("pause", context_settings=HELP)
@name_argument
@app_options
def pause(settings: Settings, /, name: str) -> None:
    """Send it no more until it is resumed."""
    _schedules(settings).pause(name)
    click.echo(f"paused {name}")


@command.command("resume", context_settings=HELP)
@name_argument
@app_options
def resume(settings: Settings, /, name: str) -> None:
    """Send it again, from its next run on."""
    click.echo(f"resumed {name}: {_next(_schedules(settings).resume(name))}")


@command.command("run", context_settings=HELP)
@name_argument
@app_options
def run(settings: Settings, /, name: str) -> None:
    """Send it once, now, and print the id of the task. Its schedule does not change."""
    with _asked_wrongly():
        result = _schedules(settings).run_now(name)
    click.echo(result.id)


@command.command("remove", context_settings=HELP)
@name_argument
@app_options
def remove(settings: Settings, /, name: str) -> None:
    """Remove an entry that was added here or by the API."""
    with _asked_wrongly():
        _schedules(settings).remove(name)
    click.echo(f"removed {name}")


# ---


def _schedules(settings: Settings) -> Schedules:
    return load_app(settings).schedules


@contextmanager
def _asked_wrongly() -> Iterator[None]:
    """The library's own words for what was asked wrongly: exit with 2."""
    try:
        yield
    except (ValueError, TypeError) as exc:
        raise click.UsageError(str(exc)) from exc


def _times(given: Mapping[str, Any]) -> float | BaseSchedule | None:
    """Return the schedule that the options describe, None if they describe none."""
    named = [option for option in ("every", "crontab", "solar") if given[option] is not None]
    if len(named) > 1:
        raise click.UsageError(f"--{named[0]} and --{named[1]} exclude each other: give one of them.")
    if given["tz"] is not None and given["crontab"] is None:
        raise click.UsageError("--tz is the zone of a --crontab.")
    if not named:
        return None
    if named == ["every"]:
        return float(given["every"])
    # lazy: only where one is made
    from fastq.schedules import crontab, solar

    if named == ["crontab"]:
        return crontab.from_string(given["crontab"], tz=given["tz"])
    parts = given["solar"].split(",")
    try:
        event, latitude, longitude = parts[0].strip(), float(parts[1]), float(parts[2])
    except (IndexError, ValueError):
        raise click.UsageError(f"--solar {given['solar']!r}: expected EVENT,LAT,LON, like sunset,48.85,2.35") from None
    return solar(event, latitude, longitude)


def _options(given: Mapping[str, Any]) -> dict[str, Any]:
    return {key: given[key] for key in ("queue", "priority", "expires") if given[key] is not None}


def _json(entry: Entry) -> str:
    return json.dumps(entry.as_dict(), default=str)


def _next(entry: Entry) -> str:
    if entry.next_run_at is None:
        return entry.state
    return f"next run {_time(entry.next_run_at)}"


def _time(moment: datetime | None) -> str:
    """Return a time in UTC, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if moment is not None else "-"


def _schedule(entry: Entry) -> str:
    """Return a schedule in the words in which it is given here."""
    plain = entry.as_dict()["schedule"]
    if plain is None:
        return "?"
    if plain["type"] == "interval":
        return f"every {plain['every_s']:g}s" + (" (relative)" if plain.get("relative") else "")
    if plain["type"] == "crontab":
        fields = " ".join(str(plain[key]) for key in ("minute", "hour", "day_of_month", "month_of_year", "day_of_week"))
        return fields + (f" {plain['tz']}" if plain.get("tz") else "")
    if plain["type"] == "solar":
        return f"{plain['event']} at {plain['lat']:g},{plain['lon']:g}"
    return str(plain["repr"])


def _rows(entries: list[Entry]) -> list[tuple[str, ...]]:
    return [
        (
            *(entry.name, entry.task or "?", _schedule(entry), _time(entry.next_run_at), _time(entry.last_run_at)),
            *(str(entry.runs), entry.state, entry.origin),
        )
        for entry in entries
    ]


HEADINGS = ("NAME", "TASK", "SCHEDULE", "NEXT", "LAST", "RUNS", "STATE", "ORIGIN")


def _print_table(entries: list[Entry]) -> None:
    rows = [HEADINGS, *_rows(entries)]
    if not sys.stdout.isatty():
        widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
        for row in rows:
            click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        return
    # lazy: takes a tenth of a second, and is not needed where output is piped
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in HEADINGS:
        table.add_column(heading, overflow="fold" if heading == "NAME" else "ellipsis", no_wrap=heading != "NAME")
    for row in rows[1:]:
        # as text: a name may have brackets in it
        table.add_row(*map(Text, row))
    Console(highlight=False).print(table)


def _print_entry(entry: Entry) -> None:
    said = entry.as_dict()
    lines = [
        ("name", entry.name),
        ("task", entry.task or "?"),
        ("schedule", _schedule(entry)),
        ("args", json.dumps(said["args"], default=str)),
        ("kwargs", json.dumps(said["kwargs"], default=str)),
        ("options", json.dumps(said["options"], default=str)),
        ("missed runs", {"once": "sent once", "skip": "not sent", "all": "all sent"}[entry.missed]),
        ("next run", _time(entry.next_run_at)),
        ("last run", _time(entry.last_run_at)),
        ("runs", str(entry.runs)),
        ("state", entry.state),
        ("origin", entry.origin),
    ]
    if entry.error:
        lines.append(("error", entry.error))
    for label, value in lines:
        click.echo(f"{label + ':':<13}{value}")
