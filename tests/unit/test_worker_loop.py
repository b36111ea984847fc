"""The supervisor's loop."""

from __future__ import annotations

import os
import time

from fastq.worker.loop import Loop


def test_timers_come_in_order_and_can_be_cancelled() -> None:
    loop = Loop()
    seen: list[str] = []
    loop.after(0.02, lambda: seen.append("second"))
    loop.after(0.01, lambda: seen.append("first"))
    loop.after(0.015, lambda: seen.append("never")).cancel()
    loop.after(0.03, loop.stop)
    loop.run()
    assert seen == ["first", "second"]


def test_a_timer_is_never_early() -> None:
    loop = Loop()
    began = time.monotonic()
    loop.after(0.0105, loop.stop)
    loop.run()
    assert time.monotonic() - began >= 0.0105


def test_a_descriptor_that_is_forgotten_in_the_same_turn_is_not_called() -> None:
    loop = Loop()
    pipes = [os.pipe(), os.pipe()]
    seen: list[int] = []

    def forget_all(fd: int) -> None:
        seen.append(fd)
        for read, _ in pipes:
            loop.unwatch(read)

    for read, write in pipes:
        os.write(write, b"x")
        loop.watch(read, lambda fd=read: forget_all(fd))  # type: ignore[misc]
    loop.turn()
    loop.turn(longest_s=0)
    assert len(seen) == 1
    for both in pipes:
        for fd in both:
            os.close(fd)


def test_nothing_to_do_takes_no_turns() -> None:
    loop = Loop()
    turns = 0
    loop.after(0.05, loop.stop)
    loop._running = True
    while loop._running:
        loop.turn()
        turns += 1
    assert turns <= 2
