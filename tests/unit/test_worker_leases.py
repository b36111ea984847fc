"""The look rule: when another node's lease is dead."""

from __future__ import annotations

from fastq.records import Lease
from fastq.worker.leases import LookRule


def lease(value: str, process: str = "p", queue: str = "default") -> Lease:
    return Lease(queue, process, value)


def test_three_looks_at_the_same_value_condemn() -> None:
    rule = LookRule(5.0)
    assert rule.look([lease("1")], 0.0) == []
    assert rule.look([lease("1")], 5.0) == []
    assert rule.look([lease("1")], 10.0) == [lease("1")]


def test_a_value_that_moves_is_alive() -> None:
    rule = LookRule(5.0)
    for i in range(20):
        assert rule.look([lease(str(i // 2))], 5.0 * i) == []


def test_a_lease_that_was_renewed_between_two_looks_starts_over() -> None:
    rule = LookRule(5.0)
    rule.look([lease("1")], 0.0)
    rule.look([lease("1")], 5.0)
    assert rule.look([], 10.0) == []
    assert rule.look([lease("1")], 15.0) == []


def test_an_error_starts_over() -> None:
    rule = LookRule(5.0)
    rule.look([lease("1")], 0.0)
    rule.look([lease("1")], 5.0)
    rule.failed()
    assert rule.look([lease("1")], 10.0) == []
    assert rule.look([lease("1")], 15.0) == []
    assert rule.look([lease("1")], 20.0) == [lease("1")]


def test_a_late_look_starts_over() -> None:
    """The watcher was frozen: so may have been everybody else."""
    rule = LookRule(5.0)
    rule.look([lease("1")], 0.0)
    rule.look([lease("1")], 5.0)
    assert rule.look([lease("1")], 60.0) == []
    assert rule.look([lease("1")], 65.0) == []
    assert rule.look([lease("1")], 70.0) == [lease("1")]


def test_extra_looks_do_not_count() -> None:
    """New processes are entered by the same call: it returns old leases too, and comes at any time."""
    rule = LookRule(5.0)
    for now_s in (0.0, 0.1, 0.2, 1.0, 2.0, 3.9):
        assert rule.look([lease("1")], now_s) == []
    assert rule.look([lease("1")], 5.0) == []
    assert rule.look([lease("1")], 10.0) == [lease("1")]


def test_each_process_and_queue_is_judged_by_itself() -> None:
    rule = LookRule(5.0)
    rule.look([lease("1"), lease("1", "q")], 0.0)
    rule.look([lease("1"), lease("2", "q"), lease("1", queue="other")], 5.0)
    assert rule.look([lease("1"), lease("2", "q"), lease("1", queue="other")], 10.0) == [lease("1")]


def test_a_dead_lease_stays_dead_until_it_goes() -> None:
    """A reaping that failed half way is tried again at the next look."""
    rule = LookRule(5.0)
    for now_s in (0.0, 5.0):
        rule.look([lease("1")], now_s)
    for now_s in (10.0, 15.0):
        assert rule.look([lease("1")], now_s) == [lease("1")]
