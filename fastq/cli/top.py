"""``fastq top``: watch nodes, queues and tasks, and act on them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from fastq.cli.context import Settings, app_options, load_app_or_broker
from fastq.top.look import Looker
from fastq.top.tables import headline, tables

if TYPE_CHECKING:
    from fastq.app import FastQ

__all__ = ["command"]


@click.command("top", context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-i", "--interval", type=click.FloatRange(min=0.2), default=1.0, show_default=True, metavar="S", help="Look so often."
)
@click.option("--once", is_flag=True, help="Print what there is to see once, and end. Needs no terminal.")
@app_options
def command(settings: Settings, /, interval: float, once: bool) -> None:
    """Watch nodes, queues, rates, latencies and running tasks.

    Keys: 1 to 4 or Tab choose a table, the arrows a row; i inspects it; r revokes a running task, t ends it; p pauses or resumes a
    queue or a task name; space freezes the screen; q quits.
    """
    app = load_app_or_broker(settings)
    app.finalize()
    if once:
        _print_once(app)
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.UsageError("fastq top needs a terminal: --once prints what there is to see and ends.")
    try:
        # lazy: only the live screen needs it
        from fastq.top.screen import Top
    except ImportError as exc:
        raise click.ClickException(
            f"the live screen needs the Python package textual ({exc}): pip install 'fastq[top]', or use --once."
        ) from exc
    Top(app, interval).run()


def _print_once(app: FastQ) -> None:
    # lazy: rich costs the live screen nothing
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    looker = Looker(app)
    try:
        look = looker.look()
    finally:
        looker.close()
    if look.trouble:
        raise click.ClickException(look.trouble)
    # what is piped on is not cut to fit a screen
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    with console.capture() as printed:
        console.print(Text(headline(look)))
        for table in tables(look):
            console.print()
            if not table.rows:
                console.print(Text(f"{table.title}: {table.empty}"))
                continue
            shown = Table(title=table.title, title_justify="left", box=None, pad_edge=False)
            for name in table.columns:
                shown.add_column(name, overflow="fold")
            for _, cells in table.rows:
                shown.add_row(*map(Text, cells))
            console.print(shown)
    for line in printed.get().splitlines():
        click.echo(line.rstrip())  # the last column is padded, too
