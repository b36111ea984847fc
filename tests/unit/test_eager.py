"""Tasks that run here and now: ``apply()``, and ``task_always_eager``."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from fastq import FastQ, Task, signals
from fastq.eager_result import EagerResult
from fastq.exceptions import EncodeError, Ignore, MaxRetriesExceededError, Reject
from fastq.transports.memory.stores import reset


@pytest.fixture
def app() -> Iterator[FastQ]:
    with FastQ("proj", broker="memory://eager", set_as_current=False) as app:
        yield app
    reset("eager")


@pytest.fixture
def eager(app: FastQ) -> FastQ:
    app.conf.task_always_eager = True
    return app


def add(x: int, y: int) -> int:
    return x + y


def test_apply_runs_the_task_and_returns_its_result(app: FastQ) -> None:
    result = app.task(add).apply((1, 2))
    assert isinstance(result, EagerResult)
    assert (result.get(), result.state, result.successful(), result.ready()) == (3, "SUCCESS", True, True)
    with pytest.raises(TypeError, match="missing a required argument"):
        app.task(add).apply((1,))
    with pytest.raises(TypeError, match="unexpected option 'colour'"):
        app.task(add).apply((1, 2), colour=1)


def test_the_request_says_that_it_is_eager(app: FastQ) -> None:
    @app.task(bind=True)
    def f(self: Task[..., Any], x: int) -> Any:
        r = self.request
        where = r.delivery_info["is_eager"]
        return r.id, r.is_eager, r.called_directly, list(r.args), r.root_id, r.parent_id, r.who, r.retries, where

    result = f.apply((1,), task_id="me", headers={"who": "you"}, retries=2)
    assert result.id == "me"
    assert result.get() == ("me", True, False, [1], "me", None, "you", 2, True)
    assert f.request.id is None and f.request.called_directly


def test_a_failure_is_kept_or_raised(app: FastQ) -> None:
    @app.task
    def fail() -> None:
        raise ValueError("no")

    result = fail.apply()
    assert result.failed() and isinstance(result.result, ValueError) and "ValueError: no" in str(result.traceback)
    with pytest.raises(ValueError, match="no"):
        result.get()
    with pytest.raises(ValueError, match="no"):
        fail.apply(throw=True)
    app.conf.task_eager_propagates = True
    with pytest.raises(ValueError, match="no"):
        fail.apply()
    assert fail.apply(throw=False).failed()


def test_hooks_and_signals_are_told_in_order(app: FastQ) -> None:
    told: list[Any] = []

    class Told(Task[..., Any]):
        def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
            told.append(("before", task_id))

        def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
            told.append(("success", retval))
            raise RuntimeError("logged, and nothing else")

        def on_retry(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
            told.append(("retry", str(exc)))

        def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
            told.append(("failure", str(exc), "ValueError" in einfo.traceback))

        def after_return(self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
            told.append(("after", status))

    @app.task(base=Told, max_retries=1, autoretry_for=(ValueError,))
    def f(ok: bool) -> int:
        if not ok:
            raise ValueError("no")
        return 1

    def prerun(**kwargs: Any) -> None:
        told.append("prerun")

    def postrun(state: str, **kwargs: Any) -> None:
        told.append(f"postrun {state}")

    signals.task_prerun.connect(prerun)
    signals.task_postrun.connect(postrun)
    try:
        assert f.apply((True,), task_id="t").get() == 1
        assert told == ["prerun", ("before", "t"), ("success", 1), ("after", "SUCCESS"), "postrun SUCCESS"]
        told.clear()
        assert f.apply((False,), task_id="t").failed()
    finally:
        signals.task_prerun.disconnect(prerun)
        signals.task_postrun.disconnect(postrun)
    assert told == [
        "prerun", ("before", "t"), ("retry", "no"), ("after", "RETRY"), "postrun RETRY",
        "prerun", ("before", "t"), ("failure", "no", True), ("after", "FAILURE"), "postrun FAILURE",
    ]  # fmt: skip


def test_a_retry_runs_again_under_the_same_id(app: FastQ) -> None:
    seen: list[Any] = []

    @app.task(bind=True, max_retries=3)
    def f(self: Task[..., Any], x: int) -> int:
        seen.append((self.request.id, self.request.retries, x))
        if x < 2:
            raise self.retry(args=(x + 1,), countdown=1_000)
        return x

    assert f.apply((0,), task_id="t").get() == 2
    assert seen == [("t", 0, 0), ("t", 1, 1), ("t", 2, 2)]

    @app.task(bind=True, max_retries=1)
    def never(self: Task[..., Any]) -> None:
        raise self.retry(countdown=5)

    with pytest.raises(MaxRetriesExceededError, match=r"never\["):
        never.apply().get()


def test_how_else_a_task_may_end(app: FastQ) -> None:
    @app.task
    def end(exc: Any) -> None:
        raise exc

    assert end.apply((Ignore(),)).state == "IGNORED"
    assert end.apply((Reject("no"),)).state == "REJECTED"

    added = app.task(add)

    @app.task(bind=True)
    def replaced(self: Task[..., Any]) -> None:
        raise self.replace(added.s(2, 3))

    assert replaced.apply(task_id="t").get() == 5


def test_links_and_errbacks_run_behind_it(app: FastQ) -> None:
    seen: list[Any] = []

    @app.task
    def note(*args: Any) -> None:
        seen.append(args)

    @app.task
    def old(task_id: str) -> None:
        seen.append(task_id)

    @app.task
    def new(request: Any, exc: BaseException, traceback: str) -> None:
        seen.append((request.id, str(exc), "ValueError: no" in traceback))

    @app.task
    def fail() -> None:
        raise ValueError("no")

    app.task(add).apply((1, 2), link=[note.s("more"), note.si("alone")])
    assert seen == [(3, "more"), ("alone",)]
    seen.clear()
    fail.apply(task_id="t", link=note.s(), link_error=[old.s(), new.s()])
    assert seen == ["t", ("t", "no", True)]


# --- task_always_eager ---


def test_every_way_of_sending_runs_here(eager: FastQ) -> None:
    task = eager.task(add)
    assert task.delay(1, 2).get() == 3
    assert task.apply_async((1, 2), countdown=100, queue="any", task_id="t").id == "t"
    assert task.delay_many([(1, 2), (3, 4)]).get() == [3, 7]
    with pytest.raises(TypeError, match="call 1: "):
        task.delay_many([(1, 2), (3,)])

    async def main() -> Any:
        one = await task.adelay(1, 2)
        two = await task.aapply_async((3, 4))
        many = await task.adelay_many([(5, 6)])
        return await one.aget(), await two.aget(), await many.aget()

    assert asyncio.run(main()) == (3, 7, [11])


def test_arguments_travel_through_the_serializer(eager: FastQ) -> None:
    @eager.task
    def kinds(*args: Any) -> list[str]:
        return [type(arg).__name__ for arg in args]

    assert kinds.delay((1,), datetime(2024, 1, 1)).get() == ["tuple", "datetime"]
    eager.conf.task_serializer = "json"
    assert kinds.delay((1,)).get() == ["list"]
    with pytest.raises(EncodeError, match="object"):
        kinds.delay(object())


def test_a_coroutine_runs_to_its_end_wherever_it_is_called(eager: FastQ) -> None:
    @eager.task
    async def double(x: int) -> int:
        await asyncio.sleep(0)
        return 2 * x

    async def main() -> Any:
        return (await double.adelay(1)).get(), double.delay(2).get()

    assert double.delay(3).get() == 6 and asyncio.run(main()) == (2, 4)


def test_send_task_is_sent_all_the_same_and_says_so(eager: FastQ) -> None:
    task = eager.task(add)
    with pytest.warns(UserWarning, match="task_always_eager is set, but send_task"):
        result = eager.send_task(task.name, (1, 2))
    assert not isinstance(result, EagerResult)


def test_tasks_that_call_tasks_are_their_parents(eager: FastQ) -> None:
    @eager.task(bind=True)
    def inner(self: Task[..., Any]) -> Any:
        return self.request.root_id, self.request.parent_id

    @eager.task
    def outer() -> Any:
        return inner.delay().result

    result = outer.apply_async(task_id="top")
    assert result.get() == ("top", "top")
    assert [child.get() for child in result.children or ()] == [("top", "top")]


def test_results_are_stored_if_the_settings_say_so(eager: FastQ) -> None:
    @eager.task(bind=True)
    def f(self: Task[..., Any]) -> str:
        self.update_state(state="PROGRESS", meta=1)
        return "kept"

    assert not eager.AsyncResult(f.delay().id).exists()
    eager.conf.task_store_eager_result = True
    assert eager.AsyncResult(f.delay().id).get(timeout=1) == "kept"
    f.ignore_result = True
    assert not eager.AsyncResult(f.delay().id).exists()


def test_models_are_validated_and_dumped(eager: FastQ) -> None:
    pydantic = pytest.importorskip("pydantic")

    class Point(pydantic.BaseModel):  # type: ignore[misc,name-defined]
        x: int

    def double(point, more=None):  # type: ignore[no-untyped-def]
        assert isinstance(point, Point)
        return Point(x=2 * point.x)

    double.__annotations__ = {"point": Point, "more": Point | None, "return": Point}
    task = eager.task(pydantic=True)(double)
    assert task.delay({"x": "3"}).get() == {"x": 6}
    assert task.delay(Point(x=4)).get() == {"x": 8}
    assert task.delay({"x": "no"}).failed()
