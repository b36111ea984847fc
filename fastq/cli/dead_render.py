"""How ``fastq dead`` shows dead letters: a table on a terminal, lines where it is piped, one letter with all that is in it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence

import click

from fastq.dead import Letter, Opened

__all__ = ["print_lines", "print_table", "render_opened"]

#: characters of an id that are always shown
ID_MIN = 8


def print_lines(letters: Iterable[Letter], none: str) -> int:
    """Print a line for each as it comes: when, id, task, queue, reason, error. Times are UTC."""
    shown = 0
    for letter in letters:
        died_at = letter.died_at.strftime("%Y-%m-%dT%H:%M:%SZ")
        click.echo(f"{died_at}  {_id(letter)}  {letter.name or '-'}  {letter.queue}  {letter.reason}  {letter.error}".rstrip())
        shown += 1
    if not shown:
        click.echo(none)
    return shown


def print_table(letters: Iterable[Letter], none: str) -> int:
    """Print a table; ids are as short as they may be given to tell them apart."""
    from rich.console import Console  # lazy: takes a tenth of a second, and is not needed where output is piped
    from rich.table import Table  # lazy: as above
    from rich.text import Text  # lazy: as above

    rows = list(letters)
    if not rows:
        click.echo(none)
        return 0
    shorts = _shortest([_id(letter) for letter in rows])
    console = Console(highlight=False)
    narrow = console.width < 100
    queues = len({letter.queue for letter in rows}) > 1
    # The error has what the others leave: at 80 columns enough to tell one from another, `show` tells all of it.
    table = Table(box=None, expand=True, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    most = {"DIED": 9, "ID": 36, "TASK": 18 if narrow else 32, "REASON": 12 if narrow else 21, "QUEUE": 10 if narrow else 20}
    for heading, width in most.items():
        if queues or heading != "QUEUE":
            table.add_column(heading, overflow="ellipsis", no_wrap=True, max_width=width)
    table.add_column("ERROR", overflow="ellipsis", no_wrap=True, ratio=1)
    for letter, short in zip(rows, shorts, strict=True):
        queue = [letter.queue] if queues else []
        cells = (_ago(letter), short, letter.name or "-", letter.reason, *queue, letter.error)
        # as text: an error may have brackets in it
        table.add_row(*(Text(cell) for cell in cells))
    console.print(table)
    return len(rows)


def render_opened(opened: Opened) -> str:
    """Return one letter as text."""
    letter = opened.letter
    lines = [
        ("task", letter.name or "(cannot be read)"),
        ("id", letter.id or "(cannot be read)"),
        ("key", letter.key),
        ("queue", letter.queue),
        ("reason", letter.reason),
        ("error", letter.full_error or "-"),
    ]
    if opened.unread:
        kind = f" of type {opened.content_type}" if opened.content_type else ""
        lines.append(("arguments", f"{opened.body_size or opened.size} bytes{kind}, not shown: {opened.unread}"))
    else:
        lines += [("args", repr(opened.args)), ("kwargs", repr(opened.kwargs))]
    lines += [(f"header {name}", repr(value)) for name, value in opened.headers.items()]
    if opened.root_id and opened.root_id != letter.id:
        lines.append(("root", opened.root_id))
    if opened.parent_id:
        lines.append(("parent", opened.parent_id))
    if opened.expires_at is not None:
        lines.append(("expires", opened.expires_at.isoformat(timespec="seconds")))
    if opened.follows:
        lines.append(("workflow", "; ".join(opened.follows)))
    lines.append(("message", f"{opened.size} bytes"))
    text = "\n".join(f"{name + ':':<11}{_indent(value)}" for name, value in lines)
    events = [
        f"  {event.at.strftime('%Y-%m-%d %H:%M:%S.%f')[:-3] + ' UTC' if event.at else '':<27} {event.what}"
        for event in opened.history
    ]
    text += "\nhistory:\n" + "\n".join(events)
    if opened.traceback:
        text += "\ntraceback:\n" + "\n".join(f"  {line}" for line in _plain(opened.traceback.rstrip()).splitlines())
    return text


def _indent(value: str) -> str:
    return _plain(value).replace("\n", "\n" + " " * 11)


def _plain(text: str) -> str:
    """Return the text without what a terminal would obey."""
    return "".join(char if char in "\n\t" or char.isprintable() else json.dumps(char)[1:-1] for char in text)


def _id(letter: Letter) -> str:
    return _plain(letter.id) or letter.key


def _shortest(ids: Sequence[str]) -> list[str]:
    """Return as much of each id as tells it apart from the others."""
    ordered = sorted(set(ids))
    lengths: dict[str, int] = {}
    for at, id in enumerate(ordered):
        near = ordered[max(at - 1, 0) : at] + ordered[at + 1 : at + 2]
        lengths[id] = max([ID_MIN, *(_common(id, other) + 1 for other in near)])
    return [id[: lengths[id]] for id in ids]


def _common(one: str, other: str) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _ago(letter: Letter) -> str:
    """Return how long ago it died, in its largest unit."""
    seconds = max(0, round(time.time() - letter.record.dead_ms / 1000))
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size}{unit} ago"
    return f"{seconds}s ago"
