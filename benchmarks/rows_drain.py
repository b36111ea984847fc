"""Draining a filled queue."""

from __future__ import annotations

import time

import floors
from rows_base import NOOP, WAIT20, Context, Row, at_least, at_most, share_of

from fastq.bench.marks import Board
from fastq.bench.node import START_S, Node
from fastq.bench.shapes import Shape
from fastq.bench.stats import median

#: what a script may call and a worker does not call outside of one; the rest of commandstats happened inside scripts
OUTSIDE = {
    "evalsha",
    "eval",
    "fcall",
    "subscribe",
    "unsubscribe",
    "psubscribe",
    "ssubscribe",
    "sunsubscribe",
    "ping",
    "hello",
    "auth",
}
OUTSIDE |= {"select", "client", "config", "script", "function", "command", "quit", "reset", "wait"}
#: the measuring side's own
OURS = {"info"}


def _rates(ctx: Context, shape: Shape, n: int) -> list[float]:
    return [ctx.drained(ctx.redis, shape, NOOP, n).per_s for _ in range(ctx.repeat)]


def loop_rate(ctx: Context) -> float:
    """Return the hand-written loop's tasks/s, measured once in a run."""
    if "loop" not in ctx.found:
        n = ctx.n(100_000)
        ctx.found["loop"] = median(floors.loops(ctx.redis, n)["set"] for _ in range(ctx.repeat))
    return ctx.found["loop"]


def one_process(ctx: Context) -> float:
    """Return tasks/s of one worker process with one slot, measured once in a run."""
    if "drain" not in ctx.found:
        ctx.found["drain"] = median(_rates(ctx, Shape("prefork", 1), ctx.n(100_000)))
    return ctx.found["drain"]


def drain_rows(ctx: Context) -> list[Row]:
    n = ctx.n(100_000)
    rows = []
    loops: list[float] = []
    in_slots: list[float] = []
    for shape in (Shape("prefork", 1), Shape("solo", 1)):
        rates = []
        for _ in range(ctx.repeat):
            # taken in turns: what else the machine does meets both
            by_storage = floors.loops(ctx.redis, n)
            loops.append(by_storage["set"])
            in_slots.append(by_storage["slot"])
            rates.append(ctx.drained(ctx.redis, shape, NOOP, n).per_s)
        ctx.found.setdefault("drain", median(rates))
        title = f"{n:,} no-ops, results stored, one process, one slot ({shape})"
        # the target was set with the first loop; the second is the stricter floor: it stores results as fastq does
        for name, floor in (("hand-written loop, a key per result", loops), ("hand-written loop, results in one hash", in_slots)):
            rows.append(share_of(title, median(rates), "/s", median(floor), name, 0.6, values=tuple(rates)))
    ctx.found["loop"] = median(loops)
    return rows


def pool_rows(ctx: Context) -> list[Row]:
    n = ctx.n(100_000)
    loop, one = loop_rate(ctx), one_process(ctx)
    rates = _rates(ctx, Shape("prefork", 2), n)
    title = f"{n:,} no-ops, results stored, "
    rows = [share_of(title + "prefork 2", median(rates), "/s", one, "one process", 1.0, values=tuple(rates))]
    for shape in (Shape("threads", 10), Shape("gevent", 100), Shape("eventlet", 100), Shape("asyncio", 100)):
        rates = _rates(ctx, shape, n)
        rate = median(rates)
        needed = 25_000 * loop / 150_000
        rows.append(
            Row(
                title + str(shape), rate, "/s", loop, "hand-written loop",
                f">= 25,000/s at a loop of 150,000/s: {needed:,.0f}/s here", rate >= needed, values=tuple(rates),
            )
        )  # fmt: skip
    return rows


def sleep_rows(ctx: Context) -> list[Row]:
    n = ctx.n(10_000, 2_000)
    rates = [ctx.drained(ctx.redis, Shape("gevent", 500), WAIT20, n).per_s for _ in range(ctx.repeat)]
    title = f"{n:,} tasks sleeping 20 ms, gevent 500"
    return [share_of(title, median(rates), "/s", 25_000.0, "ideal", 0.85, values=tuple(rates))]


def calls(ctx: Context) -> dict[str, int]:
    """Return how often each command has been called on the server, those inside scripts included."""
    stats = ctx.redis.client.info("commandstats")
    counts: dict[str, int] = {}
    for name, values in stats.items():
        command = name.removeprefix("cmdstat_").partition("|")[0]
        counts[command] = counts.get(command, 0) + int(values["calls"])
    return {name: count for name, count in counts.items() if name not in OURS}


def difference(after: dict[str, int], before: dict[str, int]) -> dict[str, int]:
    return {name: count - before.get(name, 0) for name, count in after.items() if count > before.get(name, 0)}


def command_rows(ctx: Context) -> list[Row]:
    n = ctx.n(100_000)
    rows = []
    for shape in (Shape("prefork", 1), Shape("prefork", 2), Shape("gevent", 100)):
        ctx.redis.fill("noop", [(i,) for i in range(n)])
        with Board(n) as board, Node(ctx.redis, shape, board) as node:
            node.wait_for(board.finished, "the first task", START_S)
            first, before = board.finished(), calls(ctx)
            node.wait_for(lambda board=board: board.finished() >= n, f"{n} tasks", 120.0, every_s=0.005)
            node.wait_for(lambda: ctx.redis.client.exists(f"fastq:{{{ctx.redis.queue}}}:ready:0") == 0, "an empty queue", 10.0)
            time.sleep(0.05)  # the last settlement is on its way
            spent = difference(calls(ctx), before)
        spent["exists"] = 0  # asked by the line above
        tasks = n - first
        inside = sum(spent.values()) * 1000 / tasks
        outside = sum(count for name, count in spent.items() if name in OUTSIDE) * 1000 / tasks
        most = sorted(spent.items(), key=lambda item: -item[1])[:6]
        note = f"{outside:.1f} without those inside scripts; most: " + ", ".join(f"{name} {count}" for name, count in most)
        rows.append(at_most(f"Redis commands per 1,000 no-ops while draining, {shape}", inside, "", 60.0, note=note))
    return rows


def embedded_rows(ctx: Context) -> list[Row]:
    n = ctx.n(100_000)
    rates = [ctx.drained(ctx.sqlite, Shape("prefork", 2), NOOP, n).per_s for _ in range(ctx.repeat)]
    title = f"{n:,} no-ops on the embedded broker, results stored, prefork 2"
    return [at_least(title, median(rates), "/s", 15_000.0, values=tuple(rates))]
