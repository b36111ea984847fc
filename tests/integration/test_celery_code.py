"""Code as it is written for Celery: what it relies on holds with nothing changed but the import."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from fastq import FastQ, chain, chord, group
from fastq.exceptions import ChordError, ImproperlyConfigured, TaskRevokedError
from fastq.result import AsyncResult, GroupResult, result_from_tuple
from fastq.testing import start_worker
from fastq.transports import memory

_numbers = itertools.count(1)
DEADLINE_S = 30.0


@pytest.fixture(params=["msgpack", "json"])
def app(request: pytest.FixtureRequest) -> Iterator[FastQ]:
    name = f"celerycode{next(_numbers)}"
    app = FastQ(
        "code", broker=f"memory://{name}", set_as_current=False, result_serializer=request.param, accept_content=["msgpack", "json"]
    )

    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="total")
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    @app.task(name="fail")
    def fail(*args: Any) -> None:
        raise LookupError("no", *args)

    @app.task(name="begin")
    def begin(kind: str) -> Any:
        return chain(add.s(1, 1), add.s(2))() if kind == "chain" else group(add.s(1, 1), add.s(2, 2))()

    @app.task(name="vanish", bind=True)
    def vanish(self: Any) -> None:
        raise self.replace(chain())

    with app, start_worker(app, pool="threads", concurrency=2):
        yield app
    memory.reset(name)


@pytest.mark.parametrize("kind", ["chain", "group"])
def test_a_result_that_a_task_returns_arrives_as_its_tuple(app: FastQ, kind: str) -> None:
    told = app.tasks["begin"].delay(kind).get(timeout=DEADLINE_S)
    assert type(told) is list and type(told[0]) is list
    result: Any = result_from_tuple(told, app)
    assert isinstance(result, AsyncResult if kind == "chain" else GroupResult)
    assert result.get(timeout=DEADLINE_S) == (4 if kind == "chain" else [2, 4])
    if isinstance(result, AsyncResult):
        assert isinstance(result.parent, AsyncResult)
        assert result.parent.get(timeout=DEADLINE_S) == 2


def test_get_of_a_chord_raises_what_its_header_raised(app: FastQ) -> None:
    add, fail, total = app.tasks["add"], app.tasks["fail"], app.tasks["total"]
    result: Any = chord([add.s(1, 1), fail.s()], total.s())()
    with pytest.raises(LookupError, match="no"):
        result.get(timeout=DEADLINE_S)
    with pytest.raises(LookupError, match="no"):
        asyncio.run(result.aget(timeout=DEADLINE_S))
    with pytest.raises(LookupError, match="no"):
        result.maybe_throw()


def test_the_result_of_a_chord_that_failed_is_the_error_of_its_body(app: FastQ) -> None:
    fail, total = app.tasks["fail"], app.tasks["total"]
    result: Any = chord([fail.s()], total.s())()
    told = "Dependency " + result.parent[0].id + r" raised LookupError\('no'\)"
    with pytest.raises(ChordError, match=told):
        result.get(timeout=DEADLINE_S, follow_parents=False)
    with pytest.raises(ChordError, match=told):
        app.AsyncResult(result.id).get(timeout=DEADLINE_S)
    assert isinstance(result.result, ChordError) and isinstance(result.get(propagate=False), ChordError)


def test_the_error_of_an_inner_header_is_raised_by_what_waits_for_it(app: FastQ) -> None:
    add, fail, total = app.tasks["add"], app.tasks["fail"], app.tasks["total"]
    inner = chord([add.s(1, 1), chain(add.s(1, 1), fail.s(), add.s(1))], total.s())
    outer: Any = chord([add.s(1, 1), inner], total.s())()
    behind: Any = chain(chord([inner.clone()], total.s()), add.s(1))()
    for result in (outer, behind):
        with pytest.raises(LookupError, match="no"):
            result.get(timeout=DEADLINE_S)


def test_a_chord_whose_header_keeps_no_results_raises_the_error_of_its_body(app: FastQ) -> None:
    result: Any = chord([app.tasks["fail"].s().set(ignore_result=True)], app.tasks["total"].s())()
    with pytest.raises(ChordError):
        result.get(timeout=DEADLINE_S)


def test_tasks_are_taken_for_signatures_in_a_header(app: FastQ) -> None:
    add, total = app.tasks["add"], app.tasks["total"]
    result: Any = chain(group(add.s(1, 1), add.s(2, 2)), chord([total, total], total.s()))()
    assert result.get(timeout=DEADLINE_S) == 12


def test_a_task_cannot_be_replaced_with_an_empty_chain(app: FastQ) -> None:
    result: Any = chain(app.tasks["add"].s(1, 1), app.tasks["vanish"].si())()
    with pytest.raises(ImproperlyConfigured, match="Cannot replace with an empty chain"):
        result.get(timeout=DEADLINE_S)


def test_throw_is_taken_by_apply_async_and_heard_where_it_runs_at_once(app: FastQ) -> None:
    add, fail = app.tasks["add"], app.tasks["fail"]
    assert add.apply_async((2, 2), throw=True).get(timeout=DEADLINE_S) == 4
    assert add.s(2, 2).apply_async(throw=True).get(timeout=DEADLINE_S) == 4
    app.conf.task_always_eager = True
    assert fail.apply_async().failed()
    with pytest.raises(LookupError, match="no"):
        fail.apply_async(throw=True)


def test_a_revoked_member_is_what_the_chord_raises(app: FastQ) -> None:
    add, total = app.tasks["add"], app.tasks["total"]
    result: Any = chord([add.s(1, 1), add.s(2, 2).set(countdown=60)], total.s())()
    result.parent[1].revoke()
    with pytest.raises(TaskRevokedError):
        result.get(timeout=DEADLINE_S)
