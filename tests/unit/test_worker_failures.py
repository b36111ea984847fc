"""What an exception of a task becomes: FAILURE, REVOKED or a dead letter with its reason; never a lost delivery."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from fastq import _core
from fastq._core import Delivery, Entry, Registry, Runner
from fastq.exceptions import DecodeError, EncodeError, ResultTooLarge, TaskRevokedError
from fastq.pools.base import TaskCancelled, TaskKilled
from fastq.records import DEAD, DONE, Settlement
from fastq.remote import decode_exception, encode_exception
from fastq.serialization import Serializers
from fastq.worker.failures import Failures
from tests.unit.worker_rig import message, rig, wait_for

SERIALIZERS = Serializers()


def failures(*, stores: bool = True, even_if_ignored: bool = False) -> Failures:
    return Failures(SERIALIZERS, stores=stores, errors_even_if_ignored=even_if_ignored, now_ms=lambda: 7)


def delivery(ignore_result: bool = False) -> Delivery:
    registry = Registry([Entry("t", print, ignore_result=ignore_result)])
    return _core.deliveries("q", ["0:1:0"], [message("t", id="x")], registry)[0]


def state(s: Settlement) -> str:
    assert s.result is not None
    return _core.decode_result(s.result)[0]


def error(s: Settlement) -> Exception:
    assert s.result is not None
    _, content_type, body, traceback, _, _ = _core.decode_result(s.result)
    return decode_exception(content_type, body, traceback, SERIALIZERS)


@pytest.mark.parametrize("raised", [TaskCancelled(), TaskKilled(), asyncio.CancelledError()])
def test_a_task_ended_from_outside_is_revoked_not_failed(raised: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    s = failures().on_error(delivery(), raised, 1)
    assert (s.verdict, state(s)) == (DONE, "REVOKED")
    assert isinstance(error(s), TaskRevokedError) and str(error(s)) == "terminated"
    assert [r.levelno for r in caplog.records] == [logging.WARNING]


class GreenletExit(BaseException):
    pass


@pytest.mark.parametrize("raised", [KeyboardInterrupt(), SystemExit(3), GreenletExit(), ValueError("v"), MemoryError()])
def test_whatever_a_task_raises_itself_is_a_failure(raised: BaseException) -> None:
    s = failures().on_error(delivery(), raised, 1)
    assert (s.verdict, s.reason, state(s)) == (DEAD, "failed", "FAILURE")


@pytest.mark.parametrize(
    ("raised", "reason"),
    [
        (EncodeError("e"), "unserializable-result"),
        (DecodeError("d"), "undecodable-arguments"),
        (ResultTooLarge("r"), "result-too-large"),
    ],
)
def test_what_the_worker_raises_around_a_task_is_told_from_what_the_task_raises(raised: Exception, reason: str) -> None:
    assert failures().on_error(delivery(), raised, 1).reason == reason
    try:
        raise raised
    except Exception as exc:
        assert failures().on_error(delivery(), exc, 1).reason == "failed"


class Nasty(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


@pytest.mark.parametrize("raised", [Nasty("x"), ValueError("\udcff"), ValueError(object()), OSError(2, "\ud800", "f")])
def test_an_exception_that_cannot_be_told_is_stored_all_the_same(raised: Exception) -> None:
    s = failures().on_error(delivery(), raised, 1)
    assert (s.verdict, s.reason, state(s)) == (DEAD, "failed", "FAILURE") and s.detail is not None
    assert isinstance(_core.unpackb(s.detail), dict)


def test_a_strike_while_a_failure_is_written_ends_the_task_as_revoked(monkeypatch: pytest.MonkeyPatch) -> None:
    struck: list[bool] = []

    def strike(*args: Any) -> Any:
        if not struck:
            struck.append(True)
            raise TaskKilled()
        return encode_exception(*args)

    monkeypatch.setattr("fastq.worker.failures.encode_exception", strike)
    assert state(failures().on_error(delivery(), ValueError(), 1)) == "REVOKED"


def test_an_error_while_a_failure_is_written_becomes_a_dead_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*args: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr("fastq.worker.failures.encode_exception", out_of_memory)
    out: list[Settlement] = []

    def fail() -> None:
        raise ValueError("v")

    runner = Runner(emit=out.append, loads=SERIALIZERS.loads, dumps=lambda e, v: ("", b""), on_error=failures().on_error)
    d = _core.deliveries("q", ["0:1:0"], [message("t")], Registry([Entry("t", fail)]))[0]
    assert runner.run(0, d)
    assert [(s.verdict, s.reason) for s in out] == [(DEAD, "internal-error")]


@pytest.mark.parametrize(
    ("stores", "ignored", "even", "kept"),
    [(True, False, False, 1), (True, True, False, 0), (True, True, True, 1), (False, False, True, 0)],
)
def test_errors_are_stored_where_they_are_wanted(stores: bool, ignored: bool, even: bool, kept: int) -> None:
    made = failures(stores=stores, even_if_ignored=even)
    for s in (
        made.on_error(delivery(ignored), ValueError(), 1),
        made.on_error(delivery(ignored), TaskKilled(), 1),
        made.expired(delivery(ignored)),
    ):
        assert (s.result is not None) == bool(kept)


def test_a_failing_task_ends_in_a_result_and_a_dead_letter() -> None:
    def fail() -> None:
        raise LookupError("not here")

    with rig({"t": fail}) as made:
        made.publish(message("t", id="x"))
        kind, _, _, traceback, _, _ = made.result("x")
        assert kind == "FAILURE" and traceback is not None and "LookupError: not here" in traceback
        wait_for(made.settled_all)
        assert made.dead() == ["failed"]


def test_a_failure_whose_result_is_ignored_leaves_only_a_dead_letter() -> None:
    def fail() -> None:
        raise LookupError

    with rig({"t": fail}, entry={"ignore_result": True}) as made:
        made.publish(message("t", id="x"))
        wait_for(made.settled_all)
        assert made.dead() == ["failed"] and made.backend is not None and made.backend.get(["x"]) == [None]


def test_a_cancelled_coroutine_is_revoked() -> None:
    async def wait() -> None:
        await asyncio.sleep(60)

    with rig({"t": wait}, pool="asyncio", slots=2, entry={"is_async": True}) as made:
        made.publish(message("t", id="x"))
        wait_for(lambda: made.pool.cancel("x", hard=True), "the start")
        assert made.result("x")[0] == "REVOKED"
        wait_for(made.settled_all)
        assert made.dead() == []
