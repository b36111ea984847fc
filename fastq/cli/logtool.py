"""``fastq logtool``: count and find things in the log of a worker, of fastq or of Celery (plain lines, not JSON)."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TextIO

import click

__all__ = ["command"]

#: the beginning of a record in the default format; what has none belongs to the record before
_RECORD = re.compile(r"^\[(?P<time>[^\]]*?): (?P<level>[A-Z]+)/(?P<process>[^\]]+)\] (?P<text>.*)$", re.DOTALL)
_TASK = re.compile(
    r"^Task (?P<name>\S+)\[(?P<id>[^\]]+)\] (?P<what>received|succeeded|retry|raised|was terminated|ignored|rejected)"
)
_DISCARDED = re.compile(r"^Discarding (?:revoked|expired) task:? (?P<name>\S+)\[(?P<id>[^\]]+)\]")

FILES = click.argument("files", nargs=-1, type=click.File("r", encoding="utf-8", errors="replace"))


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a log, with the lines that belong to it."""

    level: str
    text: str
    #: as it stands in the file; level "": a line in front of the first record
    whole: str


def records(files: Iterable[TextIO]) -> Iterator[Record]:
    """Read logs, one record after the other."""
    for file in files:
        begun: list[str] = []
        for line in file:
            if _RECORD.match(line) and begun:
                yield _record("".join(begun))
                begun = []
            begun.append(line)
        if begun:
            yield _record("".join(begun))


def _record(whole: str) -> Record:
    match = _RECORD.match(whole)
    return Record(match["level"], match["text"], whole) if match else Record("", whole, whole)


@dataclass(slots=True)
class Tally:
    """What became of the tasks of a log."""

    received: dict[str, str] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    outcomes: Counter[str] = field(default_factory=Counter)
    names: Counter[str] = field(default_factory=Counter)
    levels: Counter[str] = field(default_factory=Counter)
    first_line: dict[str, str] = field(default_factory=dict)

    def add(self, record: Record) -> None:
        if record.level:
            self.levels[record.level] += 1
        if match := _TASK.match(record.text):
            if match["what"] == "received":
                self.received[match["id"]] = match["name"]
                self.names[match["name"]] += 1
                self.first_line[match["id"]] = record.whole
            else:
                self.outcomes[match["what"]] += 1
                self.ended.add(match["id"])
        elif match := _DISCARDED.match(record.text):
            self.outcomes["discarded"] += 1
            self.ended.add(match["id"])

    @property
    def incomplete(self) -> list[str]:
        """Return the ids of tasks that were received, and of whose end nothing is said."""
        return [id for id in self.received if id not in self.ended]


def _tally(files: Iterable[TextIO]) -> Tally:
    tally = Tally()
    for record in records(files):
        tally.add(record)
    return tally


@click.group("logtool", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Count and find things in the log of a worker. FILES: log files written with -l INFO; none or -: standard input."""


@command.command("stats")
@FILES
def stats(files: tuple[TextIO, ...]) -> None:
    """Print how many tasks of which name were received, and how they ended."""
    tally = _tally(_given(files))
    click.echo("Tasks received")
    for name, count in tally.names.most_common() or [("(none)", 0)]:
        click.echo(f"  {count:>8}  {name}")
    click.echo("How they ended")
    for what, count in sorted(tally.outcomes.items()) or [("(none)", 0)]:
        click.echo(f"  {count:>8}  {what}")
    click.echo(f"  {len(tally.incomplete):>8}  not (yet)")
    click.echo("Records")
    for level, count in sorted(tally.levels.items()) or [("(none)", 0)]:
        click.echo(f"  {count:>8}  {level}")


@command.command("traces")
@FILES
def traces(files: tuple[TextIO, ...]) -> None:
    """Print the records with a traceback."""
    _print(files, lambda record: "Traceback (most recent call last)" in record.whole)


@command.command("errors")
@FILES
def errors(files: tuple[TextIO, ...]) -> None:
    """Print the records of level ERROR and CRITICAL."""
    _print(files, lambda record: record.level in ("ERROR", "CRITICAL"))


@command.command("debug")
@FILES
def debug(files: tuple[TextIO, ...]) -> None:
    """Print the records of level DEBUG."""
    _print(files, lambda record: record.level == "DEBUG")


@command.command("incomplete")
@FILES
def incomplete(files: tuple[TextIO, ...]) -> None:
    """Print the tasks that were received and of whose end nothing is said."""
    tally = _tally(_given(files))
    for id in tally.incomplete:
        click.echo(tally.first_line[id], nl=False)


def _print(files: tuple[TextIO, ...], wanted: Callable[[Record], bool]) -> None:
    for record in records(_given(files)):
        if wanted(record):
            click.echo(record.whole, nl=not record.whole.endswith("\n"))


def _given(files: tuple[TextIO, ...]) -> Iterable[TextIO]:
    return files or (sys.stdin,)
