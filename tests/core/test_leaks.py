"""Nothing that the core handles stays behind: reference counts and memory after many rounds of everything, errors included."""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgpack
import pytest

from fastq import _core
from fastq._core import BatchWindow, Entry, ProcessBoard, Registry, Tally
from fastq.exceptions import FastQError

from .runs import Noted, deliver, envelope, new_board, new_tally

REGISTRY = Registry([Entry("tasks.add", print)])
MESSAGE = envelope(args=(1, "two"), kwargs={"k": [1.5]}, inbox="inbox", options={"headers": {"a": [1]}})
VALUE = {"a": [1, 2.5, "three", b"four", None, True, 2**63], "b": {"c": {"d": "ü" * 300}}}
WITH_EXT = msgpack.packb([VALUE, msgpack.ExtType(1, b"")])
BROKEN = bytearray(MESSAGE)
BROKEN[-3] = 0xC1


def refused(call: Callable[..., object], *args: Any) -> Callable[[], None]:
    def attempt() -> None:
        with suppress(FastQError, ValueError, TypeError):
            call(*args)
            pytest.fail("was expected to be refused")

    return attempt


def run_all() -> Callable[[], None]:
    def fn(kind: int) -> Any:
        if kind == 0:
            return VALUE
        if kind == 1:
            return (1, 2)
        raise ValueError("x")

    board = new_board(tally=new_tally())
    noted = Noted(fn, board=board, window=BatchWindow())
    messages = [envelope(args=(kind,)) for kind in (0, 1, 2)]
    messages += [envelope("tasks.other"), b"rubbish", envelope(body=b"\x92\x91"), envelope(content_type="x/y")]
    messages += [envelope(body=msgpack.packb([[msgpack.ExtType(1, b"")], {}])), envelope(args=(0,), kwargs={"wrong": 1})]

    def run() -> None:
        batch = deliver(noted.registry, *messages)
        board.hold(batch, 0, 1_700_000_000_500)
        noted.runner.run_many(0, batch)
        board.free([d.record for d in batch])
        for d in deliver(noted.registry, *messages):
            call = noted.runner.begin(0, d)
            if call is not None:
                noted.runner.finish(0, call, VALUE, None)
        noted.out.clear()
        noted.errors.clear()

    return run


def tally() -> Callable[[], None]:
    made = new_tally()

    def run() -> None:
        made.add("tasks.add", "failed")
        made.add("\ud800", "failed")
        made.count("fenced")
        made.task_totals()
        made.queue_totals()
        refused(made.add, "tasks.add", "lost")()
        new_tally()

    return run


def hold() -> Callable[[], None]:
    board = new_board()

    def run() -> None:
        batch = deliver(REGISTRY, *[MESSAGE] * 20)
        board.hold(batch, 0, 1)
        board.held()
        board.claim(batch[0].record, 1)
        board.give_back(batch[1].record)
        board.slot_begin(0, "i", "n", 1)
        board.active()
        board.free([d.record for d in batch])

    return run


def broken_on_error() -> Callable[[], None]:
    def on_error(*args: object) -> Any:
        raise RuntimeError("broken")

    noted = Noted(lambda: 1 / 0, on_error=on_error)

    def run() -> None:
        noted.run()
        noted.out.clear()

    return run


CASES: dict[str, Callable[[], Callable[[], Any]]] = {
    "packb": lambda: lambda: _core.packb(VALUE),
    "packb with a hook": lambda: lambda: _core.packb([{1}, (2,)], lambda obj: msgpack.ExtType(1, b"x")),
    "packb refused": lambda: refused(_core.packb, [VALUE, object()]),
    "packb refused by the hook": lambda: refused(_core.packb, [VALUE, {1}], lambda obj: 1 / 0),
    "unpackb": lambda: lambda: _core.unpackb(_core.packb(VALUE)),
    "unpackb refused": lambda: refused(_core.unpackb, _core.packb([VALUE] * 3)[:-5]),
    "unpackb refused by the hook": lambda: refused(_core.unpackb, WITH_EXT, lambda code, data: 1 / 0),
    "unpackb unhashable": lambda: refused(_core.unpackb, b"\x82\xa1a\xa1b\x91\xa1a\x01"),
    "ids": lambda: lambda: (_core.new_id(1), _core.new_ids(1, 50)),
    "encode": lambda: lambda: envelope(args=(1,), inbox="i", options={"a": [1]}),
    "encode refused options": lambda: refused(lambda: envelope(options={"a": object()})),
    "peek": lambda: lambda: repr(_core.peek(MESSAGE)),
    "peek refused": lambda: refused(_core.peek, bytes(BROKEN)),
    "task_id": lambda: lambda: _core.task_id(MESSAGE),
    "remark": lambda: lambda: _core.remark(_core.remark(MESSAGE, 3), 0),
    "deliveries": lambda: lambda: deliver(REGISTRY, MESSAGE, bytes(BROKEN), b""),
    "registry": lambda: lambda: Registry([Entry(f"t{i}", print) for i in range(20)]).names(),
    "result": lambda: lambda: _core.decode_result(_core.encode_result("S", "c", b"b", "t", 5, {"m": 1})),
    "result refused": lambda: refused(_core.decode_result, b"\x96\xa1a\xa1b\xc4\x01b\xa1t\x05\x90"),
    "settlement": lambda: lambda: _core.Settlement("q", "t", "i", 0, result=b"r", detail=b"d"),
    "window": lambda: lambda: BatchWindow().note(70, 5),
    "board": lambda: lambda: new_board(),
    "board refused": lambda: refused(ProcessBoard, memoryview(bytearray(10)), 1, 1),
    "hold": hold,
    "tally": tally,
    "tally refused": lambda: refused(Tally, memoryview(bytearray(10)), 1, 1),
    "run": run_all,
    "broken on_error": broken_on_error,
}


@pytest.mark.parametrize("case", CASES)
def test_nothing_stays_behind(case: str) -> None:
    call = CASES[case]()
    watched = [VALUE, VALUE["a"], VALUE["b"], MESSAGE, REGISTRY, None, "", _core.peek]
    for _ in range(300):  # fills the free lists
        call()
    gc.collect()
    counts = [sys.getrefcount(obj) for obj in watched]
    grown: list[int] = []
    tracemalloc.start()
    try:
        for _ in range(4):
            gc.collect()
            before, _ = tracemalloc.get_traced_memory()
            for _ in range(300):
                call()
            gc.collect()
            grown.append(tracemalloc.get_traced_memory()[0] - before)
    finally:
        tracemalloc.stop()
    moved = [b - a for a, b in zip(counts, (sys.getrefcount(obj) for obj in watched), strict=True)]
    # a leak shows in every window; a cache that fills (of the traceback module, say) in some
    assert min(grown) < 300 * 8, f"{grown} bytes more after 300 rounds each"
    assert all(abs(m) < 100 for m in moved), moved
