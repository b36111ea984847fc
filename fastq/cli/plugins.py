"""Sub-commands that other packages add: entry points of the group ``fastq.commands``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

import click

__all__ = ["Plugin", "found", "load"]


@dataclass(frozen=True, slots=True)
class Plugin:
    """One of them, not imported."""

    entry: EntryPoint
    #: the name of the package that brings it
    package: str


def found(group: str, taken: Collection[str]) -> dict[str, Plugin]:
    """Return the entry points of a group by name; names that are ``taken`` stay what they are."""
    return {
        entry.name: Plugin(entry, entry.dist.name if entry.dist is not None else entry.module)
        for entry in entry_points(group=group)
        if entry.name not in taken
    }


def load(name: str, plugins: Mapping[str, Plugin]) -> click.Command | None:
    """Import a sub-command; None: there is none of that name."""
    plugin = plugins.get(name)
    if plugin is None:
        return None
    try:
        command = plugin.entry.load()
    except Exception as exc:  # code of somebody else; the other commands must work
        raise click.ClickException(
            f"the command {name!r} of the package {plugin.package} cannot be loaded: {type(exc).__name__}: {exc}"
        ) from exc
    if not isinstance(command, click.Command):
        raise click.ClickException(
            f"the command {name!r} of the package {plugin.package} is {plugin.entry.value}, of the type {type(command).__name__}: "
            "expected a click command"
        )
    return command
