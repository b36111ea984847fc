"""Laws of how many tasks a process tells of."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fastq import _core
from fastq.worker import reporter
from fastq.worker.held import Held

NOW_MS = 1_700_000_000_000


class Outbox:
    """Keep what would be sent."""

    def __init__(self) -> None:
        self.told: list[int] = []

    def put(self, packed: bytes, events: int) -> None:
        self.told.append(events)

    def take_left(self) -> int:
        return 0

    def close(self) -> None:
        pass


def test_a_burst_of_a_seconds_worth_is_told_whole_and_no_second_tells_of_more(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(reporter, "time", SimpleNamespace(monotonic=lambda: clock.now, time=time.time))
    board = _core.ProcessBoard(memoryview(bytearray(_core.ProcessBoard.size(1, 4096))), 1, 4096)
    registry = _core.Registry([_core.Entry("t.noop", int)])
    emitted: list[Any] = []
    runner = _core.Runner(emit=emitted.append, loads=None, dumps=None, on_error=None, board=board, window=None)  # type: ignore[arg-type]
    outbox, held = Outbox(), Held(["q"])
    told_by = reporter.Reporter(runner, board, lambda: cast(Any, outbox), lambda: registry, "w@h", 1000)
    message = _core.encode(
        _core.new_id(NOW_MS), "t.noop", "application/x-msgpack", _core.encode_call((), {}), NOW_MS, None, 0, "a1b2", None
    )

    def run(n: int) -> None:
        batch = _core.deliveries("q", [f"0:1:{i}" for i in range(n)], [message] * n, registry)
        board.hold(batch, 0, NOW_MS)
        assert runner.run_many(0, batch) == n
        board.free([d.record for d in batch])

    told_by.obey({"do": "events", "on": True})
    run(900)
    clock.now += 0.125
    told_by.look(held)
    assert outbox.told == [900]
    for _ in range(20):
        run(500)
        clock.now += 0.125
        told_by.look(held)
    # what was left of the first second, then what an eighth of a second is worth
    assert outbox.told[1] == 225
    assert all(n == 125 for n in outbox.told[2:]), outbox.told
    clock.now += 5
    told_by.look(held)
    run(1500)
    clock.now += 0.125
    told_by.look(held)
    assert outbox.told[-1] == 1000
