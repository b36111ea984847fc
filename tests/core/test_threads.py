"""The core under many threads at once: without a GIL where the interpreter has none, as plain threads otherwise."""

from __future__ import annotations

import sys
import sysconfig
import threading
from collections import deque
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

from fastq import _core
from fastq._core import BatchWindow, Delivery, Entry, Registry, Runner, Settlement
from fastq.exceptions import EncodeError

from .runs import deliver, envelope, new_board

THREADS = 8
BATCHES = 50
BATCH = 40


def test_importing_the_core_does_not_switch_the_gil_on() -> None:
    is_gil_enabled = getattr(sys, "_is_gil_enabled", lambda: True)
    free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    assert is_gil_enabled() is not free_threaded


def test_many_slots_share_one_runner_window_registry_and_board() -> None:
    current: ContextVar[Delivery | None] = ContextVar("current", default=None)
    out: deque[Settlement] = deque()
    wrong: list[Any] = []

    def work(n: int) -> dict[str, Any]:
        d = current.get()
        if d is None or d.id != f"task-{n}":
            wrong.append((n, d))
        if n % 7 == 0:
            raise ValueError(n)
        return {"n": n, "list": [1, "two", 3.0]}

    def on_error(d: Delivery, exc: BaseException, runtime_ns: int) -> Settlement:
        return Settlement(d.queue, d.tag, d.id, _core.DEAD, reason=str(exc), record=d.record)

    registry = Registry([Entry("tasks.work", work)])
    window = BatchWindow()
    board = new_board(THREADS, THREADS * BATCH)
    runner = Runner(
        emit=out.append,
        loads=lambda content_type, body: ((), {}),
        dumps=lambda entry, value: ("x", b""),
        on_error=on_error,
        current=current,
        board=board,
        window=window,
    )
    start = threading.Barrier(THREADS)
    consumer = threading.Lock()  # hold and free are the consumer's alone
    raised: list[BaseException] = []

    def slot(index: int) -> None:
        try:
            start.wait(60)
            for b in range(BATCHES):
                numbers = [(index * BATCHES + b) * BATCH + i for i in range(BATCH)]
                batch = deliver(registry, *[envelope("tasks.work", (n,), id=f"task-{n}") for n in numbers])
                with consumer:
                    assert board.hold(batch, 0, 0) == BATCH
                assert runner.run_many(index, batch) == BATCH
                window.size()
                board.active()
                with consumer:
                    board.free([d.record for d in batch])
        except BaseException as exc:
            raised.append(exc)

    threads = [threading.Thread(target=slot, args=(i,)) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = THREADS * BATCHES * BATCH
    assert raised == []
    assert wrong == []
    assert sorted(s.id for s in out) == sorted(f"task-{n}" for n in range(total))
    assert sum(s.verdict == _core.DEAD for s in out) == len(range(0, total, 7))
    for s in out:
        if s.verdict == _core.DONE:
            assert s.result is not None
            assert _core.unpackb(_core.decode_result(s.result)[2])["n"] == int(s.id.removeprefix("task-"))
    assert board.counter("started") == total
    assert board.counter("done") + board.counter("failed") == total
    assert board.counter("held") == 0
    assert board.held() == []
    assert window.mean_ns(0) > 0


def test_one_delivery_is_read_by_many_threads() -> None:
    registry = Registry([Entry("tasks.add", print)])
    (d,) = deliver(registry, envelope("tasks.unknown", ("ü",), inbox="inbox", content_type="a/b", options={"a": 1}))
    wrong: list[Any] = []

    def read() -> None:
        for _ in range(2_000):
            seen = (d.id, d.name, d.inbox, d.content_type, d.body, d.options)
            if seen != (d.id, "tasks.unknown", "inbox", "a/b", _core.encode_call(("ü",), {}), {"a": 1}):
                wrong.append(seen)

    threads = [threading.Thread(target=read) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_dict_that_other_threads_change_is_written_or_refused() -> None:
    shared: dict[str, int] = {str(i): i for i in range(50)}
    stop = threading.Event()
    raised: list[BaseException] = []

    def change() -> None:
        i = 0
        while not stop.is_set():
            i += 1
            shared[str(i % 100)] = i
            shared.pop(str((i * 7) % 100), None)

    def write() -> None:
        try:
            for _ in range(2_000):
                with suppress(EncodeError):
                    _core.unpackb(_core.packb(shared))
        except BaseException as exc:
            raised.append(exc)

    changer = threading.Thread(target=change)
    writers = [threading.Thread(target=write) for _ in range(3)]
    changer.start()
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    stop.set()
    changer.join()
    assert raised == []
