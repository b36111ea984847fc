"""Percentiles, medians, ratios, round numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastq.bench.stats import median, percentile, ratio, round_up

numbers = st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=50)


def test_percentile_is_by_nearest_rank() -> None:
    values = list(range(1, 101))
    assert [percentile(values, p) for p in (0, 0.01, 0.5, 0.99, 1)] == [1, 1, 50, 99, 100]


def test_percentile_of_one_value_is_that_value() -> None:
    assert percentile([7.0], 0.99) == 7.0


@given(numbers, st.floats(0, 1))
def test_percentile_was_measured_and_at_least_that_share_is_not_above(values: list[float], p: float) -> None:
    found = percentile(values, p)
    assert found in values
    assert sum(v <= found for v in values) >= p * len(values) - 1e-9


@pytest.mark.parametrize(("values", "p"), [([], 0.5), ([1.0], 1.5), ([1.0], -0.1)])
def test_percentile_refuses_what_has_none(values: list[float], p: float) -> None:
    with pytest.raises(ValueError, match="percentile"):
        percentile(values, p)


def test_median() -> None:
    assert median([3, 1, 2]) == 2
    assert median(iter([4.0, 1.0, 2.0, 3.0])) == 2.5
    with pytest.raises(ValueError, match="no values"):
        median([])


def test_ratio_is_none_without_both() -> None:
    assert ratio(3.0, 2.0) == 1.5
    assert ratio(None, 2.0) is None
    assert ratio(2.0, None) is None
    assert ratio(2.0, 0.0) is None


@pytest.mark.parametrize(
    ("n", "rounded"),
    [(1, 1), (1.2, 2), (11, 15), (16, 20), (150, 150), (151, 200), (7001, 10_000), (398_000, 400_000), (1_000_000, 1_000_000)],
)
def test_counts_are_rounded_up(n: float, rounded: int) -> None:
    assert round_up(n) == rounded


@given(st.floats(0, 1e7), st.integers(1, 1000))
def test_a_rounded_count_is_within_its_bounds_and_not_far_above(n: float, least: int) -> None:
    rounded = round_up(n, least, 1_000_000)
    wanted = min(max(n, least), 1_000_000)
    assert least <= rounded <= 1_000_000
    assert wanted * (1 - 1e-9) <= rounded <= max(2 * wanted, wanted + 1)
