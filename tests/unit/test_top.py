"""``fastq top``: what a look makes of heartbeats, and what the keys of the screen do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("textual")

from textual.pilot import Pilot
from textual.widgets import DataTable, Static

from fastq import FastQ
from fastq._core import packb
from fastq.exceptions import OperationalError
from fastq.top import look as looking
from fastq.top.look import Look, Looker, NodeRow, QueueRow, RunRow, TaskRow
from fastq.top.screen import Page, Question, Top
from fastq.top.tables import ago, headline, span, tables
from fastq.transports.channel import NodeRecord

NODE = NodeRow("w1@h", "running", "prefork", 2, 2, 1, 0, 1234, 5, ("default", "mail"), 0.5, 3700.0, 0.2)
LOOK = Look(
    1000.0,
    [NODE],
    [QueueRow("default", 3, 1, 1, 0, 1, False), QueueRow("lost", 7, 0, 0, 0, 0, False), QueueRow("mail", 0, 0, 0, 2, 1, True)],
    [TaskRow("shop.add", 1000, 5, 12.5, 0.0042, 2.5), TaskRow("shop.pay", 10, 0)],
    [RunRow("id-1", "shop.add", "w1@h", 77, 65.0, {"id": "id-1", "args": [1, 2]})],
)


def test_tables_say_what_was_seen() -> None:
    nodes, queues, tasks, running = tables(LOOK)
    assert list(nodes.rows[0][1]) == [
        "w1@h", "running", "prefork x2", "2", "1", "0", "1,234", "5", "0.50", "1h 1m", "now", "default, mail",
    ]  # fmt: skip
    assert [cells[-1] for _, cells in queues.rows] == ["", "nobody takes", "PAUSED"]
    assert list(tasks.rows[0][1]) == ["shop.add", "12.5", "4.2ms", "2.5s", "1,000", "5", ""]
    assert list(tasks.rows[1][1])[1:4] == ["", "", ""]
    assert running.rows == [("id-1", ("1m 5s", "shop.add", "id-1", "w1@h", "77"))]
    assert headline(LOOK) == "1 node, 1 of 2 slots busy, 12.5 tasks/s; 10 ready, 1 delayed, 2 dead"
    assert [span(s) for s in (0.44, 12, 65, 90_000)] == ["0.4s", "12s", "1m 5s", "1d 1h"]
    assert ago(0.5) == "now" and ago(12) == "12s ago"


class Fleet:
    """What a Looker asks, standing in for the broker and the nodes."""

    def __init__(self) -> None:
        self.records: dict[str, NodeRecord] = {}
        self.down = False

    def beat(self, at: float, now: float, tasks: dict[str, list[float]], started_at: float = 1.0) -> None:
        info = {"name": "w1", "started_at": started_at, "tasks": tasks, "queues": ["default"], "slots": 2}
        self.records["w1"] = NodeRecord(packb(info), int((now - at) * 1000))

    def nodes(self) -> dict[str, NodeRecord]:
        if self.down:
            raise OperationalError("no answer")
        return self.records

    def close(self) -> None: ...

    def queues(self) -> list[str]:
        return ["default", "old"]

    def depth(self, queue: str) -> dict[str, int]:
        return {"ready": 1, "delayed": 0, "leased": 0, "dead": 0}


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> Fleet:
    fleet = Fleet()
    monkeypatch.setattr(looking, "open_channel", lambda *_: fleet)
    monkeypatch.setattr(looking, "open_inspector", lambda *_: fleet)
    monkeypatch.setattr(looking, "_paused", lambda _: (frozenset({"old"}), frozenset({"nap"})))
    return fleet


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[FastQ]:
    app = FastQ("shop", broker="memory://top", set_as_current=False)
    control = SimpleNamespace(
        inspect=lambda *_, **__: SimpleNamespace(active=lambda: None), heartbeat=lambda: None, called=[], paused=lambda: None
    )
    for name in ("revoke", "pause_queue", "resume_queue", "pause_task", "resume_task"):
        setattr(control, name, lambda *args, _name=name, **kw: control.called.append((_name, args, kw)))
    monkeypatch.setattr(type(app), "control", control, raising=False)
    yield app
    app.close()


def test_rates_and_means_are_of_the_time_between_two_heartbeats(app: FastQ, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(looking.time, "time", lambda: clock[0])
    looker = Looker(app)
    fleet.beat(100.0, 100.0, {"add": [10, 0, 1.0, 2.0]})
    first = looker.look()
    assert first.tasks == [TaskRow("add", 10, 0), TaskRow("nap", 0, 0, paused=True)]
    assert [(q.name, q.nodes, q.paused) for q in first.queues] == [("default", 1, False), ("old", 0, True)]
    clock[0] = 102.0
    fleet.beat(102.0, 102.0, {"add": [28, 2, 3.0, 12.0], "new": [4, 0, 1.0, 0.0]})
    add, nap, new = looker.look().tasks
    assert (add.rate, add.runtime_s, add.wait_s) == pytest.approx((10.0, 0.1, 0.5))
    assert (new.rate, new.runtime_s) == pytest.approx((2.0, 0.25)) and nap.paused
    # the same heartbeat again changes nothing; one of a node that was started anew begins anew
    assert looker.look().tasks[0].rate == pytest.approx(10.0)
    clock[0] = 104.0
    fleet.beat(104.0, 104.0, {"add": [1, 0, 0.1, 0.1]}, started_at=103.0)
    assert looker.look().tasks[0] == TaskRow("add", 1, 0)
    fleet.records.clear()
    assert [task.name for task in looker.look().tasks] == ["nap"]


def test_a_broker_that_is_away_and_a_damaged_record_are_no_end(app: FastQ, fleet: Fleet) -> None:
    looker = Looker(app)
    fleet.records["bad"] = NodeRecord(b"\xc1", 0)
    assert looker.look().nodes == []
    fleet.down = True
    assert looker.look().trouble == "no answer"
    fleet.down = False
    assert not looker.look().trouble


def drive(app: FastQ, monkeypatch: pytest.MonkeyPatch, use: Callable[[Top, Pilot[None]], Coroutine[Any, Any, None]]) -> None:
    """Run the screen on a look that never changes."""
    monkeypatch.setattr(Looker, "look", lambda self: LOOK)

    async def run() -> None:
        top = Top(app, 30.0)
        async with top.run_test(size=(160, 50)) as pilot:
            await settled(top, pilot)
            await use(top, pilot)

    asyncio.run(run())


async def settled(top: Top, pilot: Pilot[None]) -> None:
    await top.workers.wait_for_complete()
    await pilot.pause()


def test_the_screen_shows_the_tables(app: FastQ, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    async def use(top: Top, pilot: Pilot[None]) -> None:
        assert "12.5 tasks/s" in str(top.query_one("#headline", Static).content)
        assert [top.query_one(f"#{name}", DataTable).row_count for name in ("nodes", "queues", "tasks", "running")] == [1, 3, 2, 1]

    drive(app, monkeypatch, use)


def test_keys_act_on_the_chosen_row_once_they_are_confirmed(app: FastQ, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    async def use(top: Top, pilot: Pilot[None]) -> None:
        called = app.control.called
        await pilot.press("r")
        assert not called  # no running task is chosen
        await pilot.press("4", "t")
        assert isinstance(top.screen, Question)
        await pilot.press("n")
        await settled(top, pilot)
        assert not called
        await pilot.press("4", "t", "y")
        await settled(top, pilot)
        await pilot.press("2", "p", "y")
        await settled(top, pilot)
        await pilot.press("2", "down", "down", "p", "y")
        await settled(top, pilot)
        await pilot.press("3", "p", "y")
        await settled(top, pilot)
        assert called == [
            ("revoke", ("id-1",), {"terminate": True}),
            ("pause_queue", ("default",), {}),
            ("resume_queue", ("mail",), {}),
            ("pause_task", ("shop.add",), {}),
        ]
        await pilot.press("4", "i")
        assert isinstance(top.screen, Page)
        await pilot.press("escape")
        assert not isinstance(top.screen, Page)

    drive(app, monkeypatch, use)
