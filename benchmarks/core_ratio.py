"""Print what the core costs against plain Python with msgpack, in one run: python benchmarks/core_ratio.py

Both sides of a row are timed in turns, many short rounds each, and the fastest round of each side counts: what else the machine
does hits both alike. Exits with 1 if a ratio misses its target.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from time import perf_counter_ns

from core_steps import BATCH, core_batch, core_encode, core_peek, plain_batch, plain_encode, plain_peek

#: title, core, plain, tasks per call, target (plain / core must be at least this)
Row = tuple[str, Callable[[], object], Callable[[], object], int, float]


def rows() -> list[Row]:
    """Return what is compared."""
    return [
        ("one no-op task: peek, load, run, outcome", core_batch(), plain_batch(), BATCH, 2.5),
        ("peek, against unpacking the message", core_peek, plain_peek, 1, 3.0),
        ("encode, against packb of the same tuple", core_encode, plain_encode, 1, 1 / 1.3),
    ]


def fastest_ns(core: Callable[[], object], plain: Callable[[], object], calls: int, rounds: int) -> tuple[float, float]:
    """Return ns per call of each side."""
    best = [float("inf"), float("inf")]
    for _ in range(rounds):
        for side, call in enumerate((core, plain)):
            started = perf_counter_ns()
            for _ in range(calls):
                call()
            best[side] = min(best[side], (perf_counter_ns() - started) / calls)
    return best[0], best[1]


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60, help="rounds per side (default: %(default)s)")
    rounds = parser.parse_args().rounds
    missed = 0
    print(f"{'':44}{'core':>10}{'plain':>10}{'ratio':>8}{'target':>8}")
    for title, core, plain, tasks, target in rows():
        core_ns, plain_ns = fastest_ns(core, plain, max(1, 4_000 // tasks), rounds)
        ratio = plain_ns / core_ns
        missed += ratio < target
        print(
            f"{title:44}{core_ns / tasks:>7.0f} ns{plain_ns / tasks:>7.0f} ns{ratio:>7.1f}x{target:>7.1f}x"
            f"  {'reached' if ratio >= target else 'MISSED'}"
        )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
