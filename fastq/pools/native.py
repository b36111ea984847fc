"""What the pools of plain OS threads share: the consumer's thread, and waiting for a coroutine."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastq.pools.loops import Call, LoopThread

__all__ = ["SIGNALS_S", "ConsumerThread", "NativeCalls"]

#: seconds; a signal that comes in the instant between the main thread's last look and its going to sleep wakes nobody, and its
#: handler would wait for the next batch. So a sleeping main thread looks once in this time (20 us each)
SIGNALS_S = 1.0


class ConsumerThread(threading.Thread):
    """The consumer in a background thread; daemonic, so it never holds up the end of the process."""

    def __init__(self, consume: Callable[[], None], ended: Callable[[], object]) -> None:
        super().__init__(name="fastq-consumer", daemon=True)
        self._consume = consume
        self._ended = ended
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._consume()
        except BaseException as error:  # it belongs to whoever called the pool's main()
            self._error = error
        finally:
            self._ended()

    def reraise(self) -> None:
        """Raise in the main thread what the consumer raised, if it did."""
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # the traceback holds this frame


class NativeCalls:
    """Coroutine functions called from OS threads: the thread sleeps on a lock until the loop thread releases it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: LoopThread | None = None
        self._waiting: dict[int, Call] = {}

    def call(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the coroutine function to its end; an exception raised here meanwhile (a signal handler's) cancels it."""
        import asyncio  # lazy: asyncio costs 30 ms and several MiB, most workers run no coroutine

        from fastq.pools.loops import Call  # lazy: asyncio, as above

        thread = self._thread or self._open()
        ended = threading.Lock()
        ended.acquire()
        call = Call(fn, args, kwargs, lambda _: ended.release())
        ident = threading.get_ident()
        self._waiting[ident] = call
        try:
            thread.begin(call)
            ended.acquire()
        except BaseException:  # the coroutine must not go on without its slot
            thread.cancel(call, asyncio.CancelledError)
            raise
        finally:
            del self._waiting[ident]
        return call.result()

    def waiting(self, ident: int) -> Call | None:
        """Return the call that this OS thread waits for, if it waits for one."""
        return self._waiting.get(ident)

    def cancel(self, call: Call, cancelled_as: type[BaseException]) -> None:
        """Cancel the coroutine; the thread that waits for it sees ``cancelled_as``."""
        if self._thread is not None:
            self._thread.cancel(call, cancelled_as)

    def divert(self, ident: int, error: type[BaseException]) -> bool:
        """Raise ``error()`` in the coroutine that this OS thread waits for; False if it waits for none."""
        call, thread = self._waiting.get(ident), self._thread
        if call is None or thread is None:
            return False
        thread.interrupt(call, error)
        return True

    def close(self) -> None:
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.close()

    def _open(self) -> LoopThread:
        from fastq.pools.loops import LoopThread  # lazy: asyncio, as above

        with self._lock:
            if self._thread is None:
                self._thread = LoopThread(
                    lambda main: threading.Thread(target=main, name="fastq-asyncio", daemon=True).start(), threading.Lock()
                )
            return self._thread
