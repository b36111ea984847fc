#!/usr/bin/env python3
"""Measure what fastq must reach, every row in one run on one machine, each against a floor measured beside it.

    python benchmarks/targets.py                          # everything, about ten minutes
    python benchmarks/targets.py --only drain,enqueue     # some rows
    python benchmarks/targets.py --scale 0.05 --repeat 1 --idle-s 5    # a trial run
    python benchmarks/targets.py --json benchmarks/results/targets.json --markdown
    python benchmarks/targets.py --show benchmarks/results/targets.json --into benchmarks/README.md

The other Python queues need the peer harness and their virtual environments: BENCH_HARNESS=<folder of its run.py>
BENCH_VENVS=<folder>; without them these rows are skipped.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import document
from places import RedisPlace, SqlitePlace, command_line, commit
from rich.console import Console
from rich.table import Table
from rows_base import Context, Row
from rows_canvas import canvas_rows
from rows_drain import command_rows, drain_rows, embedded_rows, pool_rows, sleep_rows
from rows_enqueue import bulk_rows, crowd_rows, enqueue_rows
from rows_idle import growth_rows, idle_rows, memory_rows
from rows_latency import behind_rows, round_trip_rows, start_rows
from rows_peers import peer_drain_rows, peer_enqueue_rows

from fastq.bench.machine import machine, versions
from fastq.bench.render import number

KIND = "fastq targets"

#: in the order of the table of what must be reached
ROWS: Mapping[str, Callable[[Context], Sequence[Row]]] = {
    "drain": drain_rows,
    "peers": peer_drain_rows,
    "pools": pool_rows,
    "sleeps": sleep_rows,
    "enqueue": enqueue_rows,
    "peers-enqueue": peer_enqueue_rows,
    "crowd": crowd_rows,
    "bulk": bulk_rows,
    "commands": command_rows,
    "behind": behind_rows,
    "roundtrip": round_trip_rows,
    "canvas": canvas_rows,
    "embedded": embedded_rows,
    "idle": idle_rows,
    "memory": memory_rows,
    "growth": growth_rows,
    "start": start_rows,
}

COLUMNS = ("work", "measured", "held against", "ratio", "to reach", "reached")


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--only", metavar="A,B", help=f"of {', '.join(ROWS)}")
    ap.add_argument("--scale", type=float, default=1.0, help="share of the full task counts (default 1)")
    ap.add_argument("--repeat", type=int, default=3, help="repetitions, of which the median counts (default 3)")
    ap.add_argument("--idle-s", type=float, default=60.0, help="how long idle workers are watched (default 60)")
    ap.add_argument("--json", type=Path, metavar="FILE", help="save the rows")
    ap.add_argument("--markdown", action="store_true", help="print a Markdown table instead")
    ap.add_argument("--into", type=Path, metavar="FILE", help="put the Markdown table between the marks in this document")
    ap.add_argument("--show", type=Path, metavar="FILE", help="measure nothing: print saved rows")
    ns = ap.parse_args(argv)
    ns.only = ns.only.split(",") if ns.only else list(ROWS)
    for name in ns.only:
        if name not in ROWS:
            ap.error(f"unknown row {name!r}, expected some of {', '.join(ROWS)}")
    return ns


def measure(ns: argparse.Namespace) -> dict[str, Any]:
    """Measure the chosen rows; one that fails is recorded with its error, and the others go on."""
    harness, venvs = os.environ.get("BENCH_HARNESS"), os.environ.get("BENCH_VENVS")
    redis, sqlite = RedisPlace(), SqlitePlace()
    found = versions()
    rows: dict[str, list[Row]] = {}

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    try:
        redis.start()
        found["redis server"], found["sqlite"] = redis.version, sqlite.version
        ctx = Context(
            redis, sqlite, ns.scale, ns.repeat, ns.idle_s, Path(harness) if harness else None, Path(venvs) if venvs else None, say
        )
        for name in ns.only:
            begun = time.perf_counter()
            say(f"{name} ...")
            try:
                rows[name] = list(ROWS[name](ctx))
            except Exception as exc:  # a failed row must not cost the others' minutes of measuring
                rows[name] = [Row(name, None, "", reached=False, note=f"{type(exc).__name__}: {exc}")]
            for row in rows[name]:
                say(f"  {row.row}: {measured(row)} {verdict(row)} {row.note}")
            say(f"  ({time.perf_counter() - begun:.0f} s)")
    finally:
        redis.close()
        sqlite.close()
    return {
        "kind": KIND,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command_line(),
        "commit": commit(),
        "machine": machine(),
        "versions": found,
        "rows": {name: [{**asdict(row), "ratio": row.ratio} for row in several] for name, several in rows.items()},
    }


def load(path: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(path.read_text())
    if record.get("kind") != KIND:
        raise SystemExit(f"{path} does not hold saved targets (no kind {KIND!r} in it)")
    return record


def rows_of(record: Mapping[str, Any]) -> list[Row]:
    known = {f.name for f in fields(Row)}
    return [Row(**{k: v for k, v in row.items() if k in known}) for several in record["rows"].values() for row in several]


def measured(row: Row) -> str:
    if row.measured is None:
        return "-"
    return f"{number(row.measured)}{'' if row.unit.startswith(('/', '%')) or not row.unit else ' '}{row.unit}"


def against(row: Row) -> str:
    unit = "" if row.floor is None or not row.unit else row.unit if row.unit.startswith("/") else f" {row.unit}"
    return "" if row.floor is None else f"{row.floor_is}: {number(row.floor)}{unit}"


def verdict(row: Row) -> str:
    return {True: "yes", False: "NO", None: "-"}[row.reached]


def cells(row: Row) -> tuple[str, ...]:
    return row.row, measured(row), against(row), "" if row.ratio is None else f"{row.ratio:.2f}", row.to_reach, verdict(row)


def markdown(record: Mapping[str, Any]) -> str:
    """Write the rows as a Markdown table, below the command, versions and machine that they come from."""
    lines = [
        document.about(record["command"], record["when"], record["commit"], record["machine"], record["versions"]),
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|---|---:|---|---:|---|---|",
    ]
    rows = rows_of(record)
    lines += [f"| {' | '.join(text.replace('|', '/') for text in cells(row))} |" for row in rows]
    notes = [f"- {row.row}: {' '.join(row.note.split())}" for row in rows if row.note]
    return "\n".join(lines + (["", *notes] if notes else []))


def table(record: Mapping[str, Any]) -> Table:
    grid = Table(title="What must be reached", title_justify="left", show_lines=False)
    for title in COLUMNS:
        grid.add_column(title, justify="right" if title in ("measured", "ratio") else "left", overflow="fold")
    for row in rows_of(record):
        style = "" if row.reached else "dim" if row.reached is None else "bold red"
        grid.add_row(*cells(row), style=style)
    return grid


def main(argv: Sequence[str] | None = None) -> int:
    ns = arguments(argv)
    record = load(ns.show) if ns.show else measure(ns)
    if ns.json:
        ns.json.parent.mkdir(parents=True, exist_ok=True)
        ns.json.write_text(json.dumps(record, indent=1) + "\n")
    if ns.into:
        document.put_into(ns.into, "targets", markdown(record))
    if ns.markdown:
        print(markdown(record))
    else:
        console = Console() if sys.stdout.isatty() else Console(width=200)
        console.print(table(record))
        for row in rows_of(record):
            if row.note:
                console.print(f"- {row.row}: {row.note}", style="dim", highlight=False, markup=False)
    missed = [row for row in rows_of(record) if row.reached is False]
    print(f"{len(missed)} of {len(rows_of(record))} rows not reached" if missed else "every judged row reached", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
