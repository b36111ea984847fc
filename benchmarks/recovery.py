#!/usr/bin/env python3
"""Kill processes and measure how long it takes until what they ran runs again. Every task is counted.

    python benchmarks/recovery.py                                  # six pools, five kinds of death, 50 kills each, lease 2 s
    python benchmarks/recovery.py --pools gevent --kind child,node --kills 5
    python benchmarks/recovery.py --lease 15 --kind node --pools prefork,gevent
    python benchmarks/recovery.py --broker sqlite --kind child,neighbour,restart
    python benchmarks/recovery.py --show --json benchmarks/results/recovery.json --into docs/reliability.md

What dies (--kind):

    child        the process that runs tasks, all its slots busy (solo: the worker); promised: within 1 s
    supervisor   who keeps the leases, alone (solo: its lease keeper); another node lives; promised: within 2 leases
    node         all processes of a node; the other node is on another host (simulated); promised: within 2 leases
    neighbour    the same, the other node is on the same host, and sees that the processes are gone; promised: within a lease
    restart      all processes of the only node, which is started again under its name; timed from that start

A time is taken by the tasks themselves: from the signal to the second start of the last of the tasks that were running.
--json adds to what the file holds: series with the same broker, lease, kind and pool are replaced.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import document
from places import PLACES, command_line, commit
from recovery_kills import KINDS
from recovery_site import RecoveryError, Site

from fastq.bench.machine import machine, versions
from fastq.bench.stats import median, percentile

POOLS = ("prefork", "threads", "gevent", "eventlet", "asyncio", "solo")
KIND = "fastq recovery"
TITLES = {
    "child": "a worker process",
    "supervisor": "the supervisor alone",
    "node": "a node, its host with it",
    "neighbour": "a node, another on its host",
    "restart": "the only node, started again",
}


@dataclass(frozen=True, slots=True)
class Series:
    """The kills of one kind on one pool."""

    kind: str
    pool: str
    broker: str
    lease_s: float
    times_s: Sequence[float]
    tasks: int
    lost: int
    #: runs that no kill explains
    extra: int
    took_s: float = 0.0
    #: of the last minute, before it began: above the number of CPUs something else was running
    load: float = 0.0
    error: str = ""
    when: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def key(self) -> tuple[float, int, str, int]:
        """Sort by this; equal keys are the same series, measured again."""
        return self.lease_s, list(KINDS).index(self.kind), self.broker, POOLS.index(self.pool)

    @property
    def promised_s(self) -> float | None:
        """Return what docs/reliability.md promises; None: as soon as the new node is up."""
        if self.kind == "restart":
            return None
        return {"child": 1.0, "neighbour": self.lease_s}.get(self.kind, 2 * self.lease_s)

    @property
    def late(self) -> int:
        return 0 if self.promised_s is None else sum(t > self.promised_s for t in self.times_s)

    @property
    def wrong(self) -> str:
        """Say what must not be; "" if all is well."""
        found = [
            self.error.partition("\n")[0],
            f"{self.lost} of {self.tasks} tasks lost" if self.lost else "",
            f"{self.extra} runs too many" if self.extra else "",
            f"{self.late} of {len(self.times_s)} later than {self.promised_s:g} s" if self.late else "",
        ]
        return ", ".join(filter(None, found))


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--pools", default=",".join(POOLS), metavar="A,B", help=f"of {', '.join(POOLS)}")
    ap.add_argument("--kind", default=",".join(KINDS), metavar="A,B", help=f"of {', '.join(KINDS)}")
    ap.add_argument("--kills", type=int, default=50, help="of each kind on each pool (default 50)")
    ap.add_argument("--lease", type=float, default=2.0, metavar="SECONDS", help="worker_lease (default 2)")
    ap.add_argument("--broker", choices=sorted(PLACES), default="redis")
    ap.add_argument("--json", type=Path, metavar="FILE", help="add the series to this file")
    ap.add_argument("--into", type=Path, metavar="FILE", help="put the table between the marks in this document")
    ap.add_argument("--show", action="store_true", help="measure nothing: show what --json holds")
    ns = ap.parse_args(argv)
    ns.pools, ns.kind = ns.pools.split(","), ns.kind.split(",")
    for given, known, what in ((ns.pools, POOLS, "pool"), (ns.kind, KINDS, "kind")):
        for name in given:
            if name not in known:
                ap.error(f"unknown {what} {name!r}, expected some of {', '.join(known)}")
    if ns.kills < 1:
        ap.error(f"--kills is {ns.kills}, expected at least 1")
    if ns.show and not ns.json:
        ap.error("--show needs --json: the file to show")
    if ns.broker == "sqlite" and not {"node", "supervisor"}.isdisjoint(ns.kind):
        ap.error("the embedded broker is one host's: with --broker sqlite use --kind child,neighbour,restart")
    return ns


def measure(kind: str, pool: str, broker: str, lease_s: float, kills: int) -> tuple[Series, str]:
    """Make one series; return it and the broker's version. One that fails is returned with its error."""
    load, begun_s = os.getloadavg()[0], time.monotonic()
    with Site(broker, pool, lease_s) as site:
        times: list[float] = []
        tasks = lost = extra = 0
        error = ""
        try:
            times = KINDS[kind](site, kills, lease_s)
            tasks, lost, extra = site.count()
        except RecoveryError as exc:  # the other series must not be lost with this one
            error = str(exc)
            for node in list(site.nodes):
                node.clear_away()
        rounded = [round(t, 4) for t in times]
        took_s = round(time.monotonic() - begun_s, 1)
        return Series(kind, pool, broker, lease_s, rounded, tasks, lost, extra, took_s, round(load, 2), error), site.version


def line(s: Series) -> str:
    """Say in one line what came of a series."""
    head = f"{s.kind:<10} {s.pool:<8} {s.broker}, lease {s.lease_s:g} s"
    if not s.times_s:
        return f"{head}: FAILED {s.error}"
    t = s.times_s
    numbers = f"min {min(t):.3f}  median {median(t):.3f}  p95 {percentile(t, 0.95):.3f}  max {max(t):.3f} s  n {len(t)}"
    return f"{head}: {numbers}; {s.tasks} tasks, lost {s.lost}, runs too many {s.extra} ({s.took_s:.0f} s) {s.wrong}".rstrip()


def short(time_s: float) -> str:
    return f"{time_s * 1000:.0f} ms" if time_s < 1 else f"{time_s:.2f} s"


def markdown(saved: dict[str, Any], series: Sequence[Series]) -> str:
    """Write the series as Markdown: a table per lease, with where it comes from below."""
    out = []
    for lease_s in sorted({s.lease_s for s in series}):
        these = [s for s in series if s.lease_s == lease_s]
        brokers = len({s.broker for s in series}) > 1
        out += [f"**Lease {lease_s:g} s{' (the default)' if lease_s == 15 else ''}**", ""]
        out += [
            "| what is killed | pool | kills | min | median | p95 | max | promised | tasks | lost | runs too many |",
            "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
        ]
        for s in these:
            if not s.times_s:
                continue
            t = s.times_s
            what = TITLES[s.kind] + (f" ({'Redis' if s.broker == 'redis' else 'embedded broker'})" if brokers else "")
            times = " | ".join(map(short, (min(t), median(t), percentile(t, 0.95), max(t))))
            promised = "" if s.promised_s is None else f"{s.promised_s:g} s"
            out.append(f"| {what} | {s.pool} | {len(t)} | {times} | {promised} | {s.tasks} | {s.lost} | {s.extra} |")
        out.append("")
    for run in saved["runs"]:
        came = document.about(run["command"], run["when"], run["commit"], saved["machine"], run["versions"])
        out += [came.replace("\n\n", "; "), ""]
    return "\n".join(out)


def load(path: Path | None) -> dict[str, Any]:
    if path is None or not path.exists():
        return {"kind": KIND, "machine": machine(), "runs": [], "series": []}
    saved: dict[str, Any] = json.loads(path.read_text())
    if saved.get("kind") != KIND:
        raise SystemExit(f"{path} holds {saved.get('kind')!r}, expected {KIND!r}")
    return saved


def series_of(saved: dict[str, Any]) -> list[Series]:
    return sorted((Series(**values) for values in saved["series"]), key=lambda s: s.key)


def merge(saved: dict[str, Any], made: Iterable[Series], run: dict[str, Any]) -> None:
    """Put series into what was saved; a run is dropped when the last of its series was measured again."""
    made = list(made)
    keys = {s.key for s in made}
    kept = [s for s in series_of(saved) if s.key not in keys]
    saved["series"] = [asdict(s) for s in sorted([*kept, *made], key=lambda s: s.key)]
    run["first"], run["last"] = min(s.when for s in made), max(s.when for s in made)
    saved["runs"] = [r for r in saved["runs"] if any(r["first"] <= s.when <= r["last"] for s in kept)] + [run]


def keep(saved: dict[str, Any], made: Sequence[Series], found: dict[str, str], path: Path | None) -> None:
    when = datetime.now(UTC).isoformat(timespec="seconds")
    merge(saved, made, {"command": command_line(), "when": when, "commit": commit(), "versions": found})
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(saved, indent=1) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    ns = arguments(argv)
    saved = load(ns.json)
    made: list[Series] = []
    if not ns.show:
        found = versions()
        try:
            for kind in ns.kind:
                for pool in ns.pools:
                    series, server = measure(kind, pool, ns.broker, ns.lease, ns.kills)
                    name, _, version = server.partition(" ")
                    found[f"{name} server" if name == "redis" else name] = version
                    made.append(series)
                    print(line(series), flush=True)
        finally:  # ^C after a quarter of an hour keeps what there is
            if made:
                keep(saved, made, found, ns.json)
    series = series_of(saved)
    if ns.show:
        for each in series:
            print(line(each))
    if ns.into:
        document.put_into(ns.into, "recovery", markdown(saved, series))
    wrong = [f"{s.kind} {s.pool}: {s.wrong}" for s in (made or series) if s.wrong]
    for text in wrong:
        print(f"FAILED {text}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
