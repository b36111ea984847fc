"""``fastq report``: what a report of a fault should say."""

from __future__ import annotations

import click

from fastq.cli.context import Settings, app_options, load_app

__all__ = ["command"]


@click.command("report", context_settings={"help_option_names": ["-h", "--help"]})
@app_options
def command(settings: Settings, /) -> None:
    """Print versions, platform, broker and settings, without passwords: what a report of a fault should say."""
    app = load_app(settings)
    app.finalize()
    click.echo(app.bugreport(), nl=False)
