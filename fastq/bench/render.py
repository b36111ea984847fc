"""The comparison in a terminal: a table, bars, words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.bar import Bar
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fastq.bench.advice import advise
from fastq.bench.cells import Cell
from fastq.bench.runs import Change, Run, compare, foreign
from fastq.bench.shapes import WORKS

__all__ = ["bars", "changed", "failed", "notes", "number", "show", "table"]

Changes = Mapping[tuple[str, int, str], Change]

#: what the columns mean, printed below the table
LEGEND = (
    "tasks/s: from the first completed tasks to all settled, worker start excluded. p50, p99: from the moment a task was due to be "
    "sent to its last step, single tasks at a steady half of tasks/s, at most 200/s. CPU: seconds of the worker's processes per "
    "1,000 tasks. PSS: memory of the worker's processes, shared pages counted once."
)


def number(value: float | None) -> str:
    """Write a number with three figures or so: 98,500; 4.31; 0.023."""
    if value is None:
        return "-"
    if value >= 1000:
        return f"{value:,.0f}"
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}" if value else "0"


def changed(change: Change | None, name: str) -> Text:
    """Write a ratio to the earlier run, green if it is better by more than a tenth, red if worse."""
    value = None if change is None else change.ratios.get(name)
    if change is None or value is None:
        return Text("-", style="dim")
    better = change.better(name)
    return Text(f"{value:.2f} x", style="" if better is None else "green" if better else "bold red")


def table(run: Run, changes: Changes | None = None) -> Table:
    """Return all cells, grouped by work; with the ratios to an earlier run if one is given."""
    grid = Table(title=f"Pools on {run.broker}, {run.machine['cpus']} CPUs ({run.machine['cpu']})", title_justify="left")
    grid.add_column("work")
    grid.add_column("pool")
    for title in ("tasks/s", "p50 ms", "p99 ms", "CPU s", "PSS MiB"):
        grid.add_column(title, justify="right")
    if changes is not None:
        for title in ("tasks/s to then", "p50 to then", "CPU to then"):
            grid.add_column(title, justify="right")
    for work in WORKS:
        cells = [cell for cell in run.cells if cell.work == work.key]
        for at, cell in enumerate(cells):
            row: list[str | Text] = [work.title if at == 0 else "", cell.label]
            if cell.error:
                grid.add_row(*row, Text("-", style="dim"))
                continue
            row += [number(v) for v in (cell.per_s, cell.p50_ms, cell.p99_ms, cell.cpu_s, cell.pss_mib)]
            if changes is not None:
                row += [changed(changes.get(cell.key), name) for name in ("per_s", "p50_ms", "cpu_s")]
            grid.add_row(*row)
        if cells:
            grid.add_section()
    return grid


def notes(run: Run) -> list[str]:
    """Return a line for every cell that is not what it should be; of a worker's log only the last line."""
    found = []
    for cell in run.cells:
        if cell.error:
            lines = cell.error.splitlines()
            found.append(f"{cell.work} on {cell.label}: {lines[0]}" + (f" {lines[-1].strip()}" if len(lines) > 1 else ""))
        elif cell.lost or cell.repeated:
            found.append(f"{cell.work} on {cell.label}: {cell.lost} tasks lost, {cell.repeated} run more than once")
    return found


def bars(run: Run, width: int = 40) -> Table:
    """Draw tasks/s, each work with a scale of its own."""
    grid = Table.grid(padding=(0, 1))
    for work in WORKS:
        cells = [cell for cell in run.cells if cell.work == work.key and not cell.error]
        if not cells:
            continue
        grid.add_row(Text(f"{work.title}, tasks/s", style="bold"))
        top = max(cell.per_s for cell in cells)
        for cell in cells:
            grid.add_row(cell.label, Bar(top, 0, cell.per_s, width=width, color="cyan"), Text(number(cell.per_s), justify="right"))
        grid.add_row("")
    return grid


def show(console: Console, run: Run, before: Run | None = None, *, words: bool = False) -> None:
    """Print a run: table, bars, what changed, and with ``words`` which pool suits which work."""
    console.print(table(run, compare(run, before) if before is not None else None))
    for line in notes(run):
        console.print(line, style="yellow", highlight=False)
    console.print(LEGEND, style="dim", highlight=False)
    if before is not None:
        _show_before(console, run, before)
    console.print()
    console.print(bars(run, min(50, max(10, console.width - 30))))
    if words:
        for line in advise(run.cells):
            console.print(f"- {line}", soft_wrap=False, highlight=False)


def _show_before(console: Console, run: Run, before: Run) -> None:
    commit = f", commit {before.commit}" if before.commit else ""
    console.print(f"then: {before.when}{commit}, fastq {before.versions.get('fastq', '?')}", style="dim")
    differences: Sequence[str] = foreign(run, before)
    for line in differences:
        console.print(f"not the same: {line}", style="yellow")


def failed(cells: Sequence[Cell]) -> list[str]:
    """Return what went wrong where a number was expected: errors other than a missing library, lost or repeated tasks."""
    return [
        f"{cell.work} on {cell.label}: {cell.error or f'{cell.lost} lost, {cell.repeated} repeated'}"
        for cell in cells
        if (cell.error and not cell.error.endswith("is not installed")) or cell.lost or cell.repeated
    ]
