"""How soon a process that died young is replaced."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fastq._core import ProcessBoard
from fastq.worker.board import Board
from fastq.worker.infancy import FREE_DEATHS, POISONED_S, SICK_S, YOUNG_S, Infancy


@pytest.fixture
def region() -> Iterator[ProcessBoard]:
    board = Board()
    yield board.region(0, 1)
    board.close()


def delays(infancy: Infancy, region: ProcessBoard, n: int, age_s: float = 0.1) -> list[float]:
    return [infancy.died(0, age_s, region, in_order=False)[1] for _ in range(n)]


def test_the_first_young_deaths_are_replaced_at_once_and_later_ones_wait_longer_and_longer(region: ProcessBoard) -> None:
    found = delays(Infancy(), region, FREE_DEATHS + 10)
    assert found[:FREE_DEATHS] == FREE_DEATHS * [0.0]
    assert 0.25 <= found[FREE_DEATHS] <= 0.5 and SICK_S / 2 <= found[-1] <= SICK_S


def test_one_that_died_in_its_first_task_is_replaced_within_half_a_second(region: ProcessBoard) -> None:
    region.set_counter("started", 1)
    found = delays(Infancy(), region, FREE_DEATHS + 10)
    assert all(0 < delay_s <= POISONED_S for delay_s in found[FREE_DEATHS:])


@pytest.mark.parametrize("how", ["done", "failed", "in order", "old"])
def test_a_healthy_one_ends_the_row(how: str, region: ProcessBoard) -> None:
    infancy = Infancy()
    delays(infancy, region, FREE_DEATHS + 2)
    if how in ("done", "failed"):
        region.set_counter(how, 1)  # type: ignore[arg-type]
    age_s = 2 * YOUNG_S if how == "old" else 0.1
    assert infancy.died(0, age_s, region, in_order=how == "in order") == (0, 0.0)
    region.clear()
    assert infancy.died(0, 0.1, region, in_order=False) == (1, 0.0)


def test_each_place_has_its_own_row(region: ProcessBoard) -> None:
    infancy = Infancy()
    delays(infancy, region, FREE_DEATHS + 1)
    assert infancy.died(1, 0.1, region, in_order=False) == (1, 0.0)
