"""Sets of results: which are in them, in what order their values come, how they are waited for."""

from __future__ import annotations

import asyncio
import copy
import pickle
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from fastq import FastQ, ResultSet
from fastq.exceptions import TimeoutError
from fastq.result import AsyncResult, EagerResult, GroupResult
from fastq.transports import memory
from fastq.waiting import mailroom
from tests.unit.result_rig import sent, store


@pytest.fixture
def app(request: pytest.FixtureRequest) -> Iterator[FastQ]:
    with FastQ("proj", broker=f"memory://{request.node.name}", set_as_current=False) as app:
        yield app
    memory.reset(request.node.name)


@pytest.fixture(autouse=True)
def no_slow_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailroom, "POLL_FIRST_S", 600.0)


def until(condition: Any) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_result_is_in_a_set_once(app: FastQ) -> None:
    a, b, c = (app.AsyncResult(id) for id in "abc")
    results: ResultSet[Any] = ResultSet([a], app)
    results.add(a)
    results.add(app.AsyncResult("a"))
    results.update([a, b, app.AsyncResult("b"), c])
    assert [r.id for r in results] == ["a", "b", "c"]
    results.remove("b")
    results.remove(c)
    with pytest.raises(KeyError):
        results.remove(c)
    results.discard(c)
    results.discard("a")
    assert len(results) == 0 and not results
    results.update([a, b])
    results.clear()
    assert results.results == []


def test_join_keeps_the_order_of_the_tasks_and_iterate_that_of_their_ends(app: FastQ) -> None:
    results = ResultSet(sent(app, "a", "b", "c"), app)
    for id, value in (("c", 3), ("a", 1), ("b", 2)):
        store(app, id, value)
    assert results.join(timeout=5) == [1, 2, 3]
    assert results.join_native(timeout=5) == results.get(timeout=5) == [1, 2, 3]
    assert sorted(results.iterate(timeout=5)) == [1, 2, 3]
    assert {id: meta["result"] for id, meta in results.iter_native(timeout=5)} == {"a": 1, "b": 2, "c": 3}
    assert results.supports_native_join


def test_get_raises_a_failure_before_the_others_have_ended_and_join_in_its_turn(app: FastQ) -> None:
    results = ResultSet(sent(app, "a", "b", "c"), app)
    store(app, "b", ValueError("no"), "FAILURE")
    with pytest.raises(ValueError, match="no"):
        results.get(timeout=20)
    with pytest.raises(ValueError, match="no"):
        asyncio.run(results.aget(timeout=20))
    with pytest.raises(TimeoutError):
        results.join(timeout=0.01)
    store(app, "a", 1, told=True)
    with pytest.raises(ValueError, match="no"):
        results.join(timeout=20)
    with pytest.raises(TimeoutError):
        results.get(timeout=0.01, propagate=False)
    store(app, "c", 3, told=True)
    values: list[Any] = results.get(timeout=20, propagate=False)
    assert (values[0], type(values[1]), values[2]) == (1, ValueError, 3)


def test_a_set_is_as_far_as_its_members(app: FastQ) -> None:
    results = ResultSet(sent(app, "a", "b"), app)
    assert (results.ready(), results.successful(), results.failed(), results.waiting()) == (False, False, False, True)
    assert results.completed_count() == 0
    results.maybe_throw()
    store(app, "a", 1)
    assert (results.ready(), results.completed_count()) == (False, 1)
    store(app, "b", KeyError("k"), "FAILURE")
    assert (results.ready(), results.successful(), results.failed(), results.waiting()) == (True, False, True, False)
    assert results.completed_count() == 1
    with pytest.raises(KeyError):
        results.maybe_throw()
    results.maybe_throw(propagate=False)
    results.forget()
    assert not app.AsyncResult("a").exists() and not results.ready()


def test_a_callback_takes_the_values_instead_of_the_caller(app: FastQ) -> None:
    results = ResultSet(sent(app, "a", "b"), app)
    store(app, "b", 2)
    store(app, "a", 1)
    for wait in (results.get, results.join, lambda **kwargs: asyncio.run(results.aget(**kwargs))):
        seen: dict[str, Any] = {}
        assert wait(timeout=5, callback=lambda id, value, seen=seen: seen.update({id: value})) == []  # type: ignore[call-arg]
        assert seen == {"a": 1, "b": 2}
    store(app, "a", 1)
    late = ResultSet(sent(app, "late"), app)
    with pytest.raises(TimeoutError):
        late.get(timeout=0.01, callback=lambda id, value: None)


def test_a_set_within_a_set_is_a_list_of_values(app: FastQ) -> None:
    a, b, c, d = sent(app, *"abcd")
    ignored: AsyncResult[Any] = AsyncResult("i", app, ignored=True)
    inner: Any = GroupResult("inner", [b, c], app=app)
    results: ResultSet[Any] = ResultSet([a, inner, ignored, d], app)
    assert not results.ready()
    for value, id in enumerate("abc"):
        store(app, id, value)
    assert results.completed_count() == 3, "the inner set counts as one"
    with pytest.raises(TimeoutError):
        results.get(timeout=0.01)
    store(app, "d", 3, told=True)
    assert results.get(timeout=5) == results.join(timeout=5) == [0, [1, 2], None, 3]
    assert asyncio.run(results.aget(timeout=5)) == [0, [1, 2], None, 3]
    assert results.successful()
    assert {r.id for r in results.iter_completed(timeout=5)} == {"a", "b", "c", "d", "i"}
    results.forget()
    assert not app.AsyncResult("c").exists()


def test_what_has_run_here_needs_no_backend() -> None:
    results: ResultSet[Any] = ResultSet([EagerResult("a", 1, "SUCCESS"), EagerResult("b", ValueError("x"), "FAILURE")])
    assert results.ready() and results.failed() and results.completed_count() == 1
    values = results.get(propagate=False)
    assert values[0] == 1 and isinstance(values[1], ValueError)
    assert [id for id, _ in results.iter_native()] == ["a", "b"]
    results.forget()


def test_results_that_come_while_others_are_worked_on_are_not_lost(app: FastQ) -> None:
    results = ResultSet(sent(app, *(f"{i}" for i in range(50))), app)
    store(app, "0", 0)
    seen = []
    for result in results.iter_completed(timeout=20):
        seen.append(result.id)
        # the next one comes only when this one has been taken, by another thread that waits itself
        following = len(seen)
        if following < 50:
            store(app, f"{following}", following, told=True)
            other = threading.Thread(target=results[following].get, args=(20,))
            other.start()
            other.join(20)
            assert not other.is_alive()
    assert seen == [f"{i}" for i in range(50)]


def test_two_who_wait_for_one_set_both_get_all(app: FastQ) -> None:
    results = ResultSet(sent(app, *(f"{i}" for i in range(300))), app)
    got: list[list[Any]] = []
    threads = [
        threading.Thread(target=lambda: got.append(results.get(timeout=20))),
        threading.Thread(target=lambda: got.append(sorted(results.iterate(timeout=20)))),
        threading.Thread(target=lambda: got.append(asyncio.run(results.aget(timeout=20)))),
    ]
    for thread in threads:
        thread.start()
    until(lambda: app.backend.waiter._room().tickets)
    for i in range(300):
        store(app, f"{i}", i, told=True)
    for thread in threads:
        thread.join(20)
    assert got == [list(range(300))] * 3
    assert not app.backend.waiter._room().tickets and not app.backend.waiter._room().waiting


def test_ten_thousand_results_are_few_reads_and_little_work(app: FastQ, monkeypatch: pytest.MonkeyPatch) -> None:
    n = 10_000
    results = ResultSet(sent(app, *(f"{i}" for i in range(n))), app)
    for i in range(n - 1):
        store(app, f"{i}", i)
    reads: list[int] = []
    read = app.backend.records

    def counted(ids: Sequence[str]) -> list[bytes | None]:
        reads.append(len(ids))
        return read(ids)

    monkeypatch.setattr(app.backend.waiter, "_read", counted)
    asked: list[str] = []
    arrived = AsyncResult.arrived
    monkeypatch.setattr(AsyncResult, "arrived", lambda self: asked.append(self.id) or arrived(self))
    waiting = threading.Thread(target=results.join, args=(30,))
    waiting.start()
    until(lambda: len(reads) >= 10)
    store(app, f"{n - 1}", n - 1, told=True)
    waiting.join(30)
    assert not waiting.is_alive()
    assert len(reads) <= 11, "one call for a thousand"
    assert len(asked) < 20 * n, "the work per result does not grow with their number"


def test_on_interval_and_on_message_are_called_while_waiting(app: FastQ) -> None:
    results = ResultSet(sent(app, "a", "b"), app)
    store(app, "a", {"done": 1}, "PROGRESS")
    told: list[tuple[str, str]] = []
    ticks: list[int] = []

    def tick() -> None:
        ticks.append(1)
        store(app, ["a", "b"][len(ticks) % 2], len(ticks), told=True)

    values = results.get(
        timeout=20, interval=0.005, on_interval=tick, on_message=lambda meta: told.append((meta["task_id"], meta["status"]))
    )
    assert len(ticks) >= 2 and len(values) == 2
    assert sorted(told) == [("a", "PROGRESS"), ("a", "SUCCESS"), ("b", "SUCCESS")]
    one = sent(app, "c")[0]
    store(app, "c", {"done": 1}, "PROGRESS")
    seen: list[Any] = []
    with pytest.raises(TimeoutError):
        one.get(timeout=0.03, interval=0.005, on_message=seen.append)
    assert [(meta["status"], meta["result"]) for meta in seen] == [("PROGRESS", {"done": 1})], "each state once"
    store(app, "c", 5)
    assert one.get(timeout=20, interval=0.005, on_message=seen.append) == 5
    assert [meta["status"] for meta in seen] == ["PROGRESS", "SUCCESS"]


def test_waiting_inside_a_task_is_refused(app: FastQ, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastq.waiting import blocking

    class Running:
        @staticmethod
        def get() -> object:
            return object()

    monkeypatch.setattr(blocking, "current", Running)
    results = ResultSet(sent(app, "a"), app)
    waits: list[Any] = [
        results.get,
        results.join,
        lambda: next(results.iterate()),
        lambda: next(results.iter_native()),
        lambda: next(results.iter_completed()),
        lambda: asyncio.run(results.aget()),
    ]
    for wait in waits:
        with pytest.raises(RuntimeError, match=r"Never call result\.get"):
            wait()
    store(app, "a", 1)
    assert results.ready() and results.get() == [1], "what is there is not waited for"


@pytest.mark.parametrize("make", [lambda r: r, copy.copy, lambda r: pickle.loads(pickle.dumps(r))])
def test_copies_name_the_same_tasks(app: FastQ, make: Any) -> None:
    app.set_current()
    group: GroupResult[Any] = GroupResult("g", [app.AsyncResult("a")], app.AsyncResult("p"), app)
    again = make(group)
    assert again == group and again.parent.id == "p" and hash(again) == hash(group)
