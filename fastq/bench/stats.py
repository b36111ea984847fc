"""Small statistics: percentiles, medians, ratios, round numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

__all__ = ["median", "percentile", "ratio", "round_up"]

#: steps of a decade that task counts are rounded to, so that cells can share a snapshot
_STEPS = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0)


def percentile(values: Sequence[float], p: float) -> float:
    """Return the value below which a share ``p`` (0 to 1) lies, by nearest rank: always one that was measured."""
    if not values:
        raise ValueError("no values, so no percentile")
    if not 0 <= p <= 1:
        raise ValueError(f"a percentile is given as a share from 0 to 1, not {p}")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(p * len(ordered)) - 1)]


def median(values: Iterable[float]) -> float:
    """Return the middle value, or the mean of the two in the middle."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values, so no median")
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def ratio(now: float | None, before: float | None) -> float | None:
    """Return now / before; None where one of them is missing or nothing was there to divide by."""
    if now is None or not before:
        return None
    return now / before


def round_up(n: float, least: int = 1, most: int = 1_000_000) -> int:
    """Return a round number of at least ``n``: 1, 1.5, 2, 3, 4, 5 or 7 times a power of ten, within the bounds."""
    n = min(max(n, least), most)
    decade = 10.0 ** math.floor(math.log10(n))
    for step in _STEPS:
        # a hair's width for floats: 3 * 0.1 is not 0.3
        if step * decade >= n * (1 - 1e-9):
            return min(max(math.ceil(step * decade), least), most)
    raise AssertionError("10 times the decade is above n")
