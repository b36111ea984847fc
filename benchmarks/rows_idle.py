"""What a worker costs that has nothing to do, and whether it grows."""

from __future__ import annotations

import time

from rows_base import Context, Row, at_most
from rows_drain import OUTSIDE, calls, difference

from fastq.bench import proctree
from fastq.bench.marks import Board
from fastq.bench.node import START_S, Node
from fastq.bench.place import send
from fastq.bench.shapes import Shape


def idle_rows(ctx: Context) -> list[Row]:
    rows = []
    for shape in (Shape("prefork", 2), Shape("gevent", 100)):
        ctx.redis.fill("noop", [(0,)])
        with Board(1) as board, Node(ctx.redis, shape, board) as node:
            node.wait_for(board.finished, "the first task", START_S)
            time.sleep(2)  # what a start leaves to be done
            before, cpu, begun = calls(ctx), proctree.running_s(node.tree()), time.perf_counter()
            time.sleep(ctx.idle_s)
            seconds = time.perf_counter() - begun
            cpu = proctree.running_s(node.tree()) - cpu
            spent = difference(calls(ctx), before)
            node.check()
        outside = {name: count for name, count in spent.items() if name in OUTSIDE}
        listed = ", ".join(f"{name} {count}" for name, count in sorted(spent.items(), key=lambda item: -item[1])) or "none"
        title = f"idle {shape}: "
        note = f"{sum(spent.values()) / seconds:.2f}/s with those inside scripts; in {seconds:.0f} s: {listed}"
        rows.append(at_most(title + "calls to Redis", sum(outside.values()) / seconds, "/s", 1.0, note=note))
        rows.append(at_most(title + "CPU", cpu / seconds * 100, "% of a core", 0.5))
    return rows


def memory_rows(ctx: Context) -> list[Row]:
    rows = []
    for shape, bound in ((Shape("prefork", 2), 80.0), (Shape("gevent", 500), 60.0), (Shape("solo", 1), None)):
        ctx.redis.fill("noop", [(0,)])
        with Board(1) as board, Node(ctx.redis, shape, board) as node:
            node.wait_for(board.finished, "the first task", START_S)
            time.sleep(2)
            pids = node.tree()
            note = ", ".join(f"{proctree.name(pid)} {_pss([pid]):.1f}" for pid in pids)
            title = f"idle {shape}: memory"
            if bound is None:
                rows.append(Row(title, _pss(pids), "MiB PSS", note=note))
            else:
                rows.append(at_most(title, _pss(pids), "MiB PSS", bound, note=note))
    return rows


def growth_rows(ctx: Context) -> list[Row]:
    """Compare the memory after a tenth of the tasks with that after all, each time idle."""
    n = ctx.n(500_000, 10_000)
    first = n // 10
    rows = []
    for shape in (Shape("prefork", 2), Shape("gevent", 100)):
        ctx.redis.fill("noop", [(i,) for i in range(first)])
        with Board(n) as board, Node(ctx.redis, shape, board) as node:
            node.wait_for(lambda board=board: board.finished() >= first, f"{first:,} tasks", 300.0, every_s=0.02)
            time.sleep(1)
            early = _pss(node.tree())
            with ctx.redis.producer() as bench:
                send(bench, "noop", [(i,) for i in range(first, n)], ctx.redis.queue)
            node.wait_for(lambda board=board: board.finished() >= n, f"{n:,} tasks", 300.0, every_s=0.02)
            time.sleep(1)
            late = _pss(node.tree())
        grown = (late / early - 1) * 100
        note = f"{early:.1f} MiB after {first:,}, {late:.1f} MiB after {n:,}"
        rows.append(at_most(f"growth over {n:,} tasks, {shape}", grown, "%", 5.0, note=note))
    return rows


def _pss(pids: list[int]) -> float:
    mib = proctree.pss_mib(pids)
    if mib is None:
        raise RuntimeError("this system does not tell the PSS of a process (/proc/<pid>/smaps_rollup)")
    return mib
