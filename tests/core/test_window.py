"""The adaptive batch window."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastq._core import BatchWindow

MS = 1_000_000


def test_nothing_measured_means_one_at_a_time() -> None:
    window = BatchWindow()
    assert (window.size(), window.mean_ns(0), window.short(0)) == (1, -1, False)
    assert (window.mean_ns(-1), window.short(10**9)) == (-1, False)


def test_it_doubles_on_evidence_up_to_what_fits_the_target() -> None:
    window = BatchWindow(target_ms=10, limit=1000)
    sizes = []
    for _ in range(8):
        window.note(0, 100_000)
        sizes.append(window.size())
        assert window.size() == sizes[-1]  # asking again changes nothing
    assert sizes == [2, 4, 8, 16, 32, 64, 100, 100]


def test_it_never_passes_its_limit() -> None:
    window = BatchWindow(limit=50)
    for _ in range(20):
        window.note(0, 10, 10)
        window.size()
    assert window.size() == 50
    window.note(0, 0)
    assert window.size() == 50


def test_one_long_run_ends_it_at_once() -> None:
    window = BatchWindow(target_ms=10)
    for _ in range(20):
        window.note(0, 1000)
        window.size()
    assert window.size() > 100
    window.note(0, 11 * MS)
    assert window.size() == 1
    window.note(0, 1000)
    assert window.size() <= 2


def test_a_batch_is_noted_as_a_whole() -> None:
    window = BatchWindow()
    window.note(3, 100 * MS, 100)
    assert window.mean_ns(3) == MS
    window.note(3, 0, 0)
    assert window.mean_ns(3) == MS


def test_short_means_two_fit_the_target() -> None:
    window = BatchWindow(target_ms=10)
    window.note(0, 5 * MS)
    window.note(1, 5 * MS + 2)
    assert (window.short(0), window.short(1), window.short(2)) == (True, False, False)


def test_names_are_measured_apart_and_reset_forgets_only_the_size() -> None:
    window = BatchWindow()
    window.note(0, 1000)
    window.note(60_000, 900 * MS)
    assert (window.mean_ns(0), window.mean_ns(60_000)) == (1000, 900 * MS)
    window.reset()
    assert window.size() == 1
    assert window.short(0)


def test_a_mean_follows_what_it_measures() -> None:
    window = BatchWindow()
    window.note(0, 100 * MS)
    for _ in range(30):
        window.note(0, 1000)
    assert window.mean_ns(0) < 100_000


def test_settings_that_make_no_sense_are_refused() -> None:
    for target_ms, limit in ((0, 1), (-1, 1), (float("nan"), 1), (1, 0)):
        with pytest.raises(ValueError, match="target_ms"):
            BatchWindow(target_ms, limit)


@given(st.lists(st.tuples(st.integers(-5, 70_000), st.integers(-(2**40), 2**50), st.integers(-2, 1000)), max_size=50))
def test_size_stays_between_one_and_the_limit_whatever_is_noted(notes: list[tuple[int, int, int]]) -> None:
    window = BatchWindow(limit=64)
    last = 1
    for index, elapsed_ns, count in notes:
        window.note(index, elapsed_ns, count)
        size = window.size()
        assert 1 <= size <= min(64, 2 * last)
        assert window.mean_ns(index) >= -1
        last = size
