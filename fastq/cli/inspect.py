"""``fastq inspect``: ask the nodes."""

from __future__ import annotations

import click

from fastq.cli.asking import ask_nodes
from fastq.cli.context import Settings, app_options
from fastq.cli.remote import Asked, remote_options

__all__ = ["command"]


@click.command("inspect", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("name", metavar="[COMMAND]", required=False)
@click.argument("words", metavar="[ARGUMENT]...", nargs=-1)
@remote_options
@click.option("--list", "-l", "listing", is_flag=True, help="Print all commands, also those of the application, and exit.")
@app_options
def command(settings: Settings, /, name: str | None, words: tuple[str, ...], asked: Asked, listing: bool) -> None:
    """Ask the nodes something, print what they answer.

    Exits with 0, with 1 if a node has answered with an error, with 69 if nobody has answered or one that -d names has not.
    """
    ask_nodes("inspect", settings, name, words, asked, listing)
