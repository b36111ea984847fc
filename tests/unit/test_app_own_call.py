"""A class with a ``__call__`` of its own, as Flask and Django projects write it: what is inside it is still the task's run."""

from __future__ import annotations

import secrets
from typing import Any

import pytest

from fastq import FastQ, Task
from fastq.testing import start_worker

seen: list[Any] = []


class Wrapped(Task[..., Any]):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        seen.append("before")
        try:
            return super().__call__(*args, **kwargs)
        finally:
            seen.append("after")


@pytest.fixture
def app() -> FastQ:
    seen.clear()
    app = FastQ("own", broker=f"memory://{secrets.token_hex(4)}", task_cls=Wrapped, set_as_current=False)

    @app.task(name="own.who", bind=True)
    def who(self: Any, depth: int) -> list[Any]:
        inner = self(depth - 1) if depth else []
        assert self.request.task == "own.who"
        return [(self.request.id, self.request.called_directly, self.request.is_eager), *inner]

    return app


def test_in_a_worker_the_request_is_that_of_the_run_and_a_direct_call_inside_has_its_own(app: FastQ) -> None:
    with start_worker(app):
        result = app.tasks["own.who"].delay(1)
        outer, inner = result.get(timeout=20)
    assert tuple(outer) == (result.id, False, False)
    assert tuple(inner) == (None, True, False)
    assert seen == ["before", "before", "after", "after"]


def test_eagerly_too(app: FastQ) -> None:
    result = app.tasks["own.who"].apply((1,))
    outer, inner = result.get()
    assert tuple(outer) == (result.id, False, True)
    assert tuple(inner) == (None, True, False)


def test_called_like_a_function_it_has_no_request_of_a_run(app: FastQ) -> None:
    assert app.tasks["own.who"](0) == [(None, True, False)]
