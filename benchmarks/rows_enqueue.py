"""Sending tasks. Producers run in processes of their own (``producers.py``): some of them patch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from rows_base import Context, Row, at_least, share_of

from fastq.bench.stats import median


def produce(ctx: Context, mode: str, n: int, *extra: int) -> dict[str, list[float]]:
    """Run a producer on an empty server; return its rates by name, one per round."""
    ctx.redis.start()
    script = Path(__file__).with_name("producers.py")
    command = [sys.executable, str(script), mode, ctx.redis.broker_url, str(n), str(ctx.repeat), *map(str, extra)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise RuntimeError(f"producers.py {mode} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    rates: dict[str, list[float]] = json.loads(done.stdout.splitlines()[-1])
    return rates


def one_by_one(ctx: Context) -> float:
    """Return the rate of ``delay()`` one by one, measured once in a run."""
    if "one by one" not in ctx.found:
        ctx.found["one by one"] = median(produce(ctx, "one", ctx.n(5_000))["delay"])
    return ctx.found["one by one"]


def enqueue_rows(ctx: Context) -> list[Row]:
    rates = produce(ctx, "one", ctx.n(5_000))
    ctx.found["one by one"] = median(rates["delay"])
    title = "delay() one by one, one producer"
    floor = median(rates["lpush"])
    return [share_of(title, median(rates["delay"]), "/s", floor, "redis-py LPUSH, same bytes", 0.6, values=tuple(rates["delay"]))]


def crowd_rows(ctx: Context) -> list[Row]:
    one = one_by_one(ctx)
    rows = []
    for mode, callers in (("greenlets", 500), ("threads", 50)):
        rates = produce(ctx, mode, ctx.n(30_000), callers)["delay"]
        title = f"delay() from {callers} {mode} at once, one producer"
        rows.append(share_of(title, median(rates), "/s", one, "one by one", 3.0, values=tuple(rates)))
    return rows


def bulk_rows(ctx: Context) -> list[Row]:
    rates = produce(ctx, "bulk", ctx.n(200_000))["delay_many"]
    return [at_least("delay_many(), one producer", median(rates), "/s", 150_000.0, values=tuple(rates))]
