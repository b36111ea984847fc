"""The gate and what becomes of what it refuses: one settlement each, a result for whoever waits, nothing run."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fastq import _core
from fastq.records import DEAD, Delivery, Settlement
from fastq.serialization import Serializers
from fastq.worker.failures import Failures
from fastq.worker.gate import Gate
from tests.unit.worker_rig import message, rig, wait_for


def never(*args: object) -> None:
    raise AssertionError("this must not run")


REFUSED: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "unregistered": (lambda: message("other", id="x"), "unregistered", "FAILURE"),
    "content type": (lambda: message("t", id="x", content_type="application/x-python-serialize"), "content-disallowed", "FAILURE"),
    "unreadable headers": (lambda: message("t", id="x") + b"\xc0", "undecodable", "FAILURE"),
    "unreadable arguments": (lambda: message("t", id="x", body=b"\xc1"), "undecodable-arguments", "FAILURE"),
    "expired": (lambda: message("t", id="x", expires_ms=1), "", "REVOKED"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_must_not_run_ends_in_one_settlement_and_a_result(what: str) -> None:
    write, reason, state = REFUSED[what]
    with rig({"t": never}) as made:
        made.publish(write())
        wait_for(made.settled_all)
        assert made.result("x")[0] == state
        assert made.dead() == ([reason] if reason else [])
        wait_for(lambda: not len(made.consumer._holdings.held) and made.board.held() == [])


def test_what_is_no_message_at_all_becomes_a_dead_letter() -> None:
    with rig({"t": never}) as made:
        made.publish(b"garbage", b"", b"\xc1\x01garbage")
        wait_for(made.settled_all)
        assert made.dead() == ["undecodable"] * 3


def test_a_refused_message_of_a_batch_does_not_hold_up_its_neighbours() -> None:
    ran: list[int] = []
    with rig({"t": ran.append}, start=False) as made:
        made.publish(message("t", 1), b"garbage", message("nothing"), message("t", 2))
        made.start()
        wait_for(made.settled_all)
        assert ran == [1, 2]


def test_a_refusal_that_fails_itself_is_a_dead_letter() -> None:
    class Broken(Failures):
        def unregistered(self, d: Delivery) -> Settlement:
            raise RuntimeError("cannot describe it")

    failures = Broken(Serializers(), stores=True, errors_even_if_ignored=False, now_ms=lambda: 1)
    refused: list[Settlement] = []
    batch = _core.deliveries("q", ["0:1:0"], [message("t")], _core.Registry([]))
    assert Gate(("application/json",), failures).sort(batch, 1, refused.append) == []
    assert [(s.verdict, s.reason, s.tag) for s in refused] == [(DEAD, "undecodable", "0:1:0")]


def test_a_refused_delivery_cannot_be_given_back_by_the_supervisor() -> None:
    with rig({"t": never}, start=False) as made:
        emitted: list[Settlement] = []
        made.settler.emit = emitted.append
        from fastq.records import Fetched, Leased

        made.consumer._exchange._intake.accept(Fetched((Leased("default", ["0:1:0"], [message("other")]),), 1))
        assert len(emitted) == 1
        assert not made.board.give_back(emitted[0].record)
