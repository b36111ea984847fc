"""When a task is tried again, how much later, and what it raises where it is not."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fastq import FastQ
from fastq.context import Context
from fastq.exceptions import Ignore, MaxRetriesExceededError, Reject, Retry
from fastq.retries import Again, after, backoff_s, retry

_names = itertools.count(1)


@pytest.fixture
def app() -> Iterator[FastQ]:
    url = f"memory://retries{next(_names)}"
    made = FastQ("t", broker=url, backend=url)
    yield made
    made.close()


def request(task: Any, retries: int = 0, **values: Any) -> Context:
    return Context(task, id="x", retries=retries, args=[1], kwargs={"k": 2}, called_directly=False, is_eager=False, **values)


def test_backoff_doubles_up_to_its_maximum() -> None:
    assert [backoff_s(1, n, maximum_s=600, jitter=False) for n in range(4)] == [1, 2, 4, 8]
    assert [backoff_s(0.5, n, maximum_s=3, jitter=False) for n in range(5)] == [0.5, 1, 2, 3, 3]
    assert backoff_s(1, 10_000, maximum_s=600, jitter=False) == 600


def test_full_jitter_is_anything_between_nothing_and_that() -> None:
    delays = [backoff_s(1, 3, maximum_s=600, jitter=True) for _ in range(500)]
    assert 0 <= min(delays) < 2 and 6 < max(delays) <= 8


@pytest.mark.parametrize(
    ("options", "when"),
    [
        ({}, 180),
        ({"default_retry_delay": 5}, 5),
        ({"retry_kwargs": {"countdown": 7}}, 7),
        ({"retry_backoff": True, "retry_jitter": False}, 4),
        ({"retry_backoff": 3, "retry_jitter": False}, 12),
        ({"retry_backoff": 3, "retry_backoff_max": 10, "retry_jitter": False}, 10),
    ],
)
def test_automatic_retries_come_when_the_options_say(app: FastQ, options: dict[str, Any], when: float) -> None:
    task = app.task(name="t", autoretry_for=(ValueError,), **options)(lambda: None)
    made = after(task, request(task, 2), ValueError("v"))
    assert isinstance(made, Retry) and made.when == when and repr(made.exc) == "ValueError('v')"


def test_options_may_be_attributes_of_a_class(app: FastQ) -> None:
    from fastq import Task

    class Patient(Task[..., Any]):
        autoretry_for = (ValueError,)
        max_retries = None
        retry_backoff = 2
        retry_jitter = False

    task = app.task(name="t", base=Patient)(lambda: None)
    made = after(task, request(task, 7), ValueError())
    assert isinstance(made, Retry) and made.when == 256


@pytest.mark.parametrize("raised", [Ignore(), Reject("r"), KeyError("k"), SystemExit(1)])
def test_what_is_not_named_is_not_retried(app: FastQ, raised: BaseException) -> None:
    task = app.task(name="t", autoretry_for=(Exception,), dont_autoretry_for=(LookupError,))(lambda: None)
    assert after(task, request(task), raised) is raised


def test_over_the_limit_the_exception_itself_ends_the_task(app: FastQ) -> None:
    task = app.task(name="t", autoretry_for=(ValueError,), max_retries=2)(lambda: None)
    error = ValueError()
    assert isinstance(after(task, request(task, 1), error), Retry)
    assert after(task, request(task, 2), error) is error
    forever = app.task(name="f", autoretry_for=(ValueError,), max_retries=None)(lambda: None)
    assert isinstance(after(forever, request(forever, 1_000), error), Retry)


def test_a_retry_that_a_task_makes_itself_is_under_the_same_limit(app: FastQ) -> None:
    task = app.task(name="t", max_retries=1, default_retry_delay=9)(lambda: None)
    made = after(task, request(task), Retry(when=None))
    assert isinstance(made, Retry) and made.when == 9
    assert isinstance(after(task, request(task, 1), Retry(exc=KeyError("k"))), KeyError)
    over = after(task, request(task, 1), Retry())
    assert isinstance(over, MaxRetriesExceededError)
    assert str(over) == "Can't retry t[x] args:[1] kwargs:{'k': 2}" and over.task_args == (1,)


def test_called_like_a_function_there_is_nothing_to_retry(app: FastQ) -> None:
    @app.task(name="t", bind=True)
    def t(self: Any, given: bool) -> None:
        try:
            raise KeyError("first")
        except KeyError:
            raise self.retry(exc=ValueError("mine") if given else None) from None

    with pytest.raises(ValueError, match="mine"):
        t(True)
    with pytest.raises(Retry, match="Task can be retried"):
        t(False)


def test_when_may_be_seconds_a_timedelta_or_a_date(app: FastQ, monkeypatch: pytest.MonkeyPatch) -> None:
    task = app.task(name="t")(lambda: None)
    monkeypatch.setattr(type(task), "request", request(task), raising=False)
    date = datetime(2030, 1, 1, tzinfo=UTC)
    assert retry(task, countdown=3, throw=False).when == 3
    assert retry(task, countdown=timedelta(minutes=1), throw=False).when == 60
    assert retry(task, eta=date, throw=False).when == date
    made = retry(task, (5,), {"k": 1}, throw=False, queue="other")
    assert made.call == Again((5,), {"k": 1}, {"queue": "other"})
    assert str(retry(task, exc=KeyError("k"), countdown=3, throw=False)) == "Retry in 3s: KeyError('k')"
    assert pickle.loads(pickle.dumps(made)).when == made.when
