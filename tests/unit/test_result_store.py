"""What the store keeps, which state wins, and what one finds there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastq import FastQ
from fastq.exceptions import RemoteError, Retry, SecurityError
from fastq.records import StoredResult
from fastq.transports import memory
from tests.servers import RedisServer
from tests.unit.result_rig import store


@pytest.fixture(params=["memory", "sqlite", "redis"])
def app(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FastQ]:
    if request.param == "memory":
        url = f"memory://{request.node.name}"
    elif request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/results.db"
    else:
        server: RedisServer = request.getfixturevalue("redis_server")
        url = server.url
    with FastQ("proj", broker=url, backend=url, key_prefix=f"{time.monotonic_ns()}:", set_as_current=False) as app:
        yield app
    if request.param == "memory":
        memory.reset(request.node.name)


only_memory = pytest.mark.parametrize("app", ["memory"], indirect=True)


def test_a_final_state_is_never_replaced_by_another(app: FastQ) -> None:
    backend = app.backend
    for id, first in (("s", "SUCCESS"), ("f", "FAILURE"), ("r", "REVOKED")):
        backend.store_result(id, "first" if first == "SUCCESS" else ValueError("first"), first)
        for later in ("STARTED", "PROGRESS", "RETRY", "PENDING", "RECEIVED", "GROUP"):
            backend.store_result(id, "later", later)
        assert backend.get_state(id) == first
    for later in ("SUCCESS", "FAILURE", "REVOKED"):
        backend.store_result("s", "later", later)
        assert app.AsyncResult("s").result == "first", "a SUCCESS stays whatever comes"
    backend.mark_as_failure("r", ValueError("late"))
    assert backend.get_state("r") == "REVOKED"
    backend.mark_as_done("f", "in the end")
    assert backend.get_state("f") == "SUCCESS" and backend.get_result("f") == "in the end"
    backend.store_result("new", {"n": 1}, "PROGRESS")
    backend.store_result("new", {"n": 2}, "HALFWAY")
    assert (backend.get_state("new"), backend.get_result("new")) == ("HALFWAY", {"n": 2})


def test_exists_tells_what_waits_from_what_has_a_record(app: FastQ) -> None:
    result = app.AsyncResult("x")
    assert result.state == "PENDING" and not result.exists()
    app.backend.store_result("x", None, "STARTED")
    assert result.exists() and not result.ready()
    app.backend.store_result("x", None, "SUCCESS")
    assert result.get(timeout=5) is None and result.exists()
    app.AsyncResult("x").forget()
    assert not result.exists() and result.state == "SUCCESS", "what has been read is kept here"


def test_many_are_looked_up_at_once(app: FastQ) -> None:
    store(app, "a", 1)
    store(app, "b", ValueError("no"), "FAILURE")
    found = app.backend.get_many(["a", "b", "c"])
    assert [found[id]["status"] for id in "abc"] == ["SUCCESS", "FAILURE", "PENDING"]
    assert found["a"]["result"] == 1 and isinstance(found["b"]["result"], ValueError) and found["c"]["result"] is None
    assert "ValueError: no" in found["b"]["traceback"] and found["a"]["traceback"] is None
    assert "ValueError: no" in (app.backend.get_traceback("b") or "")
    assert app.backend.get_many([]) == {}


@only_memory
def test_a_retry_has_its_reason_and_does_not_end_a_wait(app: FastQ) -> None:
    app.backend.store_result("r", ValueError("busy"), "RETRY")
    result = app.AsyncResult("r")
    assert result.state == "RETRY" and isinstance(result.info, ValueError) and not result.ready()
    assert isinstance(result.maybe_throw(), ValueError), "not raised: it has not ended"
    assert "ValueError: busy" in (result.traceback or "") and result.date_done is None
    app.backend.store_result("r", Retry("later", exc=KeyError("k"), when=3.0), "RETRY")
    reason = app.AsyncResult("r").info
    assert isinstance(reason, Retry) and reason.when == 3.0 and str(reason) == "later" and reason.excs == "KeyError('k')"
    app.backend.store_result("r", 7, "SUCCESS")
    assert result.get(timeout=5) == 7


@only_memory
def test_a_failure_stored_by_hand_keeps_its_meta_and_is_raised_all_the_same(app: FastQ) -> None:
    app.backend.store_result("x", {"why": "because"}, "FAILURE")
    result = app.AsyncResult("x")
    assert result.info == {"why": "because"} and result.failed()
    assert result.get(timeout=5, propagate=False) == {"why": "because"}
    with pytest.raises(RemoteError, match="because"):
        result.get(timeout=5)


@only_memory
def test_a_record_that_names_no_exception_class_is_refused(app: FastQ) -> None:
    from fastq import _core

    body = _core.packb({"type": "system", "module": "os", "args": ["true"], "text": "", "state": None})
    record = _core.encode_result("FAILURE", "application/x-msgpack", body, None, 1, None)
    app.backend.raw.store([StoredResult("x", record)])
    with pytest.raises(SecurityError, match=r"os\.system, which is not an exception class"):
        app.AsyncResult("x").get(timeout=5)


@only_memory
def test_throw_raises_and_celerys_names_without_work_are_there(app: FastQ) -> None:
    result = app.AsyncResult("x")
    with pytest.raises(KeyError):
        result.throw(KeyError("k"))
    assert result.backend is app.backend and result.task_id == "x"
    app.backend.ensure_chords_allowed()
    app.backend.cleanup()
    store(app, "x", 1)
    assert result.get(5, True, 0.1, True, True) == 1, "arguments in Celery's order"
