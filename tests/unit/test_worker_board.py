"""The status board across processes."""

from __future__ import annotations

import os

import pytest

from fastq import _core
from fastq._core import HELD, STARTED
from fastq.worker import board as board_module
from fastq.worker.board import Board, capacity, open_region
from tests.unit.worker_fakes import message


def deliveries(*tags: str) -> list[_core.Delivery]:
    return _core.deliveries("default", tags, [message(id=tag) for tag in tags], _core.Registry([]))


def test_parent_sees_what_a_dead_child_was_doing() -> None:
    board = Board()
    region = board.region(1, 4)
    pid = os.fork()
    if pid == 0:
        mine = open_region(board.fd, 1, 4)
        batch = deliveries("0:1:0", "0:1:1")
        mine.hold(batch, 0, 5)
        mine.claim(batch[0].record, 6)
        mine.slot_begin(2, "an-id", "tasks.add", 6)
        os._exit(0)
    os.waitpid(pid, 0)
    assert {(r[1], r[3]) for r in region.held()} == {("0:1:0", STARTED), ("0:1:1", HELD)}
    assert region.active() == [(2, "an-id", "tasks.add", 6)]
    assert board.region(0, 4).held() == [], "the neighbour's region is untouched"
    region.clear()
    assert region.held() == [] and open_region(board.fd, 1, 4).held() == []
    board.close()


def test_regions_grow_with_the_number_of_processes() -> None:
    board = Board()
    regions = [board.region(i, 1) for i in (0, 7, 3)]
    regions[1].set_counter("pid", 42)
    assert open_region(board.fd, 7, 1).counter("pid") == 42
    assert [r.counter("pid") for r in (regions[0], regions[2])] == [0, 0]
    assert board.region(7, 1) is regions[1]
    board.close()


def test_a_process_has_room_for_two_batches_beyond_its_slots() -> None:
    assert capacity(500) >= 500 + 2 * 1_000
    board = Board()
    region = board.region(0, 1)
    batch = deliveries(*(f"0:{call}:{i}" for call in (1, 2) for i in range(1_000)))
    assert region.hold(batch, 0, 1) == 2_000
    board.close()


def test_works_where_memory_descriptors_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    board = board_module.Board()
    board.region(0, 1).set_counter("pid", 7)
    assert open_region(board.fd, 0, 1).counter("pid") == 7
    board.close()
