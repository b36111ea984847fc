"""The compiled core, step by step, beside the same in plain Python with msgpack. The ratios: python benchmarks/core_ratio.py"""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from core_steps import BATCH, FIELDS, MESSAGE, MESSAGES, NOW_MS, TAGS, core_batch, noop, plain_batch

from fastq import _core
from fastq._core import BatchWindow, Delivery, Entry, ProcessBoard, Registry, Runner

VALUE = {"user": 17, "tags": ["a", "b", "c"], "score": 0.5, "note": "x" * 50, "more": [{"k": i} for i in range(10)]}


@pytest.mark.benchmark(group=f"{BATCH} no-op tasks: peek, load, run, outcome")
@pytest.mark.parametrize("make", [core_batch, plain_batch], ids=["core", "plain"])
def test_batch(benchmark: Any, make: Any) -> None:
    assert benchmark(make()) == BATCH


@pytest.mark.benchmark(group="peek")
@pytest.mark.parametrize("read", [_core.peek, msgpack.unpackb], ids=["core", "msgpack"])
def test_peek(benchmark: Any, read: Any) -> None:
    benchmark(read, MESSAGE)


@pytest.mark.benchmark(group="encode")
def test_encode(benchmark: Any) -> None:
    benchmark(_core.encode, *FIELDS)


@pytest.mark.benchmark(group="encode")
def test_encode_with_msgpack(benchmark: Any) -> None:
    benchmark(msgpack.packb, FIELDS)


@pytest.mark.benchmark(group="pack a value")
@pytest.mark.parametrize("pack", [_core.packb, msgpack.packb], ids=["core", "msgpack"])
def test_pack(benchmark: Any, pack: Any) -> None:
    benchmark(pack, VALUE)


@pytest.mark.benchmark(group="unpack a value")
@pytest.mark.parametrize("unpack", [_core.unpackb, msgpack.unpackb], ids=["core", "msgpack"])
def test_unpack(benchmark: Any, unpack: Any) -> None:
    assert benchmark(unpack, _core.packb(VALUE)) == VALUE


@pytest.mark.benchmark(group="ids")
def test_one_id(benchmark: Any) -> None:
    benchmark(_core.new_id, NOW_MS)


@pytest.mark.benchmark(group="ids")
def test_a_hundred_ids(benchmark: Any) -> None:
    benchmark(_core.new_ids, NOW_MS, 100)


@pytest.mark.benchmark(group=f"{BATCH} tasks in a worker: held, run, freed, measured")
def test_batch_with_board_and_window(benchmark: Any) -> None:
    board = ProcessBoard(memoryview(bytearray(ProcessBoard.size(1, 2048))), 1, 2048)
    registry = Registry([Entry(FIELDS[1], noop)])
    out: list[Any] = []

    def unexpected(*args: Any) -> Any:
        raise AssertionError(args)

    runner = Runner(emit=out.append, loads=unexpected, dumps=unexpected, on_error=unexpected, board=board, window=BatchWindow())
    runner.now_ms = NOW_MS

    def work() -> None:
        batch: list[Delivery] = _core.deliveries("default", TAGS, MESSAGES, registry)
        board.hold(batch, 0, NOW_MS)
        runner.run_many(0, batch)
        board.free([s.record for s in out])
        out.clear()

    benchmark(work)
