"""Slots are gevent greenlets; the process has been monkey patched by its entry."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gevent
from gevent import monkey
from gevent.event import Event
from gevent.hub import Waiter, get_hub

from fastq.pools.green import GreenPool, GreenSlot

if TYPE_CHECKING:
    from fastq.pools.loops import Call, LoopThread

__all__ = ["GeventPool"]


class GeventPool(GreenPool):
    """Slots as gevent greenlets in the hub of the main thread."""

    def __init__(self, slots: int) -> None:
        super().__init__(slots)
        self._hub = get_hub()
        self._all_free = Event()
        self._waiters: dict[Call, Any] = {}

    def _spawn(self, slot: GreenSlot) -> Any:
        return gevent.spawn(self._work, slot)

    def _rest(self) -> None:
        self._hub.switch()

    def _from_hub(self, call: Callable[[GreenSlot], None], slot: GreenSlot) -> None:
        self._hub.loop.run_callback(call, slot)

    def _call_later(self, after_s: float, call: Callable[[], object]) -> Callable[[], object]:
        timer = self._hub.loop.timer(after_s)
        timer.start(call, update=True)  # the loop's clock stands still while greenlets compute

        def prevent() -> None:
            timer.stop()
            timer.close()

        return prevent

    def _wait_all_free(self, deadline_s: float) -> None:
        self._all_free.clear()
        self._all_free.wait(deadline_s)

    def _set_all_free(self) -> None:
        self._all_free.set()

    def _open_loop_thread(self) -> LoopThread:
        from fastq.pools.loops import LoopThread  # lazy: asyncio costs 30 ms and several MiB, most workers run no coroutine

        self._watcher = self._hub.loop.async_()
        self._watcher.start(self._deliver)
        start_new_thread = monkey.get_original("_thread", "start_new_thread")
        allocate_lock = monkey.get_original("_thread", "allocate_lock")
        return LoopThread(lambda main: start_new_thread(main, ()), allocate_lock())

    def _close_loop_thread(self) -> None:
        self._watcher.stop()
        self._watcher.close()

    def _await_call(self, call: Call, begin: Callable[[Call], None]) -> None:
        waiter = self._waiters[call] = Waiter(self._hub)
        try:
            begin(call)
            waiter.get()
        finally:
            del self._waiters[call]

    def _finish(self, call: Call) -> None:
        self._ended.append(call)
        self._watcher.send()  # wakes the hub of the main thread, whichever thread calls it

    def _deliver(self) -> None:
        ended = self._ended
        while ended:
            waiter = self._waiters.get(ended.popleft())
            if waiter is not None:  # else its slot was cancelled
                waiter.switch(None)
