"""How long one task takes: behind a long one, as a round trip, after the start."""

from __future__ import annotations

import time

import floors
from rows_base import Context, Row, at_most, times_at_most

from fastq.bench.marks import Board
from fastq.bench.node import START_S, Node
from fastq.bench.shapes import Shape
from fastq.bench.stats import median, percentile

#: the long task; the short ones must be done long before it
LONG_MS = 3_000
SHORT = 100
#: "at once" for 100 short tasks in the other slot, in seconds; waiting behind the long one would take 3
AT_ONCE_S = 0.3


def behind_rows(ctx: Context) -> list[Row]:
    rows = []
    for shape, task in (
        (Shape("prefork", 2), "cpu"),
        (Shape("prefork", 2), "wait"),
        (Shape("threads", 2), "wait"),
        (Shape("gevent", 2), "wait"),
        (Shape("eventlet", 2), "wait"),
        (Shape("asyncio", 2), "async_wait"),
    ):
        for warm in (False, True):
            seconds, long_s = _behind(ctx, shape, task, warm)
            kind = "computing" if task == "cpu" else "waiting"
            title = f"{SHORT} short ones behind a {kind} task of {LONG_MS / 1000:g} s, {shape}"
            if warm:
                # the worker has measured the name as short, so it dares to hold several behind one
                title += ", all of one name that was short before"
            rows.append(at_most(title, seconds, "s", AT_ONCE_S, note=f"the long one took {long_s:.2f} s"))
    return rows


def _behind(ctx: Context, shape: Shape, task: str, warm: bool) -> tuple[float, float]:
    """Return the seconds from the start of the long task to the end of the last short one, and how long the long one took."""
    ctx.redis.start()
    before = 400 if warm else 0
    with Board(before, 1 + SHORT) as board, ctx.redis.producer() as bench:
        name, short = bench.tasks[task], bench.tasks[task if warm else "stamp"]
        with Node(ctx.redis, shape, board) as node:
            if warm:
                short.delay_many([(i, 0) for i in range(before)])
                node.wait_for(lambda: board.finished() >= before, "the warm-up", START_S)
            else:
                # started, idle; by another name, so that these two are unknown to it
                bench.tasks["noop"].delay(-1).get(timeout=START_S)
            calls = [(before + 1 + i, 0) if warm else (before + 1 + i,) for i in range(SHORT)]
            if warm:
                name.delay_many([(before, LONG_MS), *calls])
            else:
                name.delay(before, LONG_MS)
                short.delay_many(calls)
            node.wait_for(lambda: board.finished_timed() == board.timed, "all of them", 60.0)
            begun, ended = board.stamps(0)
            last = max(board.stamps(i)[1] for i in range(1, 1 + SHORT))
    return (last - begun) / 1e9, (ended - begun) / 1e9


def round_trip_rows(ctx: Context) -> list[Row]:
    n = ctx.n(2_000)
    fast: list[tuple[float, float]] = []
    ours: list[tuple[float, float]] = []
    for _ in range(ctx.repeat):
        ctx.redis.start()
        with ctx.redis.producer() as bench:
            noop = bench.tasks["noop"]
            noop.delay(0)
            message = ctx.redis.client.lindex(f"fastq:{{{ctx.redis.queue}}}:ready:0", 0)
        ctx.redis.start()
        fast.append(floors.ping_pong(ctx.redis, n, message))
        ctx.redis.start()
        ours.append(_round_trips(ctx, Shape("prefork", 1), n))
    p50, p99 = median(p for p, _ in ours) * 1e3, median(p for _, p in ours) * 1e3
    floor50, floor99 = median(p for p, _ in fast) * 1e3, median(p for _, p in fast) * 1e3
    title = "delay().get() on an idle worker (prefork 1), p50"
    note = f"p99 {p99:.2f} ms, the ping-pong's {floor99:.2f} ms"
    values = tuple(p * 1e3 for p, _ in ours)
    return [
        times_at_most(title, p50, "ms", floor50, "two-process Redis ping-pong", 2.5, note=note, values=values),
        at_most(title, p50, "ms", 0.6),
    ]


def _round_trips(ctx: Context, shape: Shape, n: int) -> tuple[float, float]:
    with ctx.redis.producer() as bench, Node(ctx.redis, shape) as node:
        noop = bench.tasks["noop"]
        noop.delay(0).get(timeout=START_S)
        waits = []
        for i in range(n + 50):
            begun = time.perf_counter()
            got = noop.delay(i).get(timeout=10)
            waited = time.perf_counter() - begun
            if got != i:
                raise RuntimeError(f"task {i} returned {got!r}")
            if i >= 50:
                waits.append(waited)
        node.check()
    return median(waits), percentile(waits, 0.99)


def start_rows(ctx: Context) -> list[Row]:
    rows = []
    for shape, bound in ((Shape("prefork", 2), 0.6), (Shape("solo", 1), None), (Shape("gevent", 100), None)):
        times = []
        for _ in range(max(3, ctx.repeat)):
            ctx.redis.fill("noop", [(0,)])
            with Board(1) as board, Node(ctx.redis, shape, board) as node:
                times.append(node.wait_for(board.finished, "the first task", START_S) - node.spawned_at)
        title = f"from `fastq worker` to the first task done, {shape}"
        if bound is None:
            rows.append(Row(title, median(times), "s", note="for comparison", values=tuple(times)))
        else:
            rows.append(at_most(title, median(times), "s", bound, values=tuple(times)))
    return rows
