"""Slots are eventlet greenlets; the process has been monkey patched by its entry."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastq.pools._eventlet import eventlet
from fastq.pools.green import GreenPool, GreenSlot

if TYPE_CHECKING:
    from fastq.pools.loops import Call, LoopThread

__all__ = ["EventletPool"]


class EventletPool(GreenPool):
    """Slots as eventlet greenlets in the hub of the main thread.

    A timer of eventlet's hub costs several microseconds, so all slots woken in one go share one.
    """

    def __init__(self, slots: int) -> None:
        super().__init__(slots)
        self._hub: Any = eventlet.hubs.get_hub()
        self._woken: list[tuple[Callable[[GreenSlot], None], GreenSlot]] = []
        self._all_free: Any = None
        self._events: dict[Call, Any] = {}

    def _spawn(self, slot: GreenSlot) -> Any:
        return eventlet.spawn(self._work, slot)

    def _rest(self) -> None:
        self._hub.switch()

    def _from_hub(self, call: Callable[[GreenSlot], None], slot: GreenSlot) -> None:
        if not self._woken:
            self._hub.schedule_call_global(0, self._pump)
        self._woken.append((call, slot))

    def _pump(self) -> None:
        woken, self._woken = self._woken, []
        for call, slot in woken:
            call(slot)

    def _call_later(self, after_s: float, call: Callable[[], object]) -> Callable[[], object]:
        prevent: Callable[[], object] = self._hub.schedule_call_global(after_s, call).cancel
        return prevent

    def _wait_all_free(self, deadline_s: float) -> None:
        self._all_free = eventlet.event.Event()
        try:
            with eventlet.Timeout(deadline_s, False):
                self._all_free.wait()
        finally:
            self._all_free = None

    def _set_all_free(self) -> None:
        if self._all_free is not None and not self._all_free.ready():
            self._all_free.send()

    def _open_loop_thread(self) -> LoopThread:
        from fastq.pools.loops import LoopThread  # lazy: asyncio costs 30 ms and several MiB, most workers run no coroutine

        self._read_fd, self._write_fd = os.pipe()
        os.set_blocking(self._read_fd, False)
        self._signalled = False
        native_os = eventlet.patcher.original("os")
        self._native_read, self._native_write = native_os.read, native_os.write
        self._listener = eventlet.spawn(self._deliver)
        thread = eventlet.patcher.original("_thread")
        return LoopThread(lambda main: thread.start_new_thread(main, ()), thread.allocate_lock())

    def _close_loop_thread(self) -> None:
        self._listener.kill()
        os.close(self._read_fd)
        os.close(self._write_fd)

    def _await_call(self, call: Call, begin: Callable[[Call], None]) -> None:
        event = self._events[call] = eventlet.event.Event()
        try:
            begin(call)
            event.wait()
        finally:
            del self._events[call]

    def _finish(self, call: Call) -> None:
        # one actor: the loop appends and finds the flag up, so it writes nothing. The other: the listener takes the flag down
        # before it looks, so it finds what was appended before. At most one byte is in the pipe: writing never blocks.
        self._ended.append(call)
        if not self._signalled:
            self._signalled = True
            self._native_write(self._write_fd, b"\0")

    def _deliver(self) -> None:
        ended = self._ended
        while True:
            eventlet.hubs.trampoline(self._read_fd, read=True)
            self._native_read(self._read_fd, 64)
            self._signalled = False
            while ended:
                event = self._events.get(ended.popleft())
                if event is not None:  # else its slot was cancelled
                    event.send()
