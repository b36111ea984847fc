"""``fastq.worker.state``: a worker process knows what it has, every other process says whom to ask."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import pytest

from fastq import FastQ
from fastq.testing import start_worker
from fastq.worker import state
from tests.workers import eventually


def test_a_process_with_a_worker_sees_its_tasks() -> None:
    app = FastQ("stateful", broker="memory://stateful", backend="memory://stateful")
    gate, seen = threading.Event(), []

    @app.task(name="stateful.look")
    def look() -> None:
        seen.append((state.active_requests, state.requests))
        gate.wait(30)

    began_s = time.time()
    with start_worker(app, pool="threads", concurrency=2, hostname="t1@here"):
        results = [look.delay() for _ in range(2)]
        eventually(lambda: len(seen) == 2, "both run")
        active = state.active_requests
        ids = {result.id for result in results}
        assert {one.id for one in active} == set(state.requests) == ids
        assert state.reserved_requests == active
        for one in active:
            assert (one.task_name, one.hostname, one.worker_pid, one.task_id) == ("stateful.look", "t1@here", os.getpid(), one.id)
            assert one.time_start is not None and began_s - 1 < one.time_start < time.time() + 1
        assert state.total_count == {"stateful.look": 2} and state.all_total_count == [2]
        app.control.revoke("never-sent")
        gate.set()
        for result in results:
            result.get(timeout=30)
        eventually(lambda: state.revoked == {"never-sent"}, "the next fetch has told of it")
        assert state.active_requests == set() and state.total_count["stateful.look"] == 2
    with pytest.raises(AttributeError, match=r"runs no tasks.*inspect\(\)\.active\(\)"):
        _ = state.active_requests
    app.close()


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("reserved_requests", r"inspect\(\).active\(\) and reserved"),
        ("total_count", r"inspect\(\).stats"),
        ("revoked", r"inspect\(\).revoked"),
        ("should_stop", "worker_shutting_down"),
        ("task_reserved", "signal task_received"),
        ("Persistent", "kept in the broker"),
        ("anything", "has no attribute 'anything'"),
    ],
)
def test_what_cannot_be_known_is_no_attribute(name: str, advice: str) -> None:
    with pytest.raises(AttributeError, match=advice):
        getattr(state, name)
    assert not hasattr(state, name)


def test_the_software_is_named() -> None:
    known: dict[str, Any] = state.SOFTWARE_INFO
    assert known["sw_ident"] == "fastq" and set(known) == {"sw_ident", "sw_ver", "sw_sys"}
