"""Read the arguments of ``fastq multi``: names of nodes, options for all of them, options for some of them."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import click

__all__ = ["Arguments", "parse", "signal_number"]

#: options of multi itself that take no value
OWN_FLAGS = frozenset({"--nosplash", "--quiet", "-q", "--verbose", "--no-color", "-C"})


@dataclass(slots=True)
class Arguments:
    """What was said. Options are kept by name, with the value, or None of a flag, in their order."""

    names: list[str] = field(default_factory=list)
    options: dict[str, str | None] = field(default_factory=dict)
    #: ``-c:1-3 10``: which nodes -> their options
    some: dict[str, dict[str, str | None]] = field(default_factory=dict)
    #: multi's own
    own: set[str] = field(default_factory=set)
    #: of ``stop -9`` or ``stop -SIGQUIT``; None: not said
    signal: int | None = None
    #: behind ``--``
    rest: list[str] = field(default_factory=list)


def parse(arguments: Sequence[str], flags: Iterable[str], valued: Iterable[str], *, signals: bool = False) -> Arguments:
    """Read the arguments behind the action.

    ``flags`` and ``valued``: the options of the worker that take no value, and one. Any other is taken as Celery does: a long one
    has a value only behind ``=``, a short one takes the next word that is no option. ``signals``: ``-9`` is a signal.
    """
    flags, valued = frozenset(flags), frozenset(valued)
    read = Arguments()
    words = list(arguments)
    while words:
        word = words.pop(0)
        if word == "--":
            read.rest = words
            break
        if not word.startswith("-") or word == "-":
            read.names.append(word)
        elif word in OWN_FLAGS:
            read.own.add(word)
        elif signals and (number := signal_number(word)) is not None:
            read.signal = number
        else:
            _option(read, word, words, flags, valued)
    return read


def _option(read: Arguments, word: str, words: list[str], flags: frozenset[str], valued: frozenset[str]) -> None:
    name, mark, value = word.partition("=") if word.startswith("--") else (word, "", "")
    name, colon, which = name.partition(":")
    if not word.startswith("--") and not colon and name not in flags | valued and name[:2] in valued:
        name, mark, value = name[:2], "=", name[2:]  # -c3
    if colon and not which:
        raise click.UsageError(f"{word}: nodes are named behind the colon, as in {name}:1-3 or {name}:w1.")
    into = read.some.setdefault(which, {}) if colon else read.options
    if mark:
        into[name] = value
    elif name in flags:
        into[name] = None
    elif name in valued or (not word.startswith("--") and words and not words[0].startswith("-")):
        if not words:
            raise click.UsageError(f"Option {name!r} requires an argument.")
        into[name] = words.pop(0)
    else:
        into[name] = None


def signal_number(word: str) -> int | None:
    """Return the signal that ``-9``, ``-KILL`` or ``-SIGKILL`` names, None if it names none."""
    text = word.removeprefix("-")
    if re.fullmatch(r"\d+", text):
        if int(text) in signal.valid_signals():
            return int(text)
        raise click.UsageError(f"{word}: there is no signal {text}.")
    name = text if text.startswith("SIG") else f"SIG{text}"
    return int(signal.Signals[name]) if text.isupper() and name in signal.Signals.__members__ else None
