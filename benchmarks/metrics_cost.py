#!/usr/bin/env python3
"""Measure what counting costs: in the core, and in a worker that drains no-ops and is scraped every second.

    python benchmarks/metrics_cost.py                                  # tallies against none, in the core; scraped against not
    git archive COMMIT | tar x -C /tmp/before && (cd /tmp/before && python setup.py -q build_ext --inplace)
    python benchmarks/metrics_cost.py --before /tmp/before             # and both against that commit
    python benchmarks/metrics_cost.py --json benchmarks/results/metrics_cost.json

Ways are taken in turns, so what else the machine does meets all. In the core the fastest of many short rounds counts, of
drains the median.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import threading
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from timeit import Timer
from typing import Any

from fastq import _core
from fastq.bench.stats import median

NOW_MS = 1_700_000_000_000
BATCH = 100
#: arguments of a run of this script by itself
CORE, DRAIN = "--core-once", "--drain-once"


# --- the core alone


def core_batch(tallied: bool) -> Any:
    """Return what takes a fetched batch through the core and the board; ``tallied``: as this commit does, with a tally."""
    slots, records = 1, 2048
    region = memoryview(bytearray(_core.ProcessBoard.size(slots, records)))
    if tallied:
        tally = _core.Tally(memoryview(bytearray(_core.Tally.size(512, 128))), 512, 128)
        board = _core.ProcessBoard(region, slots, records, tally)
    else:
        board = _core.ProcessBoard(region, slots, records)
    registry = _core.Registry([_core.Entry(f"bench.other{i}", int) for i in range(20)] + [_core.Entry("bench.noop", int)])
    body = _core.encode_call((), {})
    messages = [
        _core.encode(_core.new_id(NOW_MS), "bench.noop", "application/x-msgpack", body, NOW_MS, None, 0, "a1b2c3d4e5f6", None)
        for _ in range(BATCH)
    ]
    tags = [f"0:12:{i}" for i in range(BATCH)]
    out: list[Any] = []
    runner = _core.Runner(emit=out.append, loads=None, dumps=None, on_error=None, board=board, window=_core.BatchWindow())  # type: ignore[arg-type]

    def batch() -> None:
        deliveries = _core.deliveries("default", tags, messages, registry)
        board.hold(deliveries, 0, NOW_MS)
        assert runner.run_many(0, deliveries) == BATCH
        board.free([d.record for d in deliveries])
        out.clear()

    return batch


def core_once(rounds: int) -> dict[str, float]:
    """Return ns a task, by way, as far as the fastq that is imported has them."""
    ways = {"plain": core_batch(False)}
    if hasattr(_core, "Tally"):
        ways["tallied"] = core_batch(True)
    best = dict.fromkeys(ways, float("inf"))
    timers = {way: Timer(batch) for way, batch in ways.items()}
    for _ in range(rounds):
        for way, timer in timers.items():
            best[way] = min(best[way], timer.timeit(40) * 1e9 / 40 / BATCH)
    return best


# --- a worker


def drain_once(n: int, scraped: bool) -> dict[str, float]:
    """Drain no-ops with one worker of one process; return tasks a second, how many scrapes there were and how long one took."""
    from places import RedisPlace

    from fastq.bench.marks import Board
    from fastq.bench.node import Node
    from fastq.bench.shapes import Shape
    from fastq.bench.trial import drain

    place = RedisPlace()
    took: list[float] = []
    over = threading.Event()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"

    def scrape() -> None:
        import time

        while not over.wait(1.0):
            began = time.perf_counter()
            try:
                with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
                    answer.read()
            except OSError:
                continue
            took.append(time.perf_counter() - began)

    try:
        if scraped:
            place.conf = {"worker_http": address}
        place.fill("noop", [(i,) for i in range(n)])
        scraper = threading.Thread(target=scrape)
        if scraped:
            scraper.start()
        with Board(n) as board, Node(place, Shape("prefork", 1), board) as node:
            result = drain(place, node, board)
            over.set()
        if scraped:
            scraper.join()
        return {
            "per_s": result.per_s,
            "cpu_us": 1e6 * result.cpu_s / result.tasks,
            "scrapes": len(took),
            "scrape_ms": 1000 * median(took) if took else 0.0,
        }
    finally:
        over.set()
        place.close()


# --- all of it


def alone(tree: Path, *arguments: str) -> Any:
    """Run this script in another process on the fastq of a tree; return what it prints."""
    env = {**os.environ, "PYTHONPATH": str(tree)}
    done = subprocess.run([sys.executable, __file__, *arguments], env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} on {tree} failed:\n{done.stderr}")
    return json.loads(done.stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="a built tree of the commit to compare with")
    parser.add_argument("--tasks", type=int, default=200_000, help="tasks of a drain (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="drains each way (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the results there too")
    parser.add_argument(CORE, type=int, metavar="ROUNDS", help=argparse.SUPPRESS)
    parser.add_argument(DRAIN, metavar="plain|scraped", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.core_once:
        print(json.dumps(core_once(given.core_once)))
        return 0
    if given.drain_once:
        print(json.dumps(drain_once(given.tasks, given.drain_once == "scraped")))
        return 0

    here = Path(__file__).parents[1]
    trees = {"now": here} | ({"before": given.before} if given.before else {})
    core: dict[str, list[float]] = {}
    for _ in range(5):
        for tree, path in trees.items():
            for way, ns in alone(path, CORE, "60").items():
                core.setdefault(f"{tree}, {way}", []).append(ns)
    fastest = {way: min(values) for way, values in core.items()}
    print("one no-op task through core and board, ns:")
    for way, ns in fastest.items():
        print(f"  {way:16} {ns:8.1f}   {ns - fastest['now, plain']:+6.1f} against {'now, plain'!r}")

    ways = {"now": ("now", "plain"), "now, scraped": ("now", "scraped")} | ({"before": ("before", "plain")} if given.before else {})
    drains: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for number in range(given.rounds):
        order = list(ways) if number % 2 else list(reversed(ways))
        for way in order:
            tree, kind = ways[way]
            drains[way].append(alone(trees[tree], DRAIN, kind, "--tasks", str(given.tasks)))
    base = "before" if given.before else "now"
    print(f"{given.tasks:,} no-ops drained by one prefork process, {given.rounds} rounds; tasks/s, CPU of the worker in us a task:")
    for way, runs in drains.items():
        pairs = list(zip(runs, drains[base], strict=True))
        rate, cpu = (median(run[kind] / against[kind] for run, against in pairs) for kind in ("per_s", "cpu_us"))
        print(
            f"  {way:14}{median(run['per_s'] for run in runs):>10,.0f}/s{rate:>8.1%} of {base!r}"
            f"{median(run['cpu_us'] for run in runs):>8.2f} us{cpu:>8.1%} of {base!r} (medians of pairs)"
        )
        if way.endswith("scraped"):
            print(f"    {sum(run['scrapes'] for run in runs):.0f} scrapes of {median(run['scrape_ms'] for run in runs):.1f} ms")
    if given.json is not None:
        found = {"when": datetime.now(UTC).isoformat(timespec="seconds"), "core_ns": core, "drains": drains}
        given.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
