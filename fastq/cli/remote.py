"""What ``fastq inspect`` and ``fastq control`` share: options, arguments of commands, who has answered and who has not."""

from __future__ import annotations

import difflib
import functools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import click

from fastq.cli.replies import as_json, failed, online, show
from fastq.cli.types import Names
from fastq.control.catalogue import ALIASES, KNOWN, Kind, Known, known_of

if TYPE_CHECKING:
    from fastq.app import FastQ
    from fastq.control.broadcasting import Reply

__all__ = [
    "EX_UNAVAILABLE", "Asked", "arguments_of", "find", "known_commands", "not_online", "print_list", "remote_options",
    "tell_twice", "unknown",
]  # fmt: skip

#: nobody has answered; Celery's number, from sysexits.h
EX_UNAVAILABLE = 69


def remote_options(fn: Callable[..., None]) -> Callable[..., None]:
    """Let a command take who is asked and how, as ``asked``."""
    options = [
        click.option(
            *("-t", "--timeout"),
            type=click.FloatRange(min=0, min_open=True),
            metavar="S",
            help="Wait for answers so long at most, seconds. Default: 1; what the application is asked for: 5.",
        ),
        click.option("-d", "--destination", type=Names(), metavar="A,B", help="Only these nodes. Default: all."),
        click.option("--pattern", metavar="PATTERN", help="Only nodes whose name fits, such as 'mail-*@*'."),
        click.option(
            "--matcher", type=click.Choice(["glob", "pcre"]), default="glob", help="pcre: PATTERN is a regular expression."
        ),
        click.option("-j", "--json", "json", is_flag=True, help="Print one JSON object, node to answer."),
    ]

    @functools.wraps(fn)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        how = {name: kwargs.pop(name) for name in ("timeout", "destination", "pattern", "matcher", "json")}
        fn(*args, asked=Asked(**how), **kwargs)

    for option in reversed(options):
        wrapped = option(wrapped)
    return wrapped


class Asked:
    """Whom a command line is about, and how it is answered."""

    def __init__(
        self, timeout: float | None, destination: tuple[str, ...] | None, pattern: str | None, matcher: str, json: bool
    ) -> None:
        if destination and pattern:
            raise click.UsageError("-d names nodes and --pattern chooses some: give one of them.")
        self.timeout = timeout
        self.destination = list(destination) if destination else None
        self.pattern = pattern
        self.matcher = matcher
        self.json = json
        #: node -> answer, as far as they have come
        self.replies: dict[str, Any] = {}
        #: all of them, also those of several nodes with one name
        self._heard: list[tuple[str, Any]] = []

    def choose(self, app: FastQ) -> None:
        """Make names of the pattern, so that it is known who has not answered; []: no node fits."""
        if self.pattern is not None and self.destination is None:
            try:
                self.destination = app.control.matching(self.pattern, self.matcher)
            except ValueError as exc:  # the library's own words
                raise click.UsageError(str(exc)) from exc

    def options(self, timeout_s: float) -> dict[str, Any]:
        """Return what ``Control.broadcast`` is told beside the command."""
        nobody = self.destination == []
        return {
            "destination": None if nobody else self.destination,
            "pattern": self.pattern if nobody else None,
            "matcher": self.matcher if nobody else None,
            "timeout": self.waits_s(timeout_s),
            "reply": True,
            "callback": self.take,
        }

    def waits_s(self, timeout_s: float) -> float:
        return timeout_s if self.timeout is None else self.timeout

    def run(self, ask: Callable[[], object]) -> None:
        """Ask, then show the answers, by name: two looks at one fleet are to look the same.

        A request that cannot be made is a usage error."""
        try:
            ask()
        except ValueError as exc:  # the library's own words for what was asked wrongly
            raise click.UsageError(str(exc)) from exc
        finally:  # also what came before Ctrl-C, or before the connection broke
            self._heard.sort(key=lambda heard: heard[0])
            self.replies = dict(self._heard)
            if not self.json:
                for node, payload in self._heard:
                    show(node, payload)

    def take(self, reply: Reply) -> None:
        """Note one answer."""
        self._heard.extend(reply.items())

    def end(self, app: FastQ, timeout_s: float, *, count: bool) -> NoReturn:
        """Say who is missing, and exit: 0; 1 if a node has answered with an error; 69 if nobody, or not everybody named, has."""
        ctx = click.get_current_context()
        replies = self.replies
        if self.json:
            click.echo(as_json(replies))
        elif replies and count:
            click.echo(f"\n{online(len(replies))}")
        tell_twice(Counter(name for name, _ in self._heard))
        missing = self._missing(app, self.waits_s(timeout_s))
        if not replies:
            click.echo(f"Error: {' '.join(missing)}", err=True)
            ctx.exit(EX_UNAVAILABLE)
        for line in missing:
            click.echo(line, err=True)
        if self.destination is not None and not set(self.destination) <= set(replies):
            ctx.exit(EX_UNAVAILABLE)
        ctx.exit(1 if any(failed(payload) for payload in replies.values()) else 0)

    def _missing(self, app: FastQ, waited_s: float) -> list[str]:
        """Return lines about nodes that were asked and have not answered."""
        live = app.control.nodes()
        if self.replies and self.destination is None:
            silent = sorted(set(live) - set(self.replies))
            return [f"No answer within {waited_s:g} s from {', '.join(silent)}."] if silent else []
        if not live and not self.replies:
            return ["No node is online."]
        named = self.destination or []
        lines = [] if self.replies or named else [f"No node has answered within {waited_s:g} s."]
        if self.destination == []:
            lines = [f"No node that is online has a name that fits {self.pattern!r}."]
        if silent := [name for name in named if name in live and name not in self.replies]:
            lines.append(f"Online, but no answer within {waited_s:g} s: {', '.join(silent)}.")
        if absent := [name for name in named if name not in live and name not in self.replies]:
            lines.append(not_online(absent, live))
        if live and (absent or not self.replies):
            lines.append(f"Online: {', '.join(live)}.")
        return lines


# --- commands ---


def known_commands(kind: Kind, custom: bool) -> dict[str, Known]:
    """Return the commands of a kind by name; ``custom``: also those that the application, imported by now, shows of its own."""
    found = {name: known for name, known in KNOWN.items() if known.kind == kind}
    if custom:
        from fastq.worker.control import known_panel  # lazy: only for names that no node has of itself

        for command in known_panel().values():
            if command.type == kind and command.visible:
                found.setdefault(command.name, known_of(command))
    return found


def find(kind: Kind, name: str, custom: bool) -> Known | None:
    """Return a command by its name or alias, None if it is not known here. ``custom``: look at the application's own too.
    UsageError: it is one of the other kind."""
    known = KNOWN.get(ALIASES.get(name, name))
    if known is None and custom:
        from fastq.worker.control import known_panel  # lazy: only for names that no node has of itself

        known = known_of(command) if (command := known_panel().get(name)) is not None else None
    if known is not None and known.kind != kind:
        raise click.UsageError(f"{name!r} is a command of fastq {known.kind}, not of fastq {kind}.")
    return known


def unknown(kind: Kind, name: str, offered: Iterable[Known], nodes: str) -> NoReturn:
    """Refuse a command that nobody has. ``offered``: the commands of the nodes' own; ``nodes``: what they were asked."""
    both: tuple[Kind, Kind] = ("inspect", "control")
    known = {one: set(known_commands(one, custom=True)) | {of.name for of in offered if of.kind == one} for one in both}
    hint = _meant_command(name, [*known[kind], *known["control" if kind == "inspect" else "inspect"]])
    raise click.UsageError(f"No such command {name!r} here, {nodes}.{hint} Commands: {', '.join(sorted(known[kind]))}.")


def arguments_of(known: Known, words: Iterable[str]) -> dict[str, Any]:
    """Return what a command line says as arguments; a usage error names the word that is wrong."""
    try:
        return known.read(words)
    except ValueError as exc:
        raise click.UsageError(str(exc)) from exc


def print_list(known: Mapping[str, Known], remarks: Mapping[str, str] | None = None) -> None:
    """Print commands, each with its help line and what is remarked of it."""
    rows = []
    for name, one in sorted(known.items()):
        remark = (remarks or {}).get(name)
        text = f"{one.help} ({remark})" if remark else one.help
        rows.append((f"{one.name} {one.signature}".rstrip(), text.lstrip()))
    width = min(40, max(len(head) for head, _ in rows))
    for head, text in rows:
        if len(head) > width:
            click.echo(head)
            head = ""
        click.echo(f"{head.ljust(width)}  {text}".rstrip())


def tell_twice(names: Counter[str]) -> None:
    """Warn of names that more than one node has answered under."""
    if twice := [name for name, count in names.items() if count > 1]:
        click.echo(f"Several nodes call themselves {', '.join(twice)}: give each its own name (worker -n).", err=True)


def not_online(absent: Iterable[str], live: Iterable[str]) -> str:
    """Say which nodes that were named are not there, and what may have been meant."""
    names = list(live)
    return f"Not online: {', '.join(name + _meant(name, names) for name in absent)}."


def _meant(name: str, names: Sequence[str]) -> str:
    near = [other for other in names if other.partition("@")[0] == name] or difflib.get_close_matches(name, names, 1)
    return f" (did you mean {near[0]}?)" if near else ""


def _meant_command(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(names), 1)
    return f" Did you mean {near[0]!r}?" if near else ""
