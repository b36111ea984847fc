"""Producers, workers, supervisors and people in any order: the laws of a broker hold after every step (``tests/broker_machine``).

Short and always the same here. ``FASTQ_LAWS_EXAMPLES=2000`` looks for more, at random; what fails is printed as a program, with the
blob that brings it back.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from fastq.transports.redis import broker as redis_broker
from fastq.transports.sqlite import leases as sqlite_leases
from tests.broker_machine import BrokerMachine
from tests.broker_stores import MemoryView, RedisView, SQLiteView, Store
from tests.servers import RedisServer

#: how many examples; unset: a few, always the same
LONG = int(os.environ.get("FASTQ_LAWS_EXAMPLES", "0"))
#: how many in a few seconds
SHORT = {"redis": 25, "sqlite": 50, "memory": 200}
STEPS = int(os.environ.get("FASTQ_LAWS_STEPS", "40"))


@pytest.fixture(params=["redis", "sqlite", "memory"])
def make(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Store]]:
    # so that a few messages are many steps
    monkeypatch.setattr(redis_broker, "RELEASE_STEP", 2)
    monkeypatch.setattr(sqlite_leases, "STEP", 2)
    match request.param:
        case "redis":
            server: RedisServer = request.getfixturevalue("redis_server")
            with contextlib.closing(server.client()) as client:
                yield lambda: RedisView(server.url, client)
                client.flushall()
        case "sqlite":
            yield lambda: SQLiteView(tmp_path)
        case _:
            yield MemoryView


def test_the_laws_hold_whatever_happens(make: Callable[[], Store], request: pytest.FixtureRequest) -> None:
    run_state_machine_as_test(
        lambda: BrokerMachine(make),
        settings=settings(
            max_examples=LONG or SHORT[request.node.callspec.params["make"]],
            stateful_step_count=STEPS,
            derandomize=not LONG,
            database=None,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
