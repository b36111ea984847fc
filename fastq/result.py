"""What became of a task: AsyncResult for one, ResultSet for many."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from fastq import _core, states
from fastq.exceptions import TaskRevokedError, TimeoutError
from fastq.remote import decode_exception
from fastq.running import current

if TYPE_CHECKING:
    from fastq.app import FastQ
    from fastq.store import ResultStore

__all__ = ["AsyncResult", "ResultSet", "allow_join_result", "denied_join_result"]

R = TypeVar("R")

_READY = states.READY_STATES
_Meta = tuple[str, str, bytes, str | None, int, dict[str, Any] | None]

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


def _refuse_in_task() -> None:
    if current.get() is not None and not _join_allowed.get():
        raise RuntimeError(
            "Never call result.get() within a task! When every slot waits for a task that needs a slot, none ever ends. "
            "If that cannot happen here, pass disable_sync_subtasks=False or wait inside `with allow_join_result():`."
        )


class AsyncResult(Generic[R]):
    """The result of one task, known by its id.

    Made by ``delay`` and its kin, or from an id anywhere: ``app.AsyncResult(id)``. Nothing is read before it is asked for; a final
    record is read once and kept.
    """

    __slots__ = ("__weakref__", "_app", "_error", "_meta", "_value", "epoch", "id", "ignored")

    id: str
    #: True: the task was sent with its result ignored; ``get()`` is None at once
    ignored: bool
    #: for the waiter: when it was sent; -1: not by this process
    epoch: int
    _meta: _Meta | None
    _value: tuple[_Meta, Any]

    def __init__(self, id: str, app: FastQ | None = None, *, ignored: bool = False) -> None:
        if not isinstance(id, str):
            raise TypeError(f"a task id is text, not {type(id).__name__}")
        self.id = id
        self._app = app
        self._meta = None
        self.ignored = ignored
        self.epoch = -1

    @property
    def app(self) -> FastQ:
        if self._app is None:
            from fastq.shared import get_current_app  # lazy: shared imports app, which imports this module

            self._app = get_current_app()
        return self._app

    @property
    def task_id(self) -> str:
        return self.id

    @property
    def _store(self) -> ResultStore:
        return self.app.backend

    # --- what the waiter calls ---

    def arrived(self) -> bool:
        """Say whether the final record is here."""
        meta = self._meta
        return meta is not None and meta[0] in _READY

    def deliver(self, record: bytes) -> bool:
        """Take a record that was read or has arrived; True if it is a final one. A final one is not replaced."""
        meta = self._meta
        if meta is not None and meta[0] in _READY:
            return True
        self._meta = meta = _core.decode_result(record)
        return meta[0] in _READY

    # --- waiting ---

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        *,
        callback: Callable[[str, Any], object] | None = None,
        on_interval: Callable[[], object] | None = None,
        disable_sync_subtasks: bool = True,
    ) -> R:
        """Wait for the task to end and return what it returned.

        Raises what the task raised (with ``propagate``; otherwise that exception is returned), and TimeoutError after ``timeout``
        seconds (None: wait for ever). ``callback(id, value)`` is called with the value; ``on_interval()`` about every ``interval``
        seconds while waiting.
        """
        if self.ignored:
            return None  # type: ignore[return-value]
        if not self.arrived():
            if disable_sync_subtasks:
                _refuse_in_task()
            if on_interval is None:
                self._store.waiter.wait((self,), timeout)
            else:
                _wait_in_steps(self._store, (self,), timeout, interval, on_interval)
            if not self.arrived():
                raise TimeoutError
        return self._outcome(propagate, callback)

    wait = get

    async def aget(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        *,
        callback: Callable[[str, Any], object] | None = None,
        disable_sync_subtasks: bool = True,
    ) -> R:
        """``get`` for an event loop."""
        if self.ignored:
            return None  # type: ignore[return-value]
        if not self.arrived():
            if disable_sync_subtasks:
                _refuse_in_task()
            await self._store.waiter.await_((self,), timeout)
            if not self.arrived():
                raise TimeoutError
        return self._outcome(propagate, callback)

    def _outcome(self, propagate: bool, callback: Callable[[str, Any], object] | None) -> R:
        value = self._decoded()
        if propagate:
            self._raise(value)
        if callback is not None:
            callback(self.id, value)
        return value  # type: ignore[no-any-return]

    def _raise(self, value: object) -> None:
        meta = self._meta
        if meta is not None and meta[0] in states.PROPAGATE_STATES and isinstance(value, BaseException):
            # a second get() of one result raises the same object: without the frames of the first
            raise value.with_traceback(None)

    def _decoded(self) -> Any:
        """Return the value of the record at hand: the return value, the exception, or what update_state stored."""
        meta = self._meta
        if meta is None:
            return None
        try:
            kept, value = self._value
            if kept is meta:
                return value
        except AttributeError:
            pass
        value = _value(self.app, meta)
        # kept with its record: that may be replaced by a later one while the state is not final
        self._value = (meta, value)
        return value

    # --- looking ---

    def _look(self) -> _Meta | None:
        if not self.arrived():
            record = self._store.records((self.id,))[0]
            if record is not None:
                self.deliver(record)
        return self._meta

    @property
    def state(self) -> str:
        """Return PENDING (also: unknown), STARTED, SUCCESS, FAILURE, REVOKED, or what ``update_state`` stored."""
        meta = self._look()
        return states.PENDING if meta is None else meta[0]

    @property
    def status(self) -> str:
        return self.state

    @property
    def result(self) -> R | Any:
        """Return the return value, the exception, or the meta of a custom state; None while there is nothing."""
        self._look()
        return self._decoded()

    @property
    def info(self) -> R | Any:
        return self.result

    @property
    def traceback(self) -> str | None:
        """Return the traceback of a failure as text."""
        meta = self._look()
        return meta[3] or None if meta is not None else None

    @property
    def date_done(self) -> datetime | None:
        """Return when the task ended, in UTC."""
        meta = self._look()
        return datetime.fromtimestamp(meta[4] / 1000, UTC) if meta is not None and meta[0] in _READY else None

    def ready(self) -> bool:
        """Say whether the task has ended."""
        return self.state in _READY

    def successful(self) -> bool:
        """Say whether the task has returned."""
        return self.state == states.SUCCESS

    def failed(self) -> bool:
        """Say whether the task has failed."""
        return self.state == states.FAILURE

    def maybe_throw(self, propagate: bool = True, callback: Callable[[str, Any], object] | None = None) -> Any:
        """Raise if the task has failed, else return what there is; never waits."""
        self._look()
        return self._outcome(propagate, callback)

    maybe_reraise = maybe_throw

    def forget(self) -> None:
        """Delete the stored result."""
        self._store.forget((self.id,))
        self._meta = None

    # ---

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.id}>"

    def __str__(self) -> str:
        return self.id

    def __eq__(self, other: object) -> bool:
        if isinstance(other, AsyncResult):
            return other.id == self.id
        return other == self.id if isinstance(other, str) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    def __copy__(self) -> AsyncResult[R]:
        return AsyncResult(self.id, self._app, ignored=self.ignored)

    def __reduce__(self) -> Any:
        return _unpickle, (self.id, self.ignored)


def _unpickle(id: str, ignored: bool) -> AsyncResult[Any]:
    return AsyncResult(id, ignored=ignored)


def _value(app: FastQ, meta: _Meta) -> Any:
    state, content_type, body, traceback, _, _ = meta
    if state in states.PROPAGATE_STATES:
        if not body:
            return TaskRevokedError("revoked") if state == states.REVOKED else None
        return decode_exception(content_type, body, traceback, app.serializers)
    return app.serializers.loads_result(content_type, body) if body else None


def _wait_in_steps(
    store: ResultStore,
    results: Sequence[AsyncResult[Any]],
    timeout: float | None,
    interval: float,
    on_interval: Callable[[], object],
) -> None:
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        step = interval if deadline is None else min(interval, max(0.0, deadline - time.monotonic()))
        store.waiter.wait(results, step)
        if all(result.arrived() for result in results) or (deadline is not None and time.monotonic() >= deadline):
            return
        on_interval()


class ResultSet(Sequence[AsyncResult[R]]):
    """Results of many tasks, in the order in which the tasks were sent. Reads and waits for all of them at once."""

    def __init__(self, results: Iterable[AsyncResult[R]] = (), app: FastQ | None = None) -> None:
        self.results: list[AsyncResult[R]] = list(results)
        self._app = app

    @property
    def app(self) -> FastQ:
        if self._app is None:
            from fastq.shared import get_current_app  # lazy: shared imports app, which imports this module

            self._app = self.results[0].app if self.results else get_current_app()
        return self._app

    # --- a sequence of results ---

    def __len__(self) -> int:
        return len(self.results)

    def __iter__(self) -> Iterator[AsyncResult[R]]:
        return iter(self.results)

    @overload
    def __getitem__(self, index: int) -> AsyncResult[R]: ...
    @overload
    def __getitem__(self, index: slice) -> ResultSet[R]: ...
    def __getitem__(self, index: int | slice) -> AsyncResult[R] | ResultSet[R]:
        if isinstance(index, slice):
            return ResultSet(self.results[index], self._app)
        return self.results[index]

    def __eq__(self, other: object) -> bool:
        return other.results == self.results if isinstance(other, ResultSet) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = ", ".join(result.id for result in self.results[:3])
        return f"<{type(self).__name__}: {len(self.results)} [{shown}{', ...' if len(self.results) > 3 else ''}]>"

    def add(self, result: AsyncResult[R]) -> None:
        """Add a result that is not in it yet."""
        if result not in self.results:
            self.results.append(result)

    # --- waiting ---

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        *,
        callback: Callable[[str, Any], object] | None = None,
        on_interval: Callable[[], object] | None = None,
        disable_sync_subtasks: bool = True,
    ) -> list[R]:
        """Wait for all and return their values in order; the first failure in order is raised (``propagate``), or each stands
        in its place.

        TimeoutError after ``timeout`` seconds for all together.
        """
        waiting = self._waiting()
        if waiting:
            if disable_sync_subtasks:
                _refuse_in_task()
            store = self.app.backend
            if on_interval is None:
                store.waiter.wait(waiting, timeout)
            else:
                _wait_in_steps(store, waiting, timeout, interval, on_interval)
        return self._values(propagate, callback)

    join = get

    async def aget(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        *,
        callback: Callable[[str, Any], object] | None = None,
        disable_sync_subtasks: bool = True,
    ) -> list[R]:
        """``get`` for an event loop."""
        waiting = self._waiting()
        if waiting:
            if disable_sync_subtasks:
                _refuse_in_task()
            await self.app.backend.waiter.await_(waiting, timeout)
        return self._values(propagate, callback)

    ajoin = aget

    def iter_completed(self, timeout: float | None = None, *, disable_sync_subtasks: bool = True) -> Iterator[AsyncResult[R]]:
        """Yield each result when it has come, those that are there first; TimeoutError if that takes longer for all together."""
        deadline = None if timeout is None else time.monotonic() + timeout
        pending: dict[int, AsyncResult[R]] = {}
        for result in self.results:
            if result.ignored or result.arrived():
                yield result
            else:
                pending[id(result)] = result
        if pending and disable_sync_subtasks:
            _refuse_in_task()
        while pending:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            came = self.app.backend.waiter.wait(pending.values(), left, first=True)
            # what arrived on another caller's account is here too
            ready = [result for result in (came or pending.values()) if isinstance(result, AsyncResult) and result.arrived()]
            if not ready:
                raise TimeoutError
            for result in ready:
                if pending.pop(id(result), None) is not None:
                    yield result

    as_completed = iter_completed

    async def aiter_completed(
        self, timeout: float | None = None, *, disable_sync_subtasks: bool = True
    ) -> AsyncIterator[AsyncResult[R]]:
        """``iter_completed`` for an event loop."""
        deadline = None if timeout is None else time.monotonic() + timeout
        pending: dict[int, AsyncResult[R]] = {}
        for result in self.results:
            if result.ignored or result.arrived():
                yield result
            else:
                pending[id(result)] = result
        if pending and disable_sync_subtasks:
            _refuse_in_task()
        while pending:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            await self.app.backend.waiter.await_(pending.values(), left, first=True)
            ready = [result for result in pending.values() if result.arrived()]
            if not ready:
                raise TimeoutError
            for result in ready:
                del pending[id(result)]
                yield result

    def _waiting(self) -> list[AsyncResult[R]]:
        return [result for result in self.results if not result.ignored and not result.arrived()]

    def _values(self, propagate: bool, callback: Callable[[str, Any], object] | None) -> list[R]:
        if self._waiting():
            raise TimeoutError
        values: list[R] = []
        for result in self.results:
            values.append(None if result.ignored else result._outcome(propagate, callback))  # type: ignore[arg-type]
        return values

    # --- looking ---

    def _look(self) -> None:
        """Read what has not come yet, in few round trips."""
        waiting = self._waiting()
        if waiting:
            records = self.app.backend.records([result.id for result in waiting])
            for result, record in zip(waiting, records, strict=True):
                if record is not None:
                    result.deliver(record)

    def _states(self) -> list[str]:
        self._look()
        return [states.SUCCESS if r.ignored else states.PENDING if r._meta is None else r._meta[0] for r in self.results]

    def ready(self) -> bool:
        """Say whether all have ended."""
        return all(state in _READY for state in self._states())

    def successful(self) -> bool:
        """Say whether all have returned."""
        return all(state == states.SUCCESS for state in self._states())

    def failed(self) -> bool:
        """Say whether any has failed."""
        return any(state == states.FAILURE for state in self._states())

    def waiting(self) -> bool:
        """Say whether any has not ended."""
        return not self.ready()

    def completed_count(self) -> int:
        """Count those that have returned."""
        return sum(state == states.SUCCESS for state in self._states())

    def forget(self) -> None:
        """Delete the stored results."""
        self.app.backend.forget([result.id for result in self.results])
        for result in self.results:
            result._meta = None
