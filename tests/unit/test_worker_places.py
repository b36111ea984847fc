"""Where processes belong, and their numbers."""

from __future__ import annotations

from fastq.worker.places import Places


def test_the_lowest_free_number_is_given_out() -> None:
    places = Places()
    assert [places.add() for _ in range(3)] == [0, 1, 2]
    assert [places.take_index() for _ in range(3)] == [0, 1, 2]
    places.free_index(1)
    assert places.take_index() == 1
    assert places.take_index() == 3


def test_a_place_that_was_given_up_is_the_next_to_come_back() -> None:
    places = Places()
    for _ in range(3):
        places.add()
    places.remove(1)
    assert list(places) == [0, 2] and len(places) == 2 and 1 not in places
    assert places.add() == 1
    places.remove(7)
    assert len(places) == 3
