"""``fastq purge``: drop waiting messages."""

from __future__ import annotations

import click

from fastq.cli.context import Settings, app_options, load_app
from fastq.cli.types import Names
from fastq.transports import display_url, open_inspector

__all__ = ["command"]


@click.command("purge", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@click.option("-Q", "--queues", type=Names(), metavar="A,B", help="Only these queues. Default: every queue of the broker.")
@click.option("-X", "--exclude-queues", type=Names(), metavar="A,B", help="Not these queues.")
@app_options
def command(settings: Settings, /, force: bool, queues: tuple[str, ...] | None, exclude_queues: tuple[str, ...] | None) -> None:
    """Drop all ready and delayed messages. There is no undo.

    What a worker has taken already is not touched; neither are dead letters and results.
    """
    app = load_app(settings)
    inspector = open_inspector(app.broker_url, app.transport_options())
    try:
        chosen = [name for name in queues or sorted(inspector.queues()) if name not in (exclude_queues or ())]
        where = display_url(app.broker_url)
        if not chosen:
            click.echo(f"No queues to purge on {where}.")
            return
        if not force:
            depths = {name: inspector.depth(name) for name in chosen}
            if not any(depth["ready"] or depth["delayed"] for depth in depths.values()):
                click.echo(f"No messages wait on {where} (in {', '.join(chosen)}).")
                return
            click.echo(f"This drops every waiting message on {where}:")
            for name, depth in depths.items():
                click.echo(f"  {name}: {depth['ready']} ready, {depth['delayed']} delayed")
            click.echo("There is no undo. (-f skips this question.)")
            click.confirm("Drop them?", abort=True)
        dropped = sum(inspector.purge(name) for name in chosen)
    finally:
        inspector.close()
    messages = "message" if dropped == 1 else "messages"
    click.echo(f"Purged {dropped} {messages} from {len(chosen)} {'queue' if len(chosen) == 1 else 'queues'}.")
