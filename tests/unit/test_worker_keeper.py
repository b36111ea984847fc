"""The supervisor's side of the broker: connecting, beating, burying, trouble."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from fastq import _core
from fastq.records import Lease
from fastq.worker import keeper as keeper_module
from fastq.worker.board import Board
from fastq.worker.identity import Identity
from fastq.worker.keeper import Keeper
from fastq.worker.loop import Loop
from fastq.worker.reaper import Reaper, Snapshot
from tests.unit.test_worker_banner import HELLO
from tests.unit.test_worker_names import in_a_process_that_is_gone
from tests.unit.worker_fakes import FakeBroker, message


class Node:
    """A keeper over a fake broker, with a lease of 0.15 s."""

    def __init__(self, broker: FakeBroker | None = None, **hello: object) -> None:
        self.broker = broker or FakeBroker()
        self.loop = Loop()
        self.hello = replace(HELLO, queues=("default",), lease_ms=150, **hello)  # type: ignore[arg-type]
        self.identity = Identity("n@h")
        reaper = Reaper(self.broker, lambda: None, max_deliveries=3, encode=lambda exc: ("text/plain", str(exc).encode(), None))
        self.keeper = Keeper(self.loop, self.hello, self.identity, self.broker, reaper)
        self.connected = False
        self.gave_up = ""

    def connect(self) -> Node:
        self.keeper.connect(self._done, self._give_up)
        return self

    def _done(self) -> None:
        self.connected = True

    def _give_up(self, text: str) -> None:
        self.gave_up = text

    def turn_until(self, condition: object, turns: int = 500) -> None:
        assert callable(condition)
        for _ in range(turns):
            if condition():
                return
            self.loop.turn(longest_s=0.05)
        raise AssertionError("the condition did not come true")


def test_an_unreachable_broker_is_tried_again_with_a_clear_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keeper_module, "RETRY_STEP_S", 0.01)
    node = Node()
    node.broker.down = True
    with caplog.at_level(logging.INFO):
        node.connect()
        node.turn_until(lambda: len(caplog.records) >= 2)
        node.broker.down = False
        node.turn_until(lambda: node.connected)
    first = caplog.records[0].getMessage()
    assert first.startswith("consumer: Cannot connect to redis://:**@localhost:6379/0: ")
    assert first.endswith("Trying again in 0.01 seconds... (1/100)") and "\n" not in first
    assert caplog.records[-1].getMessage() == "Connected to redis://:**@localhost:6379/0"


def test_no_retry_gives_up_at_once() -> None:
    node = Node(retry=False)
    node.broker.down = True
    node.connect()
    assert "Cannot connect to redis://:**@localhost:6379/0" in node.gave_up and not node.connected


def test_leases_are_renewed_by_themselves() -> None:
    node = Node().connect()
    node.keeper.enter("p")
    before = node.broker.leases["default", "p"]
    node.turn_until(lambda: node.broker.leases["default", "p"] != before)


def test_a_dead_process_is_buried_at_once_and_not_renewed() -> None:
    node = Node().connect()
    node.keeper.enter("p", "q")
    node.broker.lease("default", "p", message(id="1"))
    node.keeper.bury("p", Snapshot({"default": {"0:1:0"}}))
    assert [_core.peek(m).deliveries for m in node.broker.ready["default"]] == [1]
    node.keeper.beat()
    assert ("default", "p") not in node.broker.leases and ("default", "q") in node.broker.leases


def test_a_death_while_the_broker_is_away_is_buried_later(caplog: pytest.LogCaptureFixture) -> None:
    node = Node().connect()
    node.keeper.enter("p")
    node.broker.lease("default", "p", message(id="1"))
    node.broker.down = True
    node.keeper.bury("p", Snapshot())
    node.keeper.beat()
    node.keeper.beat()
    assert node.keeper.unburied == 1
    assert len([r for r in caplog.records if "Lost the broker" in r.getMessage()]) == 1, "trouble is told once"
    node.broker.down = False
    node.turn_until(lambda: not node.keeper.unburied)
    assert len(node.broker.ready["default"]) == 1
    assert "again" in caplog.records[-1].getMessage() or any("Connected" in r.getMessage() for r in caplog.records)


def test_a_fenced_process_keeps_its_old_lease_while_something_runs_under_it() -> None:
    node = Node().connect()
    node.keeper.enter("old")
    board = Board()
    region = board.region(0, 1)
    messages = [message(id="runs"), message(id="dropped")]
    batch = _core.deliveries("default", node.broker.lease("default", "old", *messages), messages, _core.Registry([]))
    region.hold(batch[:1], 0, 1)
    region.claim(batch[0].record, 1)
    node.keeper.retire("old", region)
    node.keeper.enter("new")
    node.keeper.beat()
    assert ("default", "old") in node.broker.leases, "it still runs there"
    assert [_core.peek(m).id for m in node.broker.ready["default"]] == ["dropped"], "what had not started goes back"
    node.broker.held.clear()
    node.keeper.beat()
    assert set(node.broker.leases) == {("default", "new")}
    board.close()


def test_a_dead_node_is_reaped_after_three_looks() -> None:
    node = Node().connect()
    node.broker.lease("default", "stranger", message(id="1"))
    node.broker.old = [Lease("default", "stranger", "living")]
    node.turn_until(lambda: node.broker.ready.get("default"))
    assert node.broker.calls.count("renew") >= 4
    assert [_core.peek(m).deliveries for m in node.broker.ready["default"]] == [1], "without a board all are charged"


def test_own_processes_are_never_looked_at() -> None:
    node = Node().connect()
    name = node.identity.new_name(0)
    node.broker.lease("default", name, message())
    node.broker.old = [Lease("default", name, "living")]
    for _ in range(12):
        node.loop.turn(longest_s=0.05)
    assert node.broker.held["default", name]


def test_a_node_that_starts_takes_over_from_the_dead_of_its_host_at_once() -> None:
    broker = FakeBroker()
    gone = in_a_process_that_is_gone()
    broker.lease("default", gone, message(id="1"))
    broker.old = [Lease("default", gone, "living")]
    node = Node(broker).connect()
    assert node.connected and [_core.peek(m).id for m in broker.ready["default"]] == ["1"]


def test_another_node_of_the_same_name_is_told(caplog: pytest.LogCaptureFixture) -> None:
    broker = FakeBroker()
    broker.old = [Lease("default", "n@h.0.elsewhere", "living")]
    Node(broker).connect()
    assert "Another node named n@h" in caplog.text


def test_a_process_that_holds_is_watched_until_it_holds_nothing() -> None:
    node = Node().connect()
    board = Board()
    region = board.region(0, 1)
    messages = [message(id=str(i)) for i in range(3)]
    batch = _core.deliveries("default", node.broker.lease("default", "p", *messages), messages, _core.Registry([]))
    region.hold(batch, 0, 1)
    region.set_counter("watched", 1)
    region.claim(batch[0].record, 1)
    node.keeper.enter("p")
    node.keeper.watch("p", region)
    node.turn_until(lambda: region.counter("watched") == 0)
    assert [_core.peek(m).id for m in node.broker.ready["default"]] == ["1", "2"]
    board.close()


def test_every_node_goes_on_with_what_a_resume_has_left_at_its_start_and_with_its_beats() -> None:
    node = Node()
    node.broker.steps = [True] * 40
    node.connect()
    assert node.connected
    node.turn_until(lambda: not node.broker.steps)
    node.broker.steps = [True] * 3
    node.broker.down = True
    node.turn_until(lambda: not node.keeper.reachable)
    assert node.broker.steps, "nothing is asked of a broker that does not answer"
    node.broker.down = False
    node.turn_until(lambda: not node.broker.steps)
