"""The nodes that ``fastq multi`` is about: their names, files and command lines."""

from __future__ import annotations

import os
import shlex
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from fastq.cli.multi.parse import Arguments
from fastq.daemon.filenames import expand
from fastq.daemon.pidfile import is_alive, read_pid

__all__ = ["MultiNode", "nodes_of"]

PIDFILE, LOGFILE = "%n.pid", "%n%I.log"


@dataclass(frozen=True, slots=True)
class MultiNode:
    """One node: its name and how it is started."""

    #: name@host
    name: str
    #: behind ``python -m fastq``
    arguments: tuple[str, ...]
    pidfile: Path
    executable: str

    @property
    def command(self) -> list[str]:
        return [self.executable, "-m", "fastq", *self.arguments]

    def shown(self) -> str:
        return shlex.join(self.command)

    def pid(self) -> int | None:
        """Return the pid of the running node, None if it is down."""
        pid = read_pid(self.pidfile)
        return pid if pid and is_alive(pid) else None


def nodes_of(arguments: Arguments, before: Sequence[str] = (), *, range_prefix: str = "fastq") -> list[MultiNode]:
    """Return the nodes that arguments name, in their order. ``before``: global options for each of them.

    One number stands for so many nodes, called by ``range_prefix`` and 1, 2 and so on. UsageError for no node, a name given twice,
    and options for nodes that are not there.
    """
    options = dict(arguments.options)
    prefix = options.pop("--range-prefix", None) or range_prefix
    host = options.pop("--hostname", None) or options.pop("-n", None) or socket.gethostname() or "localhost"
    suffix = options.pop("--suffix", None) or host
    if "@" in suffix:
        raise click.UsageError(
            f"{suffix!r} is no host: with multi the names of nodes stand behind the action (multi start w1 w2@host), and -n or "
            "--suffix is what comes behind their @."
        )
    command = options.pop("--cmd", None) or "worker"
    names = list(arguments.names)
    if len(names) == 1 and names[0].isdigit():
        if not 0 < int(names[0]) <= 1000:
            raise click.UsageError(f"{names[0]} nodes: expected 1 to 1000.")
        names = [f"{prefix}{number}" for number in range(1, int(names[0]) + 1)]
    if not names:
        raise click.UsageError("No node is named: give names, such as w1 w2, or how many there are to be.")
    full = [expand(name if "@" in name else f"{name}@{suffix}", f"{name}@{host}") for name in names]
    if twice := sorted({name for name in full if full.count(name) > 1}):
        raise click.UsageError(f"The node {twice[0]} is named twice.")
    own = _own_options(arguments, full)
    return [_node(name, {**options, **own[name]}, command, before, arguments.rest) for name in full]


def _node(name: str, options: dict[str, str | None], command: str, before: Sequence[str], rest: Sequence[str]) -> MultiNode:
    pidfile = options.pop("--pidfile", None) or PIDFILE
    logfile = options.pop("--logfile", None) or options.pop("-f", None) or LOGFILE
    executable = options.get("--executable") or sys.executable
    for flag in ("--detach", "-D"):
        options.pop(flag, None)
    words = [*command.split(), "--detach"]
    for key, value in options.items():
        words += [key] if value is None else [f"{key}={value}"] if key.startswith("--") else [key, value]
    words += [f"--pidfile={expand(pidfile, name)}", f"--logfile={_kept(logfile, name)}", f"--hostname={name}", *rest]
    return MultiNode(name, (*before, *words), Path(os.path.abspath(expand(pidfile, name))), executable)


def _kept(logfile: str, name: str) -> str:
    """Expand what is of the node; what is of its processes is theirs to expand."""
    parts = logfile.replace("%%", "\0").replace("%i", "\1").replace("%I", "\2")
    return expand(parts, name).replace("\0", "%%").replace("\1", "%i").replace("\2", "%I")


def _own_options(arguments: Arguments, names: Sequence[str]) -> dict[str, dict[str, str | None]]:
    own: dict[str, dict[str, str | None]] = {name: {} for name in names}
    for which, options in arguments.some.items():
        for name in _named(which, names):
            own[name].update(options)
    return own


def _named(which: str, names: Sequence[str]) -> list[str]:
    """Return the nodes that ``1-3``, ``1,3``, ``w1`` or ``w1@host`` means."""
    found = []
    for part in which.split(","):
        first, dash, last = part.partition("-")
        short = [name for name in names if part in (name, name.partition("@")[0])]
        if short:
            found += short
        elif first.isdigit() and (last.isdigit() or not dash):
            numbers = range(int(first), int(last or first) + 1)
            if not numbers or numbers[0] < 1 or numbers[-1] > len(names):
                raise click.UsageError(f":{which}: there are nodes 1 to {len(names)}, not {part}.")
            found += [names[number - 1] for number in numbers]
        else:
            raise click.UsageError(f":{which}: no node is called {part!r}; there are {', '.join(names)}.")
    return found
