"""When a process is replaced that the broker does not answer: only if it runs nothing, and the broker answers its supervisor."""

from __future__ import annotations

import pytest

from fastq import _core
from fastq._core import ProcessBoard
from fastq.worker.standstill import IDLE_LEASES, LADEN_LEASES, Standstill

LEASE_S = 3.0


class Rig:
    """A process with one slot and a clock of its own."""

    def __init__(self, foreign: bool = False) -> None:
        self.now_s = 1000.0
        self.board = ProcessBoard(memoryview(bytearray(ProcessBoard.size(1, 8))), 1, 8)
        self.still = Standstill(LEASE_S, foreign=foreign, clock=lambda: self.now_s)

    def look_for(self, leases: float, *, reachable: bool = True) -> bool:
        """Look as often as it is due for so long; True if the process was to be replaced."""
        end_s = self.now_s + leases * LEASE_S
        while self.now_s < end_s:
            self.now_s += self.still.every_s
            if self.still.look(self.board, reachable=reachable, title="p") is not None:
                return True
        return False

    def hold(self, *states: str) -> None:
        message = _core.encode("a", "task", "application/x-msgpack", b"\x92\x90\x80", 0, None, 0, None, None)
        tags = [f"0:1:{i}" for i in range(len(states))]
        batch = _core.deliveries("q", tags, [message] * len(tags), _core.Registry([]))
        self.board.hold(batch, 0, 1)
        for delivery, state in zip(batch, states, strict=True):
            if state != "held":
                assert self.board.claim(delivery.record, 1)
            if state == "finished":
                self.board.finish(delivery.record)


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_a_process_that_is_not_answered_is_replaced(rig: Rig) -> None:
    assert not rig.look_for(IDLE_LEASES - 0.5)
    assert rig.look_for(1)


def test_a_process_that_holds_what_it_has_not_started_is_replaced(rig: Rig) -> None:
    rig.hold("held", "held")
    assert rig.look_for(IDLE_LEASES + 1)


def test_an_answered_process_stays(rig: Rig) -> None:
    for _ in range(20):
        assert not rig.look_for(IDLE_LEASES - 1)
        rig.still.answered()


def test_a_process_that_runs_a_task_stays(rig: Rig) -> None:
    rig.hold("started", "held")
    assert not rig.look_for(10 * LADEN_LEASES)


def test_time_in_which_the_broker_is_away_does_not_count(rig: Rig) -> None:
    assert not rig.look_for(10 * IDLE_LEASES, reachable=False)
    assert not rig.look_for(IDLE_LEASES - 0.5)
    assert not rig.look_for(0.4, reachable=False)
    assert not rig.look_for(IDLE_LEASES - 0.5)
    assert rig.look_for(1)


def test_a_supervisor_that_was_stopped_starts_over(rig: Rig) -> None:
    rig.now_s += 100 * LEASE_S
    assert not rig.look_for(IDLE_LEASES - 0.5)


def test_a_process_with_outcomes_gets_longer_and_is_spoken_of_once(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.hold("finished", "finished", "held")
    assert not rig.look_for(LADEN_LEASES - 1)
    assert [record.getMessage() for record in caplog.records if "2 outcomes" in record.getMessage()] == [
        record.getMessage() for record in caplog.records
    ]
    assert len(caplog.records) == 1
    assert rig.look_for(2)


def test_a_process_with_outcomes_stays_where_results_are_kept_elsewhere(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig(foreign=True)
    rig.hold("finished")
    assert not rig.look_for(5 * LADEN_LEASES)
    assert len(caplog.records) == 1
