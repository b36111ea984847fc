"""A deadline bounds what calls inside it may wait; nobody outside is in a hurry."""

from __future__ import annotations

import threading
import time

from fastq import patience


def test_nobody_is_in_a_hurry_by_default() -> None:
    assert patience.deadline() is None
    assert patience.limit_s(30.0) == 30.0
    assert not patience.is_over()


def test_a_deadline_shortens_what_a_call_may_wait() -> None:
    with patience.until(time.monotonic() + 10):
        assert 9 < patience.limit_s(30.0) <= 10
        assert patience.limit_s(2.0) == 2.0
        assert not patience.is_over()
    assert patience.limit_s(30.0) == 30.0


def test_a_call_at_the_end_of_the_time_gets_a_moment() -> None:
    with patience.until(time.monotonic() - 1):
        assert patience.limit_s(30.0) == patience.GRACE_S
        assert patience.is_over()


def test_an_inner_wait_without_an_end_has_none() -> None:
    with patience.until(time.monotonic()), patience.until(None):
        assert patience.limit_s(30.0) == 30.0


def test_another_thread_has_its_own() -> None:
    seen: list[float] = []
    with patience.until(time.monotonic()):
        thread = threading.Thread(target=lambda: seen.append(patience.limit_s(30.0)))
        thread.start()
        thread.join()
    assert seen == [30.0]
