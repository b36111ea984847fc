"""Print what the core costs against plain Python with msgpack, in one run: python benchmarks/core_ratio.py

Both sides of a row are timed in turns, many short rounds each, and the fastest round of each side counts: what else the machine
does hits both alike. Exits with 1 if a ratio misses its target.
"""

from __future__ import annotations

import argparse
import sys
from timeit import Timer

#: title, statement of the core, of plain Python, tasks per statement, target (plain / core must be at least this)
ROWS = [
    ("one no-op task: peek, load, run, outcome", "core()", "plain()", 100, 2.5),
    ("peek, against unpacking the message", "peek(MESSAGE)", "unpackb(MESSAGE)", 1, 3.0),
    ("encode, against packb of the same tuple", "encode(*FIELDS)", "packb(FIELDS)", 1, 1 / 1.3),
]
SETUP = """
from core_steps import FIELDS, MESSAGE, core_batch, plain_batch
from fastq._core import encode, peek
from msgpack import packb, unpackb
core, plain = core_batch(), plain_batch()
"""


def fastest_ns(core: str, plain: str, calls: int, rounds: int) -> tuple[float, float]:
    """Return ns per call of each side."""
    timers = [Timer(core, SETUP), Timer(plain, SETUP)]
    best = [float("inf"), float("inf")]
    for _ in range(rounds):
        for side, timer in enumerate(timers):
            best[side] = min(best[side], timer.timeit(calls) * 1e9 / calls)
    return best[0], best[1]


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60, help="rounds per side (default: %(default)s)")
    rounds = parser.parse_args().rounds
    missed = 0
    print(f"{'':44}{'core':>10}{'plain':>10}{'ratio':>8}{'target':>8}")
    for title, core, plain, tasks, target in ROWS:
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
