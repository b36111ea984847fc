"""Revoked tasks in a worker: refused when they come, ended where they wait for a slot, left alone where they run."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest

from fastq import signals
from fastq._core import BatchWindow
from fastq.records import Publication, Settlement
from fastq.transports.base import REVOKED_MAX
from fastq.worker.revoked import Revoked
from tests.unit.worker_rig import DEADLINE_S, message, rig, wait_for


class Told:
    """A broker's record of revocations."""

    def __init__(self) -> None:
        self.ids: dict[str, int] = {}
        self.asked: list[int] = []

    def revoked(self, since: int = 0) -> tuple[int, list[str]]:
        self.asked.append(since)
        return max(self.ids.values(), default=0), [id for id, number in self.ids.items() if number > since]


def never(*args: object) -> None:
    raise AssertionError("this must not run")


# --- the set ---


def test_only_what_is_new_is_read() -> None:
    broker, ids = Told(), set[str]()
    known = Revoked(broker, ids)  # type: ignore[arg-type]
    broker.ids = {"a": 5}
    assert known.hear(5)
    broker.ids["b"] = 6
    assert known.hear(6)
    assert (ids, known.number, broker.asked) == ({"a", "b"}, 6, [0, 5])


def test_what_the_broker_has_forgotten_is_forgotten_here() -> None:
    broker, ids = Told(), set[str]()
    known = Revoked(broker, ids)  # type: ignore[arg-type]
    broker.ids = {"a": 5}
    known.hear(5)
    assert not known.hear(0)
    assert (ids, known.number, broker.asked) == (set(), 0, [0])
    broker.ids = {"b": 3}  # the clock was set back
    known.hear(9)
    broker.ids = {"c": 2}
    assert known.hear(2)
    assert ids == {"c"}


def test_a_set_that_has_grown_too_large_is_read_anew() -> None:
    broker, ids = Told(), set[str]()
    known = Revoked(broker, ids)  # type: ignore[arg-type]
    broker.ids = {"a": 5}
    known.hear(5)
    ids.update(map(str, range(2 * REVOKED_MAX + 1)))
    broker.ids["b"] = 6
    known.hear(6)
    assert ids == {"a", "b"}


# --- a process ---


def test_a_revoked_task_is_refused_when_it_comes(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[dict[str, Any]] = []

    def revoked(**told: Any) -> None:
        heard.append(told)

    signals.task_revoked.connect(revoked)
    try:
        with caplog.at_level(logging.INFO, "fastq.worker.gate"), rig({"t": never}) as made:
            made.broker.revoke(["x"], 60)
            made.publish(message("t", id="x"))
            wait_for(made.settled_all)
            assert made.result("x")[0] == "REVOKED"
            assert made.dead() == []
            wait_for(lambda: not len(made.consumer._holdings.held) and made.board.held() == [])
    finally:
        signals.task_revoked.disconnect(revoked)
    assert caplog.messages.count("Discarding revoked task: t[x]") == 1
    assert [(told["expired"], told["terminated"], told["request"].id) for told in heard] == [(False, False, "x")]


def test_its_neighbours_run() -> None:
    ran: list[int] = []
    with rig({"t": ran.append}, start=False) as made:
        made.broker.revoke(["b"], 60)
        made.publish(message("t", 1, id="a"), message("t", 2, id="b"), message("t", 3, id="c"))
        made.start()
        wait_for(made.settled_all)
        assert ran == [1, 3]


def test_nothing_is_asked_while_nothing_was_revoked() -> None:
    with rig({"t": lambda: None}) as made:
        made.publish(message("t"), message("t"))
        wait_for(made.settled_all)
        assert "revoked" not in made.trouble.calls


def test_a_running_task_goes_on_and_what_waits_behind_it_is_ended() -> None:
    started, go = threading.Event(), threading.Event()

    def hold() -> str:
        started.set()
        assert go.wait(DEADLINE_S)
        return "done"

    window = BatchWindow()
    with rig({"t": hold, "other": lambda: None}, pool="threads", slots=2, window=window) as made:
        made.publish(message("t", id="running"))
        assert started.wait(DEADLINE_S)
        made.broker.revoke(["running"], 60)
        made.publish(message("other", id="next"))
        assert made.result("next")[0] == "SUCCESS"
        wait_for(lambda: "running" in made.consumer._exchange._intake._gate.revoked)
        go.set()
        assert made.result("running")[0] == "SUCCESS"
        wait_for(made.settled_all)


def test_what_is_held_and_has_not_started_is_ended() -> None:
    with rig({"t": never}, start=False) as made:
        emitted: list[Settlement] = []
        made.settler.emit = emitted.append
        from fastq.records import Fetched, Leased

        intake = made.consumer._exchange._intake
        intake.accept(Fetched((Leased("default", ["0:1:0", "0:1:1"], [message("t", id="a"), message("t", id="b")]),), 1))
        (first, second) = list(made.feeder.ready)
        assert made.board.claim(second.record, 1)  # a slot has started it
        intake._gate.revoked.update({"a", "b"})
        intake.end_revoked()
        assert [(s.id, s.tag) for s in emitted] == [("a", "0:1:0")]
        assert first not in made.feeder.ready
        assert not made.board.give_back(first.record)


def test_without_an_answer_nothing_of_the_fetch_starts_before_there_is_one() -> None:
    lost: list[int] = []

    def fails(number: int, name: str) -> str:
        if name == "revoked" and len(lost) < 3:
            lost.append(number)
            return "request"
        return ""

    ran: list[int] = []
    with rig({"t": ran.append}, start=False, fails=fails) as made:
        made.broker.revoke(["b"], 60)
        made.publish(message("t", 1, id="a"), message("t", 2, id="b"))
        made.start()
        wait_for(made.settled_all)
        assert len(lost) == 3
        assert ran == [1]
        assert made.result("b")[0] == "REVOKED"


def test_a_retry_of_a_revoked_task_is_refused() -> None:
    with rig({"t": never}) as made:
        made.broker.revoke(["x"], 60)
        made.broker.publish("producer", 1_000, [Publication("default", message("t", id="x"), delay_ms=30)])
        wait_for(lambda: made.result("x")[0] == "REVOKED")
        wait_for(made.settled_all)
