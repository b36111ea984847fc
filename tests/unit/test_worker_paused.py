"""Paused task names and cancel orders in a worker process."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from fastq._core import BatchWindow
from fastq.transports import open_inspector
from fastq.transports.base import TransportOptions
from tests.unit.worker_rig import DEADLINE_S, Rig, message, rig, wait_for


def never(*args: object) -> None:
    raise AssertionError("this must not run")


def parked(made: Rig) -> dict[str, int]:
    inspector = open_inspector(made.broker.url, TransportOptions())
    try:
        return inspector.parked("default")
    finally:
        inspector.close()


def unpark(made: Rig, *names: str) -> None:
    made.broker.resume(tasks=names)
    while made.broker.unpark():
        pass


# --- paused names ---


def test_what_is_paused_is_put_aside_once_and_its_neighbours_run() -> None:
    ran: list[int] = []
    with rig({"t": ran.append, "other": ran.append}, start=False) as made:
        made.broker.pause(tasks=["t"])
        made.publish(message("t", 1), message("other", 2), message("t", 3))
        made.start()
        wait_for(lambda: parked(made) == {"t": 2} and ran == [2])
        fetches = len(made.trouble.fetches)
        assert made.trouble.calls.count("paused") == 1
        made.publish(message("other", 4))
        wait_for(lambda: ran == [2, 4])
        assert len(made.trouble.fetches) <= fetches + 4, "it does not go round in circles"
        unpark(made, "t")
        wait_for(lambda: ran == [2, 4, 1, 3])
        wait_for(made.settled_all)
        wait_for(lambda: made.board.held() == [])


def test_nothing_is_asked_while_nothing_is_paused() -> None:
    with rig({"t": lambda: None}) as made:
        made.publish(message("t"), message("t"))
        wait_for(made.settled_all)
        assert "paused" not in made.trouble.calls


def test_nothing_of_a_fetch_starts_before_it_is_known_what_is_paused() -> None:
    lost: list[int] = []

    def fails(number: int, name: str) -> str:
        if name == "paused" and len(lost) < 3:
            lost.append(number)
            return "request"
        return ""

    ran: list[int] = []
    with rig({"t": never, "other": ran.append}, start=False, fails=fails) as made:
        made.broker.pause(tasks=["t"])
        made.publish(message("t", 1), message("other", 2))
        made.start()
        wait_for(lambda: parked(made) == {"t": 1} and ran == [2])
        assert len(lost) == 3


def test_a_paused_task_that_has_expired_or_was_revoked_ends_all_the_same() -> None:
    with rig({"t": never}, start=False) as made:
        made.broker.pause(tasks=["t"])
        made.broker.revoke(["x"], 60)
        made.publish(message("t", id="x"), message("t", id="late", expires_ms=1))
        made.start()
        assert made.result("x")[0] == "REVOKED"
        wait_for(lambda: parked(made) == {"t": 1})
        unpark(made, "t")
        assert made.result("late")[0] == "REVOKED"


# --- cancel orders ---


@pytest.mark.parametrize("pool", ["threads"])
def test_in_a_batch_of_several_only_the_one_that_runs_is_struck(pool: str) -> None:
    """Two short tasks in one slot, of which the first turns out to be long."""
    begun, ran = threading.Event(), list[int]()

    def t(number: int) -> Any:
        if number:
            ran.append(number)
            return number
        begun.set()
        end = time.monotonic() + DEADLINE_S
        while time.monotonic() < end:
            time.sleep(0.001)
        return "not interrupted"

    window = BatchWindow()
    window.note(0, 1_000, 100)
    with rig({"t": t}, pool=pool, slots=1, window=window, start=False) as made:
        made.publish(message("t", 0, id="long"), *[message("t", i, id=f"t{i}") for i in (1, 2, 3)])
        window.size()
        made.start()
        assert begun.wait(DEADLINE_S)
        assert [d.id for d in made.feeder.batch_of("long")] == ["long", "t1"]
        made.send({"order": {"do": "cancel", "ids": {"long": "SIGTERM", "t2": "SIGTERM"}}})
        assert made.result("long")[0] == "REVOKED"
        assert made.result("t2")[0] == "REVOKED"
        wait_for(lambda: sorted(ran) == [1, 3])
        wait_for(made.settled_all)
