"""``fastq config``: show every setting, and where its value comes from."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fastq.cli.context import Settings, app_options, load_app
from fastq.exceptions import ImproperlyConfigured
from fastq.settings.table import SETTINGS, aliases, group_of, suggest

__all__ = ["command"]

_OWN = "The application's own"


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    value: Any
    origin: str
    #: why nothing reads it; "" for a setting that counts
    accepted: str

    @property
    def group(self) -> str:
        return group_of(SETTINGS[self.name]) if self.name in SETTINGS else _OWN


@click.command("config", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--changed", is_flag=True, help="Only what is not the default.")
@click.option("--all", "everything", is_flag=True, help="Also Celery's settings that fastq accepts without using them.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for programs.")
@app_options
def command(settings: Settings, /, names: tuple[str, ...], changed: bool, everything: bool, as_json: bool) -> None:
    """Show the application's settings: each value, and the place that gives it.

    NAME is a setting's name, an older name of it, or a glob such as 'broker_*'. Passwords and keys are hidden.
    """
    conf = load_app(settings).conf
    rows = [
        Row(name, value, origin, SETTINGS[name].accepted if name in SETTINGS else "")
        for name, value, origin in conf.table(with_defaults=True)
    ]
    if names:
        wanted = _wanted(names, [row.name for row in rows])
        rows = [row for row in rows if row.name in wanted]
    hidden = 0
    if changed:
        rows = [row for row in rows if row.origin != "default"]
    elif not names and not everything:
        shown = [row for row in rows if not row.accepted or row.origin != "default"]
        hidden, rows = len(rows) - len(shown), shown
    if as_json:
        click.echo(json.dumps({row.name: _plain(row) for row in rows}, indent=2, default=repr))
        return
    _show(rows)
    if hidden:
        settings.hint(f"{hidden} settings that are accepted for Celery's sake, and not set, are left out (--all shows them).")


def _wanted(patterns: tuple[str, ...], known: list[str]) -> set[str]:
    found: set[str] = set()
    for pattern in patterns:
        if row := aliases().get(pattern):
            found.add(row.name)
        elif matching := [name for name in known if fnmatchcase(name, pattern)]:
            found.update(matching)
        else:
            raise ImproperlyConfigured(f"there is no setting {pattern!r}{suggest(pattern, known, 0.6)}")
    return found


def _plain(row: Row) -> dict[str, Any]:
    plain = {"value": row.value, "from": row.origin}
    return plain | {"accepted": row.accepted} if row.accepted else plain


def _show(rows: list[Row]) -> None:
    if not sys.stdout.isatty():  # for grep and the like: one line for each setting
        width = max((len(row.name) for row in rows), default=0)
        for row in sorted(rows, key=_place):
            click.echo(f"{row.name:<{width}}  {_value(row)}  {_note(row)}")
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(3):
        table.add_column(overflow="fold")
    group = None
    for row in sorted(rows, key=_place):
        if row.group != group:
            if group is not None:
                table.add_row()
            group = row.group
            table.add_row(Text(group, style="bold"))
        style = "dim" if row.origin == "default" or row.accepted else ""
        note = Text(_note(row), "dim" if row.origin == "default" else "cyan")
        table.add_row(Text("  " + row.name, style), Text(_value(row), style), note)
    Console().print(table)


def _value(row: Row) -> str:
    return repr(list(row.value) if isinstance(row.value, tuple) else row.value)


def _note(row: Row) -> str:
    return f"{row.origin}; accepted, nothing to set: {row.accepted}" if row.accepted else row.origin


def _place(row: Row) -> int:
    """Keep the groups together, in the order of the table; what is accepted only and what is no setting last."""
    order = list(dict.fromkeys(group_of(setting) for setting in SETTINGS.values()))
    return order.index(row.group) if row.group in order else len(order)
