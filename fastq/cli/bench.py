"""``fastq bench``: compare the pools on one's own broker."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from fastq.bench import runs
from fastq.bench.cells import Cell, measure
from fastq.bench.machine import cpus
from fastq.bench.place import BorrowedPlace
from fastq.bench.render import failed, show
from fastq.bench.shapes import POOLS, WORKS, shapes
from fastq.cli.context import Settings, app_options, load_app
from fastq.cli.types import Names
from fastq.exceptions import ImproperlyConfigured
from fastq.transports import display_url

if TYPE_CHECKING:
    from fastq.app import FastQ

__all__ = ["command"]


@click.command("bench", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--pools", type=Names(), metavar="A,B", help=f"Only these pools. Default: all of {', '.join(POOLS)}.")
@click.option("--work", type=Names(), metavar="A,B", help=f"Only this work. Default: all of {', '.join(w.key for w in WORKS)}.")
@click.option(
    "--seconds", type=click.FloatRange(min=0.2), default=1.5, show_default=True, metavar="S", help="How long a cell is measured."
)
@click.option("--json", "target", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Save the numbers.")
@click.option(
    "--compare",
    "before",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Show the ratios to an earlier run that was saved.",
)
@app_options
def command(
    settings: Settings,
    /,
    pools: tuple[str, ...] | None,
    work: tuple[str, ...] | None,
    seconds: float,
    target: Path | None,
    before: Path | None,
) -> None:
    """Measure every pool on the application's broker, and say which one suits which work.

    Starts workers of its own on this machine, for a queue of its own; nothing is left in the broker afterwards. Needs no
    application where -b names a broker.
    """
    known = {w.key: w for w in WORKS}
    for given, table, what in ((pools, set(POOLS), "pool"), (work, set(known), "work")):
        if unknown := [name for name in given or () if name not in table]:
            raise click.UsageError(f"unknown {what} {unknown[0]!r}; expected some of {', '.join(sorted(table))}")
    earlier = runs.load(before) if before is not None else None
    app = _app(settings)
    if app.broker_url.startswith("memory:"):
        raise ImproperlyConfigured("the memory broker lives inside one process, so workers cannot be measured on it; give -b URL")
    # without a terminal: wide enough for every column
    console = Console() if sys.stdout.isatty() else Console(width=130)
    place = BorrowedPlace(app)
    cells: list[Cell] = []
    try:
        if not settings.quiet:
            where = display_url(app.broker_url)
            console.print(f"Measuring on {where}, queue {place.queue}, which will be emptied afterwards.", highlight=False)
            if place.backend_url is None:
                console.print("No result backend is configured, so no results are stored.")
        chosen = [(w, s) for w in WORKS if not work or w.key in work for s in shapes(cpus()) if not pools or s.pool in pools]
        for at, (w, shape) in enumerate(chosen, 1):
            with console.status(f"{at} of {len(chosen)}: {w.title} on {shape}"):
                cells.append(measure(place, shape, w, seconds, latency_s=min(seconds, 2.0)))
    finally:
        place.close()
    kind = app.broker_url.partition(":")[0]
    run = runs.Run(tuple(cells), kind, f"fastq {' '.join(sys.argv[1:])}" if settings.broker is None else "fastq bench -b ...")
    show(console, run, earlier, words=True)
    if target is not None:
        console.print(f"Saved to {runs.save(run, target)}.", highlight=False)
    if wrong := failed(cells):
        raise click.ClickException("not every number could be measured:\n" + "\n".join(wrong))


def _app(settings: Settings) -> FastQ:
    """Return the user's application, found as by every command; with -b and without -A one that has only the given URLs."""
    if settings.app is None and settings.broker is not None:
        # lazy: only where there is no application
        from fastq import FastQ

        return FastQ("fastq-bench", broker=settings.broker, backend=settings.result_backend)
    try:
        return load_app(settings)
    except ImproperlyConfigured as exc:
        hint = (
            "" if settings.app else " To measure a broker without an application: fastq bench -b redis://... or sqlite:///bench.db"
        )
        raise ImproperlyConfigured(f"{exc}{hint}") from exc
