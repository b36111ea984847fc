"""The status board: one process writes, its supervisor reads; a held delivery is won by exactly one of them."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastq import _core
from fastq._core import FINISHED, HELD, RETURNED, STARTED, Delivery, Entry, ProcessBoard, Registry

from .runs import envelope, new_board

REGISTRY = Registry([Entry("tasks.add", print)])


def held(n: int, *, prefix: str = "0:1:") -> list[Delivery]:
    return _core.deliveries("default", [f"{prefix}{i}" for i in range(n)], [envelope()] * n, REGISTRY)


def test_a_held_delivery_is_claimed_finished_and_freed() -> None:
    board = new_board()
    (d,) = held(1)
    assert board.hold([d], 3, 1000) == 1
    assert board.held() == [(d.record, "0:1:0", 3, HELD, 1000, 0)]
    assert board.counter("held") == 1
    assert board.claim(d.record, 2000)
    assert board.held() == [(d.record, "0:1:0", 3, STARTED, 1000, 2000)]
    assert board.counter("held") == 0
    board.finish(d.record)
    assert board.held()[0][3] == FINISHED
    board.free([d.record])
    assert board.held() == []


def test_whoever_comes_second_loses() -> None:
    board = new_board()
    one, two = held(2)
    board.hold([one, two], 0, 0)
    assert board.claim(one.record, 0)
    assert not board.give_back(one.record)
    assert not board.claim(one.record, 0)
    assert board.give_back(two.record)
    assert not board.claim(two.record, 0)
    assert not board.give_back(two.record)
    board.finish(two.record)
    assert [r[3] for r in board.held()] == [STARTED, RETURNED]
    assert board.counter("held") == 0


def test_a_number_from_an_earlier_use_of_a_record_wins_nothing() -> None:
    board = new_board(capacity=1)
    (old,) = held(1)
    board.hold([old], 0, 0)
    stale = old.record
    board.claim(stale, 0)
    board.finish(stale)
    board.free([stale])
    (new,) = held(1, prefix="0:2:")
    assert board.hold([new], 0, 0) == 1
    assert new.record != stale
    assert not board.give_back(stale)
    assert not board.claim(stale, 0)
    board.free([stale])
    assert board.held() == [(new.record, "0:2:0", 0, HELD, 0, 0)]
    assert board.claim(new.record, 0)


def test_a_full_board_holds_the_rest_without_records() -> None:
    board = new_board(capacity=2)
    batch = held(3)
    assert board.hold(batch, 0, 0) == 2
    assert [d.record >= 0 for d in batch] == [True, True, False]
    board.free([d.record for d in batch])
    assert board.counter("held") == 0
    again = held(2)
    assert board.hold(again, 0, 0) == 2


def test_freeing_twice_frees_once() -> None:
    board = new_board(capacity=4)
    batch = held(4)
    board.hold(batch, 0, 0)
    records = [d.record for d in batch]
    board.free(records + records + [-1, 99, 1 << 40])
    assert board.hold(held(8), 0, 0) == 4
    assert len({r[0] for r in board.held()}) == 4


def test_a_tag_too_long_for_a_record_is_not_cut() -> None:
    board = new_board()
    (fits,) = held(1, prefix="t" * 39)
    (long,) = held(1, prefix="t" * 40)
    assert board.hold([fits, long], 0, 0) == 1
    assert long.record == -1
    assert board.held()[0][1] == fits.tag


@given(st.text(min_size=1, max_size=100), st.text(max_size=150))
def test_a_slot_shows_what_it_runs_cut_between_characters(task_id: str, name: str) -> None:
    board = new_board()
    board.slot_begin(1, task_id, name, 5)
    ((slot, shown_id, shown_name, started_ms),) = board.active()
    assert (slot, started_ms) == (1, 5)
    assert task_id.startswith(shown_id)
    assert name.startswith(shown_name)
    assert shown_id == task_id if len(task_id.encode()) <= 72 else len(shown_id.encode()) > 68
    assert shown_name == name if len(name.encode()) <= 102 else len(shown_name.encode()) > 98
    assert board.counter("started") == 1
    board.slot_end(1)
    assert board.active() == []


def test_two_views_of_one_region_are_one_board() -> None:
    region = mmap.mmap(-1, ProcessBoard.size(1, 4))
    worker, supervisor = (ProcessBoard(memoryview(region), 1, 4) for _ in range(2))
    (d,) = held(1)
    worker.hold([d], 0, 7)
    assert supervisor.held() == [(d.record, "0:1:0", 0, HELD, 7, 0)]
    assert supervisor.give_back(d.record)
    assert not worker.claim(d.record, 0)
    worker.free([d.record])
    assert supervisor.held() == []
    worker.set_counter("pid", os.getpid())
    assert supervisor.counter("pid") == os.getpid()
    supervisor.clear()
    assert worker.counter("pid") == 0


def test_a_new_view_does_not_touch_what_is_there_and_skips_used_records() -> None:
    region = memoryview(bytearray(ProcessBoard.size(1, 3)))
    first = ProcessBoard(region, 1, 3)
    (d,) = held(1)
    first.hold([d], 0, 0)
    second = ProcessBoard(region, 1, 3)
    assert second.held() == first.held()
    assert second.hold(held(3), 0, 0) == 2


def test_counters_are_named() -> None:
    board = new_board()
    for i, name in enumerate(("started", "done", "failed", "held", "watched", "pid")):
        board.set_counter(name, i)  # type: ignore[arg-type]
    assert [board.counter(n) for n in ("started", "done", "failed", "held", "watched", "pid")] == [0, 1, 2, 3, 4, 5]
    with pytest.raises(ValueError, match="no counter 'other'"):
        board.counter("other")  # type: ignore[arg-type]


def test_a_region_that_cannot_hold_the_board_is_refused() -> None:
    size = ProcessBoard.size(2, 4)
    assert size % 64 == 0
    with pytest.raises(ValueError, match="bytes"):
        ProcessBoard(memoryview(bytearray(size - 1)), 2, 4)
    with pytest.raises(ValueError, match="multiple of 8"):
        ProcessBoard(memoryview(bytearray(size + 8))[1:], 2, 4)
    with pytest.raises((BufferError, TypeError)):
        ProcessBoard(memoryview(bytes(size)), 2, 4)
    with pytest.raises(ValueError, match="slots"):
        ProcessBoard.size(-1, 4)
    board = ProcessBoard(memoryview(bytearray(size)), 2, 4)
    assert (board.slots, board.capacity) == (2, 4)
    with pytest.raises(IndexError, match="slot 2"):
        board.slot_begin(2, "i", "n", 0)
    with pytest.raises(IndexError):
        board.slot_end(-1)
    with pytest.raises(ValueError, match="65535"):
        board.hold([], 65536, 0)


def test_the_buffer_lives_as_long_as_the_board() -> None:
    region = bytearray(ProcessBoard.size(1, 1))
    board = ProcessBoard(memoryview(region), 1, 1)
    with pytest.raises(BufferError):
        region.extend(b"x")
    del board
    region.extend(b"x")


@given(st.binary(max_size=ProcessBoard.size(2, 3)))
def test_rubbish_in_a_region_is_read_without_harm(rubbish: bytes) -> None:
    region = bytearray(ProcessBoard.size(2, 3))
    region[: len(rubbish)] = rubbish
    board = ProcessBoard(memoryview(region), 2, 3)
    board.active()
    for record in board.held():
        board.give_back(record[0])
        board.free([record[0]])
    board.hold(held(3), 0, 0)


def _give_back_all(region: mmap.mmap, n: int, pipe: object) -> None:
    board = ProcessBoard(memoryview(region), 1, n)
    won: list[str] = []
    while board.counter("watched") == 0:
        for record, tag, _queue, state, _since, _started in board.held():
            if state == HELD and board.give_back(record):
                won.append(tag)
    pipe.send(won)  # type: ignore[attr-defined]


def test_worker_and_supervisor_never_both_win_across_processes() -> None:
    """The supervisor gives back whatever it sees HELD, while the worker claims from the head."""
    n, rounds = 64, 100
    region = mmap.mmap(-1, ProcessBoard.size(1, n))
    board = ProcessBoard(memoryview(region), 1, n)
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_give_back_all, args=(region, n, theirs))
    process.start()
    claimed: list[str] = []
    sent: list[str] = []
    for i in range(rounds):
        batch = held(n, prefix=f"0:{i}:")
        assert board.hold(batch, 0, 0) == n
        sent += [d.tag for d in batch]
        for d in batch:
            if board.claim(d.record, 0):
                claimed.append(d.tag)
                board.finish(d.record)
        board.free([d.record for d in batch])
    board.set_counter("watched", 1)
    assert ours.poll(60)
    returned = ours.recv()
    process.join(60)
    assert process.exitcode == 0
    assert not set(claimed) & set(returned)
    assert sorted(claimed + returned) == sorted(sent)
    assert board.counter("held") == 0
    assert board.held() == []


def test_a_reader_never_sees_half_of_two_tasks() -> None:
    board = new_board(slots=1)
    stop = threading.Event()
    torn: list[object] = []

    def read() -> None:
        while not stop.is_set():
            for _slot, task_id, name, started_ms in board.active():
                if not task_id[0] == name[0] == str(started_ms)[0]:
                    torn.append((task_id, name, started_ms))

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(5_000):
        digit = str(i % 9 + 1)
        board.slot_begin(0, digit * (i % 70 + 1), digit * (i % 100 + 1), int(digit * 5))
        board.slot_end(0)
    stop.set()
    reader.join()
    assert torn == []
