"""Results of tasks that ran here at once."""

from __future__ import annotations

import asyncio
import copy
import pickle
import traceback
from typing import Any

import pytest

from fastq.exceptions import RemoteError, TaskRevokedError
from fastq.result import AsyncResult, EagerResult


def failure() -> ValueError:
    try:
        raise ValueError("no")
    except ValueError as exc:
        return exc


def test_a_success_gives_its_value_without_any_backend() -> None:
    result: EagerResult[int] = EagerResult("e", 3, "SUCCESS", name="add")
    assert result.get() == result.wait(timeout=0) == asyncio.run(result.aget()) == 3
    assert (result.state, result.status, result.result, result.info) == ("SUCCESS", "SUCCESS", 3, 3)
    assert result.ready() and result.successful() and not result.failed() and not result.exists()
    assert result.traceback is None and result.name == "add" and result.children is None and result.date_done is not None
    assert isinstance(result, AsyncResult) and repr(result) == "<EagerResult: e>"
    result.forget()
    assert result.get() == 3
    seen: list[Any] = []
    result.then(seen.append)
    result.get(callback=lambda id, value: seen.append((id, value)))
    assert seen == [result, ("e", 3)]
    assert result.as_tuple() == (("e", None), None)
    assert list(result.collect()) == [(result, 3)] and result.get_leaf() == 3


def test_a_failure_is_raised_with_the_frames_it_was_raised_in() -> None:
    result: EagerResult[int] = EagerResult("e", failure(), "FAILURE", "the traceback")
    with pytest.raises(ValueError, match="no") as caught:
        result.get()
    assert any(frame.name == "failure" for frame in traceback.extract_tb(caught.value.__traceback__))
    assert isinstance(result.get(propagate=False), ValueError)
    assert result.failed() and result.traceback == "the traceback" and result.ready()
    with pytest.raises(ValueError, match="no"):
        result.maybe_throw()
    with pytest.raises(RemoteError, match="what was kept"):
        EagerResult("e", "what was kept", "FAILURE").get()


@pytest.mark.parametrize("state", ["RETRY", "PENDING", "IGNORED"])
def test_what_has_not_ended_is_none(state: str) -> None:
    result: EagerResult[Any] = EagerResult("e", failure(), state)
    assert result.get() is None and result.state == state and isinstance(result.info, ValueError)
    assert not result.successful() and not result.failed() and result.ready()


def test_revoke_says_so() -> None:
    result: EagerResult[int] = EagerResult("e", 3, "SUCCESS")
    result.revoke(terminate=True)
    assert result.state == "REVOKED"
    with pytest.raises(TaskRevokedError):
        result.get()


def test_what_it_has_sent_is_below_it() -> None:
    child: EagerResult[int] = EagerResult("c", 4, "SUCCESS")
    result: EagerResult[int] = EagerResult("e", 3, "SUCCESS", children=[child])
    assert result.children == [child]
    assert list(result.collect()) == [(result, 3), (child, 4)]


def test_it_can_be_copied_and_pickled() -> None:
    result: EagerResult[int] = EagerResult("e", 3, "SUCCESS", name="add", parent=EagerResult("p", 1, "SUCCESS"))
    for again in (copy.copy(result), pickle.loads(pickle.dumps(result))):
        assert isinstance(again, EagerResult) and again == result and again.get() == 3
        assert again.name == "add" and again.parent == result.parent
