"""Waking a sleeping consumer: no wake is lost, none costs a busy one anything."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest

from fastq.worker.notify import Notifier, wait_readable
from fastq.worker.reconnect import Backoff


@pytest.fixture
def notifier() -> Iterator[Notifier]:
    made = Notifier()
    yield made
    made.close()


def readable(notifier: Notifier) -> bool:
    return notifier.fileno() in wait_readable([notifier.fileno()], 0)


def test_only_an_armed_notifier_writes_and_only_once(notifier: Notifier) -> None:
    notifier.notify()
    assert not readable(notifier)
    notifier.armed = True
    notifier.notify()
    notifier.notify()
    assert readable(notifier) and not notifier.armed
    notifier.clear()
    assert not readable(notifier)


def test_clearing_takes_in_everything_and_may_be_repeated(notifier: Notifier) -> None:
    for _ in range(2_000):
        notifier.armed = True
        notifier.notify()
    notifier.clear()
    assert not readable(notifier)
    notifier.clear()


def test_a_full_or_closed_notifier_raises_nothing() -> None:
    notifier = Notifier()
    notifier._write.setblocking(False)
    try:
        while True:
            notifier._write.send(b"x" * 4096)
    except BlockingIOError:
        pass
    notifier.armed = True
    notifier.notify()
    notifier.close()
    notifier.armed = True
    notifier.notify()


def test_a_sleeper_is_woken_whenever_the_slot_comes(notifier: Notifier) -> None:
    """The slot appends, then reads armed; the sleeper arms, then looks."""
    done: list[int] = []

    def slot() -> None:
        for n in range(2_000):
            done.append(n)
            notifier.notify()

    thread = threading.Thread(target=slot)
    thread.start()
    seen = 0
    while seen < 2_000:
        notifier.armed = True
        if len(done) == seen:
            assert wait_readable([notifier.fileno()], 10.0), "a wake was lost"
            notifier.clear()
        notifier.armed = False
        seen = len(done)
    thread.join()


def test_waiting_ends_with_its_time_or_a_closed_peer(notifier: Notifier) -> None:
    begun = time.monotonic()
    assert wait_readable([notifier.fileno()], 0.0004) == []
    assert time.monotonic() - begun >= 0.0004
    read, write = os.pipe()
    os.close(write)
    assert wait_readable([read, notifier.fileno()], 10.0) == [read]
    os.close(read)


def test_delays_grow_to_a_bound_and_start_over() -> None:
    backoff = Backoff(longest_s=2.0)
    delays = [backoff.next_s() for _ in range(100)]
    assert 0.025 <= delays[0] <= 0.05 and max(delays) <= 2.0 and min(delays[10:]) >= 1.0
    backoff.reset()
    assert backoff.next_s() <= 0.05
