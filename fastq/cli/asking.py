"""Carry out one command of ``fastq inspect`` or ``fastq control``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import click

from fastq.cli.context import Settings, load_app_or_broker
from fastq.cli.remote import Asked, arguments_of, find, known_commands, print_list, usage
from fastq.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from fastq.app import FastQ
    from fastq.control.catalogue import Known

__all__ = ["ask_nodes"]

Kind = Literal["inspect", "control"]

#: commands that are done when the broker has taken them, whether nodes hear of them or not
RECORDED = frozenset({"revoke", "revoke_by_stamped_headers", "terminate"})


def ask_nodes(kind: Kind, settings: Settings, name: str | None, words: tuple[str, ...], asked: Asked, listing: bool) -> None:
    if listing:
        print_list(kind, known_commands(kind, _has_custom(settings)))
        return
    if name is None:
        raise click.UsageError(f"Say which command: fastq {kind} COMMAND. fastq {kind} --list prints them all.")
    if name == "election":
        raise click.UsageError("election: nodes of fastq elect nobody; of any number of beats exactly one fires each run.")
    known = find(kind, name, custom=False)
    # Words are read before anybody is asked, and before the application is imported where that is not needed for it.
    arguments = None if known is None else arguments_of(known, words)
    app = load_app_or_broker(settings)
    if known is None or arguments is None:
        _import_modules(app)
        known = find(kind, name, custom=True)
        assert known is not None
        arguments = arguments_of(known, words)
    asked.run(lambda: _ask(app, known, arguments, asked))
    if known.name in RECORDED and not asked.replies and asked.destination is None:
        click.echo("{}" if asked.json else "Recorded in the broker. No node has answered, and none needs to.")
        return
    asked.end(app, known.timeout_s, count=kind == "inspect")


def _ask(app: FastQ, known: Known, arguments: dict[str, Any], asked: Asked) -> None:
    options = asked.options(known.timeout_s)
    control = app.control
    if known.name == "revoke":
        control.revoke(arguments["task_id"], **options)
    elif known.name == "terminate":
        control.terminate(arguments["task_id"], signal=arguments["signal"], **options)
    elif known.name == "revoke_by_stamped_headers":
        control.revoke_by_stamped_headers(_stamps(known, arguments["headers"]), **options)
    else:
        control.broadcast(known.name, arguments, **options)


def _stamps(known: Known, words: list[str]) -> dict[str, list[str]]:
    """Read ``header=value`` words; a header may be given several times."""
    stamps: dict[str, list[str]] = {}
    for word in words:
        header, mark, value = word.partition("=")
        if not mark or not header:
            raise click.UsageError(f"{known.name}: {word!r} is no HEADER=VALUE. Usage: {usage(known)}")
        stamps.setdefault(header, []).append(value)
    return stamps


def _has_custom(settings: Settings) -> bool:
    """Import the application for the commands that it adds; without one there are none."""
    try:
        _import_modules(load_app_or_broker(settings))
    except ImproperlyConfigured:
        if settings.app is not None:
            raise
        return False
    return True


def _import_modules(app: FastQ) -> None:
    """Import what a worker would: a command may be declared beside the tasks."""
    app.finalize()
