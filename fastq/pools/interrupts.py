"""Raise an exception of our choice in a coroutine where it waits; asyncio itself can only cancel.

Loaded with the first coroutine, like asyncio.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Generator
from typing import Any

__all__ = ["Interruptible", "interrupt"]

#: by the asyncio task that awaits it: what runs now and can be interrupted
_running: dict[asyncio.Task[Any], Interruptible] = {}


class Interruptible:
    """Await something so that it can be interrupted.

    The asyncio task is cancelled, so that what it waits for is cancelled too, and the CancelledError that comes of it is replaced
    on its way in. What the coroutine sees is of both classes: asyncio's own code (a TaskGroup, a timeout) must clean up as it
    does on cancelling. On its way out it becomes a plain one.
    """

    __slots__ = ("_coroutine", "_error", "_plain", "_task", "_thrown")

    def __init__(self, awaitable: Awaitable[Any]) -> None:
        self._coroutine: Any = awaitable if hasattr(awaitable, "throw") else _await(awaitable)
        self._task: asyncio.Task[Any] | None = None
        #: on its way
        self._error: type[BaseException] | None = None
        #: inside, and what it is outside
        self._thrown: BaseException | None = None
        self._plain: BaseException | None = None

    def interrupt(self, error: type[BaseException]) -> None:
        """Raise ``error()`` inside, soon; nothing happens if it has ended. Called on the loop's thread."""
        if self._task is not None:
            self._error = error
            self._task.cancel()

    def __await__(self) -> Generator[Any, Any, Any]:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        _running[task] = self
        coroutine = self._coroutine
        step, argument = coroutine.send, None
        try:
            while True:
                try:
                    awaited = step(argument)
                except StopIteration as end:
                    return end.value
                except BaseException as raised:
                    if self._plain is not None and self._is_ours(raised):
                        raise self._plain.with_traceback(raised.__traceback__) from None
                    raise
                step = coroutine.throw
                try:
                    argument = yield awaited
                    if self._error is not None:  # what it waited for took the cancelling on itself, and returned
                        argument = self._take()
                    else:
                        step = coroutine.send
                except asyncio.CancelledError as cancelled:
                    argument = cancelled if self._error is None else self._take()
                except GeneratorExit:
                    coroutine.close()
                    raise
                except BaseException as error:
                    argument = error
        finally:
            self._task = None
            del _running[task]

    def _is_ours(self, raised: BaseException) -> bool:
        """Tell what was thrown in; a TaskGroup wraps what is raised in its body."""
        return raised is self._thrown or (isinstance(raised, BaseExceptionGroup) and raised.exceptions == (self._thrown,))

    def _take(self) -> BaseException:
        assert self._error is not None and self._task is not None
        error, self._error = self._error, None
        self._task.uncancel()
        self._plain = error()
        both = type(error.__name__, (error, asyncio.CancelledError), {"__module__": error.__module__})
        thrown: BaseException = both()
        self._thrown = thrown
        return thrown


def interrupt(task: asyncio.Task[Any], error: type[BaseException]) -> None:
    """Raise ``error()`` in what this asyncio task awaits interruptibly, if it does. Called on the loop's thread."""
    running = _running.get(task)
    if running is not None:
        running.interrupt(error)


async def _await(awaitable: Awaitable[Any]) -> Any:
    return await awaitable
