"""Workflows: a chord, a chain, a group, and the worker's memory over many of them."""

from __future__ import annotations

import gc
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from rows_base import Context, Row, at_most

from fastq import chain, chord, group
from fastq.bench import proctree
from fastq.bench.node import START_S, Node
from fastq.bench.shapes import Shape
from fastq.bench.stats import median
from fastq.bench.tasks import Bench

CHORD, CHAIN, GROUP = 10_000, 100, 10_000
#: what Celery is measured with: it takes about a second for a thousand members
CELERY_CHORD = 1_000
#: chords, chains and groups that memory is watched over
RUNS = 20
LIMIT_S = 120.0


def canvas_rows(ctx: Context) -> list[Row]:
    members, steps, calls = ctx.n(CHORD), CHAIN, ctx.n(GROUP)
    shape = Shape("prefork", 2)
    ctx.redis.start()
    with ctx.redis.producer() as bench, Node(ctx.redis, shape) as node:
        bench.tasks["noop"].delay(0).get(timeout=START_S)
        works: tuple[tuple[str, Callable[[], object], float, str, float], ...] = (
            (f"chord of {members:,} no-ops with a sum", lambda: _chord(bench, members), 2.0, "s", 1.0),
            (f"chain of {steps}", lambda: _chain(bench, steps), 150.0, "ms", 1e3),
            (f"group of {calls:,} sent and joined", lambda: _group(bench, calls), 1.5, "s", 1.0),
        )
        rows = []
        for title, run, bound, unit, scale in works:
            times = []
            for _ in range(ctx.repeat):
                gc.collect()
                begun = time.perf_counter()
                run()
                times.append((time.perf_counter() - begun) * scale)
                node.check()
            rows.append(at_most(f"{title}, {shape}, Redis", median(times), unit, bound, values=tuple(times)))
        rows.append(_memory(bench, node, members, steps, calls))
    if ctx.venvs is not None and (celery := ctx.venvs / "celery" / "bin" / "python").exists():
        rows.append(_celery(ctx, celery, ctx.n(CELERY_CHORD)))
    return rows


def _chord(bench: Bench, n: int) -> None:
    noop, total = bench.tasks["noop"], bench.tasks["total"]
    got = chord([noop.s(i) for i in range(n)], total.s())().get(timeout=LIMIT_S)
    if got != n * (n - 1) // 2:
        raise RuntimeError(f"a chord of {n} returned {got!r}")


def _chain(bench: Bench, n: int) -> None:
    add = bench.tasks["add"]
    got = chain(add.s(0, 1), *[add.s(1) for _ in range(n - 1)])().get(timeout=LIMIT_S)
    if got != n:
        raise RuntimeError(f"a chain of {n} returned {got!r}")


def _group(bench: Bench, n: int) -> None:
    noop = bench.tasks["noop"]
    got = group([noop.s(i) for i in range(n)])().get(timeout=LIMIT_S)
    if got != list(range(n)):
        raise RuntimeError(f"a group of {n} returned something else")


def _memory(bench: Bench, node: Node, members: int, steps: int, calls: int) -> Row:
    """Compare the memory of the worker's tree after the first run of all three (the rows above) with that after ``RUNS`` more."""
    time.sleep(1)
    early = proctree.pss_mib(node.tree())
    for _ in range(RUNS):
        _chord(bench, members)
        _chain(bench, steps)
        _group(bench, calls)
    time.sleep(1)
    late = proctree.pss_mib(node.tree())
    if early is None or late is None:
        raise RuntimeError("this system does not tell the PSS of a process (/proc/<pid>/smaps_rollup)")
    note = f"{early:.1f} MiB before, {late:.1f} MiB after"
    grown = (late / early - 1) * 100
    return at_most(f"growth of the worker over {RUNS} such chords, chains and groups", grown, "%", 5.0, note=note)


def _celery(ctx: Context, python: Path, n: int) -> Row:
    """Run Celery's chord of fewer members, by a script of its own under its own interpreter."""
    script = Path(__file__).parent / "peers" / "celery_chord.py"
    ctx.redis.start()
    command = [str(python), str(script), ctx.redis.broker_url, str(n), str(ctx.repeat)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise RuntimeError(f"Celery's chord ended with {done.returncode}:\n{done.stderr[-2000:]}")
    answer = json.loads(done.stdout.splitlines()[-1])
    return Row(f"Celery {answer['version']}: chord of {n:,} no-ops with a sum, prefork 2, Redis", median(answer["times_s"]), "s",
               note="for comparison", values=tuple(answer["times_s"]))  # fmt: skip
