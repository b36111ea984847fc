"""Whether waiting for results is allowed here: inside a task it is not, unless that was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from fastq.running import current

__all__ = ["allow_join_result", "assert_will_not_block", "denied_join_result"]

#: whether waiting inside a task is allowed here
_join_allowed: ContextVar[bool] = ContextVar("fastq_join_allowed", default=False)


@contextmanager
def allow_join_result() -> Iterator[None]:
    """Allow ``get()`` inside a task. It can deadlock when every slot waits for tasks that need a slot."""
    token = _join_allowed.set(True)
    try:
        yield
    finally:
        _join_allowed.reset(token)


@contextmanager
def denied_join_result() -> Iterator[None]:
    """Forbid ``get()`` inside a task again."""
    token = _join_allowed.set(False)
    try:
        yield
    finally:
        _join_allowed.reset(token)


def assert_will_not_block() -> None:
    """Raise RuntimeError inside a task where waiting is not allowed."""
    if current.get() is not None and not _join_allowed.get():
        raise RuntimeError(
            "Never call result.get() within a task! When every slot waits for a task that needs a slot, none ever ends. "
            "If that cannot happen here, pass disable_sync_subtasks=False or wait inside `with allow_join_result():`."
        )
