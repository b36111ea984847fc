"""Draw a run of the pool comparison as PNG."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter

from fastq.bench.cells import Cell
from fastq.bench.render import number
from fastq.bench.runs import Run
from fastq.bench.shapes import WORKS

#: one colour per pool, the same in every panel
COLOURS = {
    "solo": "#7a7a7a",
    "prefork": "#c2592b",
    "threads": "#c99a2c",
    "gevent": "#3d8b53",
    "eventlet": "#3a7ca5",
    "asyncio": "#7a56a6",
}


def draw(run: Run, target: Path, before: Run | None = None) -> Path:
    """Write the picture: per work a panel of tasks/s and one of latency, CPU and memory; an earlier run as a thin mark."""
    works = [work for work in WORKS if any(cell.work == work.key and not cell.error for cell in run.cells)]
    rows = ("tasks/s", "latency, ms: p50 and p99 (log)", "CPU s per 1,000 tasks", "PSS, MiB")
    figure, axes = plt.subplots(len(rows), max(1, len(works)), figsize=(4.6 * max(1, len(works)), 10), squeeze=False)
    for column, work in enumerate(works):
        cells = [cell for cell in run.cells if cell.work == work.key and not cell.error][::-1]
        places = range(len(cells))
        labels = [cell.label for cell in cells]
        colours = [COLOURS[cell.pool] for cell in cells]
        for row, name in ((0, "per_s"), (2, "cpu_s"), (3, "pss_mib")):
            panel = axes[row][column]
            values = [getattr(cell, name) or 0.0 for cell in cells]
            bars = panel.barh(places, values, color=colours, height=0.7)
            panel.bar_label(bars, [number(value) for value in values], padding=3, fontsize=8)
            panel.set_xlim(0, max([*values, 1e-9]) * 1.22)
            _marks(panel, cells, name, before)
        panel = axes[1][column]
        for at, cell in zip(places, cells, strict=True):
            panel.plot([cell.p50_ms, cell.p99_ms], [at, at], color=COLOURS[cell.pool], linewidth=3, solid_capstyle="round")
            panel.plot([cell.p50_ms], [at], "o", color=COLOURS[cell.pool], markersize=6)
            panel.annotate(f"{number(cell.p50_ms)} to {number(cell.p99_ms)}", (cell.p99_ms, at), xytext=(6, -3),
                           textcoords="offset points", fontsize=8)  # fmt: skip
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(LogLocator(10, (1, 2, 5)))
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_minor_formatter(NullFormatter())
        low, high = min(cell.p50_ms for cell in cells), max(cell.p99_ms for cell in cells)
        panel.set_xlim(low / 1.5, high * (high / low + 1) ** 0.5 * 1.5)
        _marks(panel, cells, "p50_ms", before)
        for row, title in enumerate(rows):
            panel = axes[row][column]
            panel.set_yticks(list(places), labels if column == 0 else [""] * len(labels))
            panel.set_ylim(-0.6, len(cells) - 0.4)
            panel.set_title(f"{work.title}: {title}" if row == 0 else title, fontsize=10, loc="left")
            panel.spines[["top", "right"]].set_visible(False)
            panel.tick_params(labelsize=8)
    commit = f", commit {run.commit}" if run.commit else ""
    then = f"; thin marks: {before.when[:10]}" if before is not None else ""
    figure.suptitle(
        f"fastq {run.versions.get('fastq', '')} on {run.broker}, {run.machine['cpus']} CPUs ({run.machine['cpu']}), "
        f"Python {run.versions['python']}, {run.when[:10]}{commit}{then}",
        fontsize=10,
        x=0.01,
        ha="left",
    )
    figure.tight_layout(rect=(0, 0, 1, 0.98))
    figure.savefig(target, dpi=110)
    plt.close(figure)
    return target


def _marks(panel: plt.Axes, cells: list[Cell], name: str, before: Run | None) -> None:
    """Mark what the earlier run had."""
    if before is None:
        return
    for at, cell in enumerate(cells):
        old = before.cell(cell.key)
        value = None if old is None else getattr(old, name)
        if value is not None:
            panel.plot([value, value], [at - 0.42, at + 0.42], color="black", linewidth=1.2)
