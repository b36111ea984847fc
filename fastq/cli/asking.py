"""Carry out one command of ``fastq inspect`` or ``fastq control``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from fastq.cli.context import Settings, app_options, load_app_or_broker
from fastq.cli.remote import Asked, arguments_of, find, known_commands, print_list, remote_options, unknown
from fastq.exceptions import ImproperlyConfigured, OperationalError

if TYPE_CHECKING:
    from fastq.app import FastQ
    from fastq.control.catalogue import Kind, Known
    from fastq.control.offering import Offer, Offers

__all__ = ["remote_command"]

#: commands that are done when the broker has taken them, whether nodes hear of them or not
RECORDED = frozenset({"revoke", "revoke_by_stamped_headers", "terminate"})
#: seconds in which a process with the application says what it has added
OFFER_S = 5.0
_EXITS = (
    "Exits with 0, with 1 if a node has answered with an error, with 69 if nobody has answered or one that -d names, or --pattern "
    "chooses, has not."
)


def remote_command(kind: Kind, help: str) -> click.Command:
    """Return a sub-command that asks nodes."""

    @click.command(kind, context_settings={"help_option_names": ["-h", "--help"]}, help=f"{help}\n\n{_EXITS}")
    @click.argument("name", metavar="[COMMAND]", required=False)
    @click.argument("words", metavar="[ARGUMENT]...", nargs=-1)
    @remote_options
    @click.option("--list", "-l", "listing", is_flag=True, help="Print all commands, also those of the application, and exit.")
    @app_options
    def command(settings: Settings, /, name: str | None, words: tuple[str, ...], asked: Asked, listing: bool) -> None:
        if listing:
            _list(kind, settings, asked)
        else:
            _ask_nodes(kind, settings, name, words, asked)

    assert isinstance(command, click.Command)
    return command


def _ask_nodes(kind: Kind, settings: Settings, name: str | None, words: tuple[str, ...], asked: Asked) -> None:
    if name is None:
        raise click.UsageError(f"Say which command: fastq {kind} COMMAND. fastq {kind} --list prints them all.")
    if name == "election":
        raise click.UsageError("election: nodes of fastq elect nobody; of any number of beats exactly one fires each run.")
    known = find(kind, name, custom=False)
    # Words are read before anybody is asked, and before the application is imported where that is not needed for it.
    arguments = None if known is None else arguments_of(known, words)
    app = load_app_or_broker(settings)
    if known is None:
        _import_modules(app)
        known = find(kind, name, custom=True)
        arguments = None if known is None else arguments_of(known, words)
    if known is None:
        _call_offered(kind, app, name, words, asked)
        return
    asked.choose(app)
    if asked.destination != [] or known.name in RECORDED:
        asked.run(lambda: _ask(app, known, arguments or {}, asked))
    if known.name in RECORDED and not asked.replies and not asked.destination:
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
            raise click.UsageError(f"{known.name}: {word!r} is no HEADER=VALUE. Usage: {known.usage}")
        stamps.setdefault(header, []).append(value)
    return stamps


# --- commands that only nodes know ---


def _call_offered(kind: Kind, app: FastQ, name: str, words: tuple[str, ...], asked: Asked) -> None:
    """Call a command that is not known here: modules that only workers import may have declared it."""
    from fastq.control.offering import CALL, offered  # lazy: only for names that are known nowhere else

    try:
        asked.choose(app)
        offers = offered(app.control, asked.destination or None, asked.waits_s(OFFER_S)) if asked.destination != [] else None
    except OperationalError as exc:
        unknown(kind, name, (), f"and nodes could not be asked whether they have it: {exc}")
    offer = None if offers is None else offers.find(name)
    if offer is None or offers is None:
        unknown(kind, name, [] if offers is None else [one.known for one in offers.by_name.values()], _who(offers))
    if offer.known.kind != kind:
        raise click.UsageError(f"{name!r} is a command of fastq {offer.known.kind}, not of fastq {kind}.")
    arguments_of(offer.known, words)
    if asked.destination is None:
        asked.destination = offer.nodes
    options = asked.options(offer.known.timeout_s)
    asked.run(lambda: app.control.broadcast(CALL, {"name": name, "words": list(words)}, **options))
    asked.end(app, offer.known.timeout_s, count=kind == "inspect")


def _who(offers: Offers | None) -> str:
    """Say who was asked for a command that nobody has."""
    if offers is None or not (offers.nodes or offers.failed):
        return "and no node has answered that may have it"
    asked = f"nor on {', '.join(offers.nodes)}" if offers.nodes else "and no node could say whether it has it"
    return "; ".join([asked, *(f"{node} could not say: {why}" for node, why in offers.failed.items())])


def _list(kind: Kind, settings: Settings, asked: Asked) -> None:
    """Print the commands known here, and those of the nodes, if there are any to ask."""
    try:
        app = load_app_or_broker(settings)
        _import_modules(app)
    except ImproperlyConfigured:
        if settings.app is not None:
            raise
        print_list(known_commands(kind, custom=False))
        return
    from fastq.control.offering import Offers, offered  # lazy: other commands have no use for it

    offers = Offers()
    try:
        asked.choose(app)
        if asked.destination != []:
            offers = offered(app.control, asked.destination, asked.waits_s(OFFER_S))
    except OperationalError as exc:
        click.echo(f"The nodes could not be asked for commands of their own: {exc}", err=True)
    for node, why in offers.failed.items():
        click.echo(f"{node} could not say which commands of its own it has: {why}", err=True)
    here = known_commands(kind, custom=True)
    there = {name: offer for name, offer in offers.by_name.items() if offer.known.kind == kind and (name in here or offer.visible)}
    print_list(
        {**{name: offer.known for name, offer in there.items()}, **here},
        {name: remark for name, offer in there.items() if (remark := _remark(offer, offers, name in here))},
    )


def _remark(offer: Offer, offers: Offers, here: bool) -> str:
    """Say which nodes have a command, where that is not plain: it is known here, and all have it."""
    return "" if here and offer.nodes == offers.nodes else f"on {', '.join(offer.nodes)}"


def _import_modules(app: FastQ) -> None:
    """Import what a worker would: a command may be declared beside the tasks."""
    app.finalize()
