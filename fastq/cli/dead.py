"""``fastq dead``: list, show, put back and drop dead letters."""

from __future__ import annotations

import functools
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

from fastq.cli.context import Settings, app_options, load_app_or_broker
from fastq.cli.types import Names, Span, When
from fastq.exceptions import AmbiguousDeadLetter, DeadLetterNotFound

if TYPE_CHECKING:
    from fastq.app import FastQ
    from fastq.dead import DeadLetters, Handled, Letter

__all__ = ["command"]

HELP = {"help_option_names": ["-h", "--help"]}

#: what is said where there is nothing
NONE = "No dead letters."

Command = Callable[..., None]


class Dead(click.Group):
    """Without a command of its own, ``fastq dead`` lists."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        first = self._first_word(ctx, args)
        if first is None and not set(args) & {"-h", "--help"}:
            args = ["list", *args]
        return super().parse_args(ctx, args)

    def _first_word(self, ctx: click.Context, args: list[str]) -> str | None:
        """Return the first argument that is no option, nor the value of one."""
        takes_value = {
            name
            for each in (self, self.commands["list"])
            for option in each.params
            if isinstance(option, click.Option) and not option.is_flag
            for name in option.opts
        }
        words = iter(args)
        for word in words:
            if word in takes_value:
                next(words, None)
            elif not word.startswith("-"):
                return word
        return None

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.commands:
            ctx.fail(f"No such command {args[0]!r}. Commands: {', '.join(sorted(self.commands))}.")
        return super().resolve_command(ctx, args)


@click.group("dead", cls=Dead, context_settings=HELP)
@app_options
def command(settings: Settings, /) -> None:
    """Dead letters: messages that will not run again. Without a command: list them.

    -b URL alone is enough to look at them. Give -A for what needs the application: arguments in pickle or YAML, results that
    are kept elsewhere than in the broker, messages that are signed.

    An ID is that of the task, a beginning of it (4 characters at least), or the key of the letter, as `show` tells it.
    """
    click.get_current_context().obj = settings


def filters(fn: Command) -> Command:
    """Let a command take what narrows down which letters are meant, as ``filter``."""
    options = [
        click.option("-Q", "--queue", type=Names(), metavar="A,B", help="In these queues. Default: all of the broker."),
        click.option("-t", "--task", metavar="GLOB", help="Of tasks of this name; * and ? stand for anything."),
        click.option("--reason", type=Names(), metavar="R,S", help="With one of these reasons."),
        click.option("--since", type=When(seconds=False), help="Died at this time or later."),
        click.option("--until", type=When(seconds=False), help="Died before."),
        click.option("--older-than", type=Span(), metavar="SPAN", help="Died longer ago than that: 90s, 15m, 2h, 7d."),
        click.option("--newer-than", type=Span(), metavar="SPAN", help="Died less long ago than that."),
        click.option("--grep", metavar="TEXT", help="With this text in the error, traceback, name, id or arguments."),
    ]

    @functools.wraps(fn)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        names = ("queue", "task", "reason", "since", "until", "older_than", "newer_than")
        filter = {name: value for name in names if (value := kwargs.pop(name)) is not None}
        if (text := kwargs.pop("grep")) is not None:
            filter["text"] = text
        try:
            fn(*args, filter=filter, **kwargs)
        except AmbiguousDeadLetter as exc:
            raise click.UsageError(str(exc)) from exc
        except ValueError as exc:  # the library's own words for what was asked wrongly
            if type(exc) is not ValueError:
                raise
            raise click.UsageError(str(exc)) from exc

    for option in reversed(options):
        wrapped = option(wrapped)
    return wrapped


ids = click.argument("ids", nargs=-1, metavar="[ID]...")
everything = click.option("--all", "everything", is_flag=True, help="Every dead letter that there is.")
force = click.option("-f", "--force", is_flag=True, help="Do not ask.")
dry_run = click.option("--dry-run", is_flag=True, help="Only list what would be taken.")
as_json = click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")


@command.command("list", context_settings=HELP)
@filters
@click.option("-n", "--limit", type=click.IntRange(min=1), default=100, show_default=True, help="At most so many.")
@click.option("--offset", type=click.IntRange(min=0), default=0, help="Leave out so many of the newest.")
@as_json
@app_options
def list_letters(settings: Settings, /, filter: dict[str, Any], limit: int, offset: int, as_json: bool) -> None:
    """List dead letters, newest first."""
    app = load_app_or_broker(settings)
    shown = _show_list(app.dead_letters.walk(**filter), limit, offset, as_json)
    if shown == limit and (total := app.dead_letters.count(**filter)) > offset + shown:
        settings.hint(f"{shown} of {total}: -n shows more, --offset {offset + shown} the next.")


@command.command("count", context_settings=HELP)
@filters
@app_options
def count(settings: Settings, /, filter: dict[str, Any]) -> None:
    """Print how many dead letters there are."""
    click.echo(load_app_or_broker(settings).dead_letters.count(**filter))


@command.command("show", context_settings=HELP)
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@filters
@as_json
@app_options
def show(settings: Settings, /, ids: tuple[str, ...], filter: dict[str, Any], as_json: bool) -> None:
    """Show what is in dead letters: arguments, traceback, history."""
    # lazy: only here
    from fastq.cli.dead_render import render_opened

    app = load_app_or_broker(settings)
    letters, missing = app.dead_letters.find(ids, **filter)
    for number, letter in enumerate(letters):
        opened = app.dead_letters.open(letter)
        if as_json:
            click.echo(_json(opened.as_dict()))
        else:
            click.echo(("\n" if number else "") + render_opened(opened))
    _exit_for_missing(missing)


@command.command("retry", context_settings=HELP)
@ids
@filters
@everything
@click.option("--to", metavar="QUEUE", help="Into this queue, instead of their own.")
@click.option("--reset-retries", is_flag=True, help="Let the tasks retry as often again as at first.")
@click.option("-n", "--limit", type=click.IntRange(min=1), help="At most so many, the newest.")
@dry_run
@force
@app_options
def retry(
    settings: Settings,
    /,
    ids: tuple[str, ...],
    filter: dict[str, Any],
    everything: bool,
    to: str | None,
    reset_retries: bool,
    limit: int | None,
    dry_run: bool,
    force: bool,
) -> None:
    """Put dead letters back into their queues, to run again as if just sent.

    Which: IDs, or a filter, or --all. What is stored of them as FAILURE goes, so that whoever asks for the result waits.
    """
    app = load_app_or_broker(settings)

    def put_back(letters: DeadLetters) -> Handled:
        chosen = ids or None
        return letters.retry(chosen, everything=everything, to=to, reset_retries=reset_retries, limit=limit, **filter)

    where = f" into queue {to}" if to else ""
    question = f"Put them back{where or ' into their queues'}?"
    _handle(app, ids, filter, everything, limit, dry_run, force, put_back, f"Put back {{}}{where}", question)


@command.command("delete", context_settings=HELP)
@ids
@filters
@everything
@click.option("-n", "--limit", type=click.IntRange(min=1), help="At most so many, the newest.")
@dry_run
@force
@app_options
def delete(
    settings: Settings,
    /,
    ids: tuple[str, ...],
    filter: dict[str, Any],
    everything: bool,
    limit: int | None,
    dry_run: bool,
    force: bool,
) -> None:
    """Drop dead letters. There is no undo.

    Which: IDs, or a filter, or --all.
    """
    app = load_app_or_broker(settings)

    def drop(letters: DeadLetters) -> Handled:
        return letters.delete(ids or None, everything=everything, limit=limit, **filter)

    _handle(app, ids, filter, everything, limit, dry_run, force, drop, "Dropped {}", "Drop them? There is no undo.")


@command.command("purge", context_settings=HELP)
@filters
@dry_run
@force
@app_options
def purge(settings: Settings, /, filter: dict[str, Any], dry_run: bool, force: bool) -> None:
    """Drop all dead letters, or all that a filter lets pass. There is no undo."""
    app = load_app_or_broker(settings)

    def drop(letters: DeadLetters) -> Handled:
        return letters.delete(everything=True, **filter)

    _handle(app, (), filter, True, None, dry_run, force, drop, "Dropped {}", "Drop them? There is no undo.")


def _handle(
    app: FastQ,
    ids: tuple[str, ...],
    filter: dict[str, Any],
    everything: bool,
    limit: int | None,
    dry_run: bool,
    force: bool,
    do: Callable[[DeadLetters], Handled],
    said: str,
    question: str,
) -> None:
    if not (ids or filter or everything):
        raise click.UsageError("Which? Give IDs, a filter such as --task, --reason or -Q, or --all for every one.")
    if ids and everything:
        raise click.UsageError("IDs and --all: expected one of them.")
    letters = app.dead_letters
    if dry_run:
        found, missing = letters.find(ids, **filter) if ids else (letters.walk(**filter), ())
        _show_list(found, limit, 0, False)
        _exit_for_missing(missing)
        return
    if not ids and not force:
        total = letters.count(**filter)
        if not total:
            click.echo(NONE)
            return
        some = _number(min(total, limit or total))
        if not _someone_to_ask():
            raise click.UsageError(f"{some} would be taken, and nobody is there to be asked: give -f.")
        click.echo(f"{some} on {_where(app)}.")
        click.confirm(question, abort=True)
    handled = do(letters)
    for letter, why in handled.left:
        click.echo(f"left where it is: {letter.key} {letter.id}: {why}", err=True)
    if handled.number:
        click.echo(said.replace("{}", _number(handled.number), 1) + ".")
    elif not (handled.missing or handled.left):
        click.echo(NONE)
    _exit_for_missing(handled.missing)
    if handled.left:
        sys.exit(1)


def _someone_to_ask() -> bool:
    return sys.stdin.isatty()


def _show_list(letters: Iterable[Letter], limit: int | None, offset: int, as_json: bool) -> int:
    """Print letters as they come, or, on a terminal, as a table; return how many."""
    some: Iterator[Letter] = itertools.islice(letters, offset, None if limit is None else offset + limit)
    if as_json:
        shown = 0
        for letter in some:
            click.echo(json.dumps(letter.as_dict()))
            shown += 1
        return shown
    # lazy: only where people read it
    from fastq.cli.dead_render import print_lines, print_table

    return (print_table if sys.stdout.isatty() else print_lines)(some, NONE)


def _json(shown: dict[str, Any]) -> str:
    try:
        return json.dumps(shown, default=repr)
    except (TypeError, ValueError):  # a key that JSON does not have, a list in itself
        return json.dumps({name: value if isinstance(value, str | int) else repr(value) for name, value in shown.items()})


def _exit_for_missing(missing: Iterable[str]) -> None:
    absent = list(missing)
    if not absent:
        return
    for id in absent:
        click.echo(f"No dead letter has the id {id}, nor begins with it.", err=True)
    raise DeadLetterNotFound(
        "It may have been put back or dropped, or its time may be over (dead_letter_expires, dead_letter_max). "
        "`fastq dead` lists those that are there."
    )


def _number(n: int) -> str:
    return f"{n} dead letter" if n == 1 else f"{n} dead letters"


def _where(app: FastQ) -> str:
    from fastq.transports import display_url  # lazy: came with the application

    return display_url(app.broker_url)
