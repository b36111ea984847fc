#!/usr/bin/env python3
"""Compare the pools: pool x {no-op, 5 ms of CPU, 20 ms of waiting}, on a private broker. This is what ``make bench`` runs.

    python benchmarks/pools.py                                   # everything, about five minutes
    python benchmarks/pools.py --pools solo,gevent --work noop   # some of it
    python benchmarks/pools.py --broker sqlite                   # the embedded broker
    python benchmarks/pools.py --benchmark-compare               # against the last saved run
    python benchmarks/pools.py --show last                       # draw a saved run again

Prints a table and bars, saves JSON and a picture to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import document
from places import PLACES, command_line, commit
from rich.console import Console

from fastq.bench import runs
from fastq.bench.cells import Cell, measure
from fastq.bench.machine import cpus, versions
from fastq.bench.render import failed, number, show
from fastq.bench.shapes import POOLS, WORKS, shapes

RESULTS = Path(__file__).parent / "results"


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    keys = [work.key for work in WORKS]
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--broker", choices=sorted(PLACES), default="redis")
    ap.add_argument("--pools", default=",".join(POOLS), metavar="A,B", help=f"of {', '.join(POOLS)}")
    ap.add_argument("--work", default=",".join(keys), metavar="A,B", help=f"of {', '.join(keys)}")
    ap.add_argument("--seconds", type=float, default=4.0, help="how long a cell is drained (default 4)")
    ap.add_argument("--latency-seconds", type=float, default=2.0, help="how long single tasks are watched (default 2)")
    ap.add_argument("--compare", "--benchmark-compare", nargs="?", const="last", metavar="FILE|last",
                    help="show the ratios to an earlier run: a file, part of its name, or last (the default)")  # fmt: skip
    ap.add_argument("--out", type=Path, default=RESULTS, metavar="FILE|FOLDER", help="where to save (default benchmarks/results)")
    ap.add_argument("--no-save", action="store_true", help="save neither JSON nor picture")
    ap.add_argument("--into", type=Path, metavar="FILE", help="put the table and the picture between the marks in this document")
    ap.add_argument("--show", metavar="FILE|last", help="measure nothing: print and draw a saved run")
    ns = ap.parse_args(argv)
    if ns.into and ns.no_save:
        ap.error("--into shows the saved picture, so it does not go with --no-save")
    ns.pools, ns.work = ns.pools.split(","), ns.work.split(",")
    for given, known, what in ((ns.pools, list(POOLS), "pool"), (ns.work, keys, "work")):
        for name in given:
            if name not in known:
                ap.error(f"unknown {what} {name!r}, expected some of {', '.join(known)}")
    return ns


def measure_all(ns: argparse.Namespace, console: Console) -> runs.Run:
    place = PLACES[ns.broker]()
    cells: list[Cell] = []
    found = versions()
    try:
        place.start()
        found[f"{ns.broker} server" if ns.broker == "redis" else ns.broker] = place.version
        chosen = [(work, shape) for work in WORKS if work.key in ns.work for shape in shapes(cpus()) if shape.pool in ns.pools]
        for at, (work, shape) in enumerate(chosen, 1):
            with console.status(f"{at} of {len(chosen)}: {work.title} on {shape}"):
                cell = measure(place, shape, work, ns.seconds, ns.latency_seconds)
            cells.append(cell)
            if not console.is_terminal:
                text = cell.error.splitlines()[0] if cell.error else f"{cell.per_s:,.0f}/s, p50 {cell.p50_ms:.2f} ms"
                console.print(f"{work.title} on {shape}: {text}", highlight=False)
    finally:
        place.close()
    return runs.Run(tuple(cells), ns.broker, command_line(), commit(), versions=found)


def markdown(run: runs.Run) -> str:
    """Write a run as a Markdown table."""
    lines = [
        document.about(run.command, run.when, run.commit, dict(run.machine), dict(run.versions)),
        "",
        "| work | pool | tasks/s | p50 ms | p99 ms | CPU s per 1,000 | PSS MiB |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for cell in run.cells:
        title = next(work.title for work in WORKS if work.key == cell.work)
        values = ("per_s", "p50_ms", "p99_ms", "cpu_s", "pss_mib")
        numbers = ["-"] * len(values) if cell.error else [number(getattr(cell, name)) for name in values]
        lines.append(f"| {title} | {cell.label} | {' | '.join(numbers)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    ns = arguments(argv)
    # without a terminal: wide enough for every column
    console = Console() if sys.stdout.isatty() else Console(width=130)
    # looked up first: an earlier run that is not there is told before five minutes have gone by
    before = runs.load(runs.find(ns.compare, RESULTS, ns.broker)) if ns.compare else None
    if ns.show:
        file = runs.find(ns.show, RESULTS, ns.broker)
        run = runs.load(file)
    else:
        run = measure_all(ns, console)
        file = None if ns.no_save else runs.save(run, ns.out)
    show(console, run, before, words=True)
    if file is not None:
        from picture import draw  # lazy: matplotlib takes a second to import, and none of the measuring needs it

        picture = draw(run, file.with_suffix(".png"), before)
        console.print(f"saved {file} and {picture}", highlight=False, soft_wrap=True)
        if ns.into:
            link = os.path.relpath(picture, ns.into.parent)
            document.put_into(ns.into, f"pools {run.broker}", f"{markdown(run)}\n\n![{run.broker}]({link})")
    wrong = failed(run.cells)
    for line in wrong:
        print(f"FAILED {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
