"""With results on another server, what has ended is not run again after a crash between storing and settling."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from fastq import FastQ, _core, flow
from fastq.records import DONE, RETRY, StoredResult
from fastq.serialization import MSGPACK
from tests.unit.worker_rig import message, rig, wait_for

_names = itertools.count(1)


@pytest.fixture
def app() -> Iterator[FastQ]:
    n = next(_names)
    made = FastQ("t", broker=f"memory://finished{n}", backend=f"memory://results{n}")
    yield made
    made.close()


def leaf(name: str, id: str) -> bytes:
    return flow.leaf(id, name, "default", 0, MSGPACK, _core.encode_call((), {}))


@pytest.mark.parametrize(("state", "runs"), [("SUCCESS", 0), ("RETRY", 1), (None, 1)])
def test_a_redelivered_task_with_a_final_result_is_settled_without_running(app: FastQ, state: str | None, runs: int) -> None:
    ran: list[Any] = []

    @app.task(name="t")
    def t() -> int:
        ran.append("t")
        return 5

    @app.task(name="next")
    def following(x: int) -> None:
        ran.append(x)

    with rig({}, app=app, start=False) as made:
        assert made.backend is not None
        if state is not None:
            made.backend.store([StoredResult("x", _core.encode_result(state, MSGPACK, _core.packb(5), None, 1, None))])
        made.publish(message("t", id="x", deliveries=1, options={"flow": {"chain": [leaf("next", "y")]}}))
        made.start()
        wait_for(made.settled_all)
        assert ran == ["t"] * runs + [5]
        assert made.result("x")[0] == "SUCCESS"


def test_a_first_delivery_asks_nobody(app: FastQ, monkeypatch: pytest.MonkeyPatch) -> None:
    @app.task(name="t")
    def t() -> int:
        return 5

    with rig({}, app=app, start=False) as made:
        assert made.backend is not None
        asked: list[Any] = []
        monkeypatch.setattr(made.consumer._exchange._intake._finished._backend, "get", asked.append, raising=False)  # type: ignore[union-attr]
        made.publish(message("t", id="x"))
        made.start()
        wait_for(made.settled_all)
        assert asked == []


def test_results_of_tasks_that_cannot_run_any_more_are_stored_there_too(app: FastQ) -> None:
    @app.task(name="t", bind=True, max_retries=1, default_retry_delay=0)
    def t(self: Any) -> None:
        self.retry(exc=ValueError("x"))

    with rig({}, app=app) as made:
        made.publish(message("t", id="x", options={"flow": {"chain": [leaf("t", "z"), leaf("t", "y")]}}))
        wait_for(made.settled_all)
        assert [made.result(id)[0] for id in "xyz"] == ["FAILURE"] * 3
        verdicts = [s.verdict for _, batch in made.trouble.settled for s in batch]
        assert verdicts[0] == RETRY and DONE not in verdicts
