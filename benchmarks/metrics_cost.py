#!/usr/bin/env python3
"""Measure what counting costs in the core; for a whole worker see watching_cost.py.

    python benchmarks/metrics_cost.py                                  # tallies against none
    python benchmarks/metrics_cost.py --before /tmp/before             # and against a built tree of another commit

Ways are taken in turns, so what else the machine does meets all; the fastest of many short rounds counts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from timeit import Timer
from typing import Any

from fastq import _core

NOW_MS = 1_700_000_000_000
BATCH = 100
#: argument of a run of this script by itself
CORE = "--core-once"


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
    parser.add_argument("--json", type=Path, help="write the results there too")
    parser.add_argument(CORE, type=int, metavar="ROUNDS", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.core_once:
        print(json.dumps(core_once(given.core_once)))
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

    if given.json is not None:
        found = {"when": datetime.now(UTC).isoformat(timespec="seconds"), "core_ns": core}
        given.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
