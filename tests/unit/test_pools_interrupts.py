"""Exceptions that come into running tasks from outside: coroutines that are interrupted, alarms of the main thread."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
import types
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from fastq.exceptions import SoftTimeLimitExceeded
from fastq.pools.alarms import SignalAlarms
from fastq.pools.base import TaskKilled
from fastq.pools.interrupts import Interruptible, interrupt

DEADLINE_S = 20.0


def drive(awaitable: Awaitable[Any], act: Callable[[asyncio.Task[Any]], object]) -> Any:
    """Await it interruptibly in an asyncio task, and act on that once it waits; return its value or its error."""

    async def await_it() -> Any:
        return await Interruptible(awaitable)

    async def main() -> Any:
        task = asyncio.ensure_future(await_it())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        act(task)
        return (await asyncio.wait_for(asyncio.gather(task, return_exceptions=True), DEADLINE_S))[0]

    return asyncio.run(main())


def interrupt_softly(task: asyncio.Task[Any]) -> None:
    interrupt(task, SoftTimeLimitExceeded)


def test_a_value_an_error_and_a_cancellation_pass_through() -> None:
    async def value() -> int:
        await asyncio.sleep(0.01)
        return 3

    async def error() -> None:
        await asyncio.sleep(0.01)
        raise LookupError("own")

    assert drive(value(), lambda task: None) == 3
    assert isinstance(drive(error(), lambda task: None), LookupError)
    assert isinstance(drive(asyncio.sleep(DEADLINE_S), lambda task: task.cancel()), asyncio.CancelledError)


def test_what_leaves_is_the_plain_class_even_out_of_the_body_of_a_task_group() -> None:
    left: list[asyncio.Task[Any]] = []

    async def grouped() -> None:
        async with asyncio.TaskGroup() as group:
            left.append(group.create_task(asyncio.sleep(2 * DEADLINE_S)))
            await asyncio.sleep(2 * DEADLINE_S)

    for awaitable in (grouped(), asyncio.sleep(2 * DEADLINE_S)):
        assert type(drive(awaitable, interrupt_softly)) is SoftTimeLimitExceeded
    assert left[0].cancelled()


def test_a_hard_one_passes_what_catches_exceptions() -> None:
    async def stubborn() -> None:
        while True:
            with contextlib.suppress(Exception):
                await asyncio.sleep(2 * DEADLINE_S)

    assert type(drive(stubborn(), lambda task: interrupt(task, TaskKilled))) is TaskKilled


def test_it_comes_through_even_if_what_is_awaited_swallows_its_cancelling() -> None:
    async def deaf() -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(2 * DEADLINE_S)
        return "swallowed"

    async def outer() -> str:
        return await asyncio.ensure_future(deaf())

    assert type(drive(outer(), interrupt_softly)) is SoftTimeLimitExceeded


def test_an_awaitable_that_is_no_coroutine_can_be_interrupted() -> None:
    class Waiting:
        def __await__(self) -> Any:
            return asyncio.sleep(2 * DEADLINE_S).__await__()

    assert type(drive(Waiting(), interrupt_softly)) is SoftTimeLimitExceeded


def test_what_has_ended_is_not_interrupted() -> None:
    async def main() -> str:
        inner = Interruptible(asyncio.sleep(0))
        await inner
        inner.interrupt(SoftTimeLimitExceeded)
        task = asyncio.current_task()
        assert task is not None
        interrupt(task, SoftTimeLimitExceeded)
        await asyncio.sleep(0.01)
        return "went on"

    assert asyncio.run(main()) == "went on"


# --- alarms of the main thread ---


@pytest.fixture
def own_handler() -> Iterator[list[int]]:
    """A handler that the application has for itself."""
    heard: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda signum, frame: heard.append(signum))
    yield heard
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def wait() -> None:
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        time.sleep(0.01)


def test_the_sooner_alarm_rings_first_and_a_hard_one_before_one_that_is_late(own_handler: list[int]) -> None:
    alarms = SignalAlarms()
    hard = alarms.set(0.1, TaskKilled, hard=True)
    soft = alarms.set(0.02, SoftTimeLimitExceeded, hard=False)
    with pytest.raises(SoftTimeLimitExceeded):
        wait()
    with pytest.raises(TaskKilled):
        wait()
    assert soft.cancel() and hard.cancel() and own_handler == []


def test_a_cancelled_alarm_is_silent_and_the_signal_is_the_applications_again(own_handler: list[int]) -> None:
    alarms = SignalAlarms()
    alarm = alarms.set(DEADLINE_S, SoftTimeLimitExceeded, hard=False)
    assert not alarm.cancel() and not alarm.cancel()
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    os.kill(os.getpid(), signal.SIGALRM)
    assert own_handler == [signal.SIGALRM]


def test_a_foreign_signal_does_not_make_an_alarm_ring(own_handler: list[int]) -> None:
    alarms = SignalAlarms()
    alarm = alarms.set(DEADLINE_S, SoftTimeLimitExceeded, hard=False)
    os.kill(os.getpid(), signal.SIGALRM)
    assert not alarm.cancel()


def test_nothing_is_raised_in_the_worker_itself_around_a_task(own_handler: list[int]) -> None:
    """The signal comes between the task's end and the call that cancels its alarm: that call must come through."""
    alarms = SignalAlarms()
    ended: list[bool] = []

    def settle(alarm: Any) -> None:
        end = time.monotonic() + 0.05
        while time.monotonic() < end:
            time.sleep(0.001)
        ended.append(alarm.cancel())

    worker = types.FunctionType(settle.__code__, {**globals(), "__name__": "fastq.worker.outcomes"}, closure=settle.__closure__)
    worker(alarms.set(0.01, SoftTimeLimitExceeded, hard=False))
    assert ended == [False]
