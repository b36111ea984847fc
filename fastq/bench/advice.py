"""Say in words what the numbers mean: which pool suits which work."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fastq.bench.cells import Cell

__all__ = ["advise"]

#: a pool that is this close to the fastest counts as good as it
CLOSE = 0.9


def advise(cells: Sequence[Cell]) -> list[str]:
    """Return one sentence or two per kind of work, from the measured numbers alone."""
    by_work: dict[str, dict[str, Cell]] = {}
    for cell in cells:
        if not cell.error and cell.per_s > 0:
            by_work.setdefault(cell.work, {})[cell.pool] = cell
    lines = []
    if noop := by_work.get("noop"):
        lines.append(_shortest(noop))
    if cpu := by_work.get("cpu5"):
        lines.append(_computing(cpu))
    if wait := by_work.get("wait20"):
        lines.append(_waiting(wait))
    return lines


def _best(cells: dict[str, Cell]) -> tuple[Cell, list[Cell]]:
    """Return the choice, the lightest of the fastest, and the others that are as good, fastest first."""
    ranked = sorted(cells.values(), key=lambda cell: -cell.per_s)
    close = [cell for cell in ranked if cell.per_s >= CLOSE * ranked[0].per_s]
    choice = min(close, key=lambda cell: math.inf if cell.pss_mib is None else cell.pss_mib)
    return choice, [cell for cell in close if cell is not choice]


def _rate(cell: Cell) -> str:
    memory = "" if cell.pss_mib is None else f" in {cell.pss_mib:.0f} MiB"
    return f"{cell.label} ({cell.per_s:,.0f}/s{memory})"


def _also(others: list[Cell]) -> str:
    return f"; as good: {', '.join(_rate(cell) for cell in others)}" if others else ""


def _shortest(cells: dict[str, Cell]) -> str:
    choice, others = _best(cells)
    line = f"Tasks that do next to nothing: {_rate(choice)}{_also(others)}."
    if len(cells) > 1:
        quickest = min(cells.values(), key=lambda cell: cell.p50_ms)
        line += f" Soonest done when the worker is not busy: {quickest.label}, p50 {quickest.p50_ms:.2g} ms."
    return line


def _computing(cells: dict[str, Cell]) -> str:
    choice, others = _best(cells)
    line = f"Tasks that compute: {_rate(choice)}{_also(others)}."
    single = [cell for cell in cells.values() if cell.pool != "prefork"]
    forked = cells.get("prefork")
    if forked is not None and single:
        fastest = max(single, key=lambda cell: cell.per_s)
        factor = forked.per_s / fastest.per_s
        if factor > 1.2:
            line += (
                f" prefork uses {forked.concurrency} cores, {factor:.1f} times what the best single process does"
                f" ({fastest.label}); with other pools add --processes."
            )
        else:
            line += " More processes do not help here: the cores are busy otherwise, or there is only one."
    return line


def _waiting(cells: dict[str, Cell]) -> str:
    choice, others = _best(cells)
    line = f"Tasks that wait (network, files, other services): {_rate(choice)}{_also(others)}."
    forked = cells.get("prefork")
    if forked is not None and choice.pool != "prefork":
        needed = math.ceil(choice.per_s / (forked.per_s / forked.concurrency))
        if needed > forked.concurrency:
            line += f" prefork would need {needed} processes for the same."
    if choice.pool == "asyncio":
        line += " asyncio needs tasks that are `async def`."
    elif choice.pool in ("gevent", "eventlet"):
        line += f" {choice.pool} needs libraries that wait in Python's own sockets, or are made for it."
    return line
