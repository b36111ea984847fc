"""Task ids: UUIDv7."""

from __future__ import annotations

import threading
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastq._core import new_id, new_ids

NOW_MS = 1_700_000_000_000


@given(st.integers(0, 2**48 - 1))
def test_an_id_is_a_canonical_uuid7_of_its_time(now_ms: int) -> None:
    text = new_id(now_ms)
    value = uuid.UUID(text)
    assert str(value) == text
    assert value.version == 7
    assert value.variant == uuid.RFC_4122
    assert value.int >> 80 == now_ms


def test_ids_of_one_call_sort_in_order_and_differ() -> None:
    ids = new_ids(NOW_MS, 20_000)
    assert ids == sorted(ids)
    assert len(set(ids)) == 20_000
    assert all(uuid.UUID(i).version == 7 and uuid.UUID(i).int >> 80 == NOW_MS for i in ids[:100])


def test_ids_of_many_calls_in_one_millisecond_differ() -> None:
    made: list[str] = []

    def make() -> None:
        made.extend([new_id(NOW_MS) for _ in range(2_000)])
        made.extend(new_ids(NOW_MS, 2_000))

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == len(made) == 16_000


def test_ids_of_later_times_sort_later() -> None:
    ids = [new_id(NOW_MS + i) for i in range(100)]
    assert ids == sorted(ids)


def test_counts_and_times_outside_the_range_are_refused() -> None:
    assert new_ids(NOW_MS, 0) == []
    with pytest.raises(ValueError, match="ids"):
        new_ids(NOW_MS, -1)
    with pytest.raises(ValueError, match="48 bits"):
        new_id(-1)
    with pytest.raises(ValueError, match="48 bits"):
        new_id(2**48)
