"""The other Python queues, by the shared harness, in the same run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import harness
from rows_base import Context, Row, share_of, skipped
from rows_drain import one_process

from fastq.bench.stats import median

#: peer -> the variants that drain no-ops fastest there, and how many tasks are enough; Celery stands apart
OTHERS: Mapping[str, tuple[tuple[str, ...], int]] = {
    "dramatiq": (("p2t8", "threads10"), 20_000),
    "huey": (("process2", "thread1"), 20_000),
    "taskiq": (("w2",), 20_000),
    "taskiq_list": (("w2",), 20_000),
    "saq": (("2x10",), 10_000),
    "rq": (("simple1",), 1_000),
    "arq": (("2x10",), 5_000),
    "streaq": (("2x16",), 10_000),
}
#: adapters that share another's virtual environment
VENVS = {"taskiq_list": "taskiq"}

WHY = "needs the peer harness: BENCH_HARNESS=<folder of its run.py> BENCH_VENVS=<its virtual environments>"


def _installed(ctx: Context) -> list[str]:
    assert ctx.venvs is not None
    names = ["celery", *OTHERS]
    return [name for name in names if Path(ctx.venvs, VENVS.get(name, name)).is_dir()]


def _rates(ctx: Context, workload: str, peer: str, variant: str, n: int) -> list[float]:
    assert ctx.harness is not None
    ctx.say(f"  {workload} {peer} {variant}")
    arguments = [workload, peer, variant, "--n", str(n), "--repeat", str(ctx.repeat)]
    return [record["per_s"] for record in harness.run(ctx.harness, ctx.venvs, arguments)]


def peer_drain_rows(ctx: Context) -> list[Row]:
    title = "no-ops, results stored, one process, against "
    if ctx.harness is None or ctx.venvs is None:
        return [skipped(title + "Celery solo", WHY), skipped(title + "the fastest other queue", WHY)]
    ours = one_process(ctx)
    there = _installed(ctx)
    rows = []
    if "celery" in there:
        floor = median(_rates(ctx, "w2", "celery", "solo", ctx.n(5_000, 1_000)))
        rows.append(share_of(title + "Celery solo", ours, "/s", floor, "Celery solo", 150.0))
    else:
        rows.append(skipped(title + "Celery solo", "celery has no virtual environment in BENCH_VENVS"))
    found: dict[str, float] = {}
    for peer, (variants, n) in OTHERS.items():
        if peer in there:
            for variant in variants:
                found[f"{peer} {variant}"] = median(_rates(ctx, "w2", peer, variant, ctx.n(n, 1_000)))
    if found:
        best = max(found, key=lambda name: found[name])
        note = ", ".join(f"{name} {rate:,.0f}/s" for name, rate in sorted(found.items(), key=lambda item: -item[1]))
        rows.append(share_of(title + "the fastest other queue", ours, "/s", found[best], best, 25.0, note=note))
    else:
        rows.append(skipped(title + "the fastest other queue", "none of them has a virtual environment in BENCH_VENVS"))
    return rows


def peer_enqueue_rows(ctx: Context) -> list[Row]:
    title = "enqueue one by one, against the fastest other queue"
    if ctx.harness is None or ctx.venvs is None:
        return [skipped(title, WHY)]
    found = {peer: median(_rates(ctx, "w1", peer, "one", ctx.n(5_000, 500))) for peer in _installed(ctx)}
    if not found:
        return [skipped(title, "none of them has a virtual environment in BENCH_VENVS")]
    # ours by the same harness, so that both send the same way
    ours = _rates(ctx, "w1", "fastq", "one", ctx.n(5_000, 500))
    best = max(found, key=lambda name: found[name])
    note = ", ".join(f"{name} {rate:,.0f}/s" for name, rate in sorted(found.items(), key=lambda item: -item[1]))
    return [share_of(title, median(ours), "/s", found[best], best, 1.0, note=note, values=tuple(ours))]
