"""Run coroutine functions for slots that cannot await: one asyncio loop per process, in an OS thread of its own.

Loaded at the first use: asyncio costs 30 ms and several MiB, and most workers run no coroutine.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from fastq.pools.interrupts import Interruptible, interrupt

__all__ = ["Call", "LoopThread"]

logger = logging.getLogger("fastq.pool")

#: seconds that coroutines left at the end get for their ``finally`` blocks; after it the process ends without them
CLOSE_S = 2.0


class NativeLock(Protocol):
    """A lock of the operating system's threads, never a monkey patched one."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool: ...
    def release(self) -> None: ...


class Call:
    """One coroutine function on its way through the loop thread."""

    __slots__ = ("args", "cancelled_as", "context", "error", "finish", "fn", "interrupted", "kwargs", "task", "value")

    def __init__(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], finish: Callable[[Call], object]
    ) -> None:
        self.fn = fn
        self.args = args
        self.kwargs = kwargs
        #: called on the loop thread when the call has its value or error
        self.finish = finish
        #: the slot's context: the coroutine sees its current task
        self.context = contextvars.copy_context()
        self.task: asyncio.Task[None] | None = None
        #: set by whoever cancels it: what the slot is to see instead of asyncio's CancelledError
        self.cancelled_as: type[BaseException] | None = None
        #: an interruption that came before the coroutine did
        self.interrupted: type[BaseException] | None = None
        self.value: Any = None
        self.error: BaseException | None = None

    def result(self) -> Any:
        """Return what the coroutine returned, or raise what it raised; call it once."""
        error, self.error = self.error, None
        if error is None:
            return self.value
        if self.cancelled_as is not None and isinstance(error, asyncio.CancelledError):
            error = self.cancelled_as()
        try:
            raise error
        finally:
            del error  # the traceback holds this frame

    async def run(self) -> None:
        try:
            if self.interrupted is not None:
                raise self.interrupted()
            self.value = await Interruptible(self.fn(*self.args, **self.kwargs))
        except BaseException as error:  # the loop must survive: asyncio lets SystemExit and KeyboardInterrupt break it
            self.error = error

    def ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() and self.error is None:  # cancelled before its first step: run() was never entered
            self.error = asyncio.CancelledError()
        self.task = None
        self.finish(self)


class LoopThread:
    """An asyncio loop in an OS thread that is started at the first call.

    In a monkey patched process ``start_thread`` and ``lock`` are the native ones. The loop there runs on the patched selectors
    and sockets: the thread gets a hub of its own, on which asyncio is one greenlet and what asyncio takes for threads
    (``to_thread``, name resolution) are others. What does not work there on gevent is ``asyncio.create_subprocess_*``: gevent
    watches children on the main thread's hub only, and says so in a TypeError.
    """

    def __init__(self, start_thread: Callable[[Callable[[], None]], object], lock: NativeLock) -> None:
        self._calls: deque[Call] = deque()
        self._woken = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._broken: BaseException | None = None
        self._closing = False
        self._ended = lock
        lock.acquire()
        start_thread(self._main)

    def begin(self, call: Call) -> None:
        """Start the coroutine; ``call.finish`` is called on the loop thread when it has ended. Any thread or greenlet may call."""
        # one actor: a caller appends and finds the wake pending, so it sends none. The other: the loop takes the flag
        # down before it looks at the queue, so it finds what was appended before the flag was read.
        self._calls.append(call)
        if self._broken is not None:
            self._fail_all(self._broken)
        elif not self._woken and self._loop is not None:
            self._woken = True
            self._loop.call_soon_threadsafe(self._start_calls)

    def cancel(self, call: Call, cancelled_as: type[BaseException]) -> None:
        """Cancel the coroutine, wherever it is; ``finish`` is still called."""
        call.cancelled_as = cancelled_as
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._cancel, call)

    def interrupt(self, call: Call, error: type[BaseException]) -> None:
        """Raise ``error()`` inside the coroutine, where it waits."""
        call.interrupted = error
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._interrupt, call, error)

    def close(self) -> None:
        """Cancel what is left and end the thread, at most ``CLOSE_S`` plus a little later."""
        self._closing = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._ended.acquire(timeout=CLOSE_S + 1.0)

    def _main(self) -> None:
        try:
            loop = asyncio.new_event_loop()
        except BaseException as error:  # the slots must hear of it: they wait without a time limit
            self._broken = error
            self._fail_all(error)
            self._ended.release()
            return
        loop.call_soon(self._start_calls)  # what came before _loop was set woke nobody
        self._loop = loop
        try:
            while not self._closing:
                try:
                    loop.run_forever()
                except BaseException:  # the loop must survive a callback that exits: coroutines of other slots run on it
                    logger.exception("an exit was raised in a callback of the event loop beside the slots; the loop goes on")
            close_loop(loop, CLOSE_S)
        finally:
            self._ended.release()

    def _start_calls(self) -> None:
        self._woken = False
        loop, calls = self._loop, self._calls
        assert loop is not None
        while calls:
            call = calls.popleft()
            call.task = task = loop.create_task(call.run(), context=call.context)
            task.add_done_callback(call.ended)
            if call.cancelled_as is not None:
                task.cancel()

    def _cancel(self, call: Call) -> None:
        if call.task is not None:
            call.task.cancel()

    def _interrupt(self, call: Call, error: type[BaseException]) -> None:
        if call.task is not None:
            interrupt(call.task, error)

    def _fail_all(self, error: BaseException) -> None:
        while True:
            try:
                call = self._calls.popleft()
            except IndexError:
                return
            call.error = RuntimeError(f"the event loop for coroutine tasks could not be started: {error!r}")
            call.finish(call)


def close_loop(loop: asyncio.AbstractEventLoop, limit_s: float) -> None:
    """Cancel every task of a loop that stands still, let them end for at most ``limit_s``, and close it."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks, timeout=limit_s))
    with contextlib.suppress(TimeoutError):
        loop.run_until_complete(asyncio.wait_for(loop.shutdown_asyncgens(), limit_s))
    loop.close()
