"""The board that counts completed tasks."""

from __future__ import annotations

import multiprocessing
import time

from fastq.bench.marks import Board, open_marks


def test_a_new_board_has_no_marks() -> None:
    with Board(10, 3) as board:
        assert board.finished() == 0
        assert board.finished_timed() == 0
        assert board.lost_and_repeated() == (10, 0)
        assert board.stamps(2) == (0, 0)


def test_lost_and_repeated_tasks_are_told_apart() -> None:
    with Board(5) as board:
        _, end = open_marks(str(board.path))
        for i in (0, 1, 1, 3, 3, 3):
            end(i)
        assert board.finished() == 3
        assert board.lost_and_repeated() == (2, 2)


def test_repetitions_are_counted_without_overflow() -> None:
    with Board(1) as board:
        _, end = open_marks(str(board.path))
        for _ in range(300):
            end(0)
        assert board.lost_and_repeated() == (0, 1)


def test_timed_tasks_are_stamped_and_counted_apart() -> None:
    with Board(3, 2) as board:
        begin, end = open_marks(str(board.path))
        before = time.monotonic_ns()
        for i in (0, 3, 4):
            begin(i)
            end(i)
        after = time.monotonic_ns()
        assert (board.finished(), board.finished_timed()) == (1, 2)
        for i in (0, 1):
            started, finished = board.stamps(i)
            assert before <= started <= finished <= after


def test_numbers_that_are_not_on_the_board_leave_no_mark() -> None:
    with Board(2, 1) as board:
        begin, end = open_marks(str(board.path))
        for i in (-1, 3, 10_000):
            begin(i)
            end(i)
        assert (board.finished(), board.finished_timed()) == (0, 0)
        assert (board.counted, board.timed) == (2, 1)
        end(1)
        assert board.finished() == 1


def test_marks_do_nothing_without_a_board() -> None:
    begin, end = open_marks(None)
    begin(0)
    end(0)


def _mark(path: str) -> None:
    begin, end = open_marks(path)
    begin(1)
    end(1)


def test_marks_of_another_process_are_seen() -> None:
    with Board(1, 1) as board:
        process = multiprocessing.get_context("spawn").Process(target=_mark, args=(str(board.path),))
        process.start()
        process.join(60)
        assert process.exitcode == 0
        assert board.finished_timed() == 1
        assert board.finished() == 0


def test_a_closed_board_leaves_no_file() -> None:
    with Board(1) as board:
        path = board.path
        assert path.exists()
    assert not path.exists()
