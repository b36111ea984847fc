"""What became of a task: AsyncResult.

Many results at once are in ``results.py``, results without a backend in ``eager_result.py``, their relations (parents, children,
tuples) in ``result_tree.py``. Their names are here too.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from fastq import _core, states
from fastq.exceptions import ChordError, TaskRevokedError, TimeoutError
from fastq.kin import Kin
from fastq.remote import decode_failure, stand_in_for
from fastq.waiting.blocking import allow_join_result, assert_will_not_block, denied_join_result

if TYPE_CHECKING:
    from fastq.app import FastQ
    from fastq.eager_result import EagerResult
    from fastq.result_tree import result_from_tuple
    from fastq.results import GroupResult, ResultSet
    from fastq.store import ResultStore

__all__ = [
    "AsyncResult",
    "EagerResult",
    "GroupResult",
    "ResultSet",
    "allow_join_result",
    "assert_will_not_block",
    "denied_join_result",
    "result_from_tuple",
]

R = TypeVar("R")

logger = logging.getLogger("fastq.result")

_READY = states.READY_STATES
Meta = tuple[str, str, bytes, str | None, int, dict[str, Any] | None]

#: names of this module that live in another
_ELSEWHERE = {
    "EagerResult": "fastq.eager_result",
    "GroupResult": "fastq.results",
    "ResultSet": "fastq.results",
    "result_from_tuple": "fastq.result_tree",
}


def __getattr__(name: str) -> Any:
    module = _ELSEWHERE.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # lazy: these modules import this one
    value = globals()[name] = getattr(importlib.import_module(module), name)
    return value


class AsyncResult(Kin, Generic[R]):
    """The result of one task, known by its id.

    Made by ``delay`` and its kin, or from an id anywhere: ``app.AsyncResult(id)``. Nothing is read before it is asked for; a final
    record is read once and kept.
    """

    __slots__ = ("__weakref__", "_app", "_error", "_meta", "_then", "_value", "epoch", "id", "ignored", "parent")

    #: False: it lives here only
    is_stored = True

    id: str
    #: True: the task was sent with its result ignored; ``get()`` is None at once
    ignored: bool
    #: what came before it in its chain, or the group whose results it is called with
    parent: AsyncResult[Any] | GroupResult[Any] | None
    #: for the waiter: when it was sent; -1: not by this process
    epoch: int
    _meta: Meta | None
    _value: tuple[Meta, Any]
    #: what ``then`` was told, as long as there is something
    _then: list[tuple[Callable[[Any], object], Callable[[Exception], object] | None]]

    def __init__(
        self,
        id: str,
        app: FastQ | None = None,
        *,
        parent: AsyncResult[Any] | GroupResult[Any] | None = None,
        ignored: bool = False,
    ) -> None:
        if not isinstance(id, str):
            raise TypeError(f"a task id is text, not {type(id).__name__}")
        self.id = id
        self._app = app
        self._meta = None
        self.parent = parent
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
    def backend(self) -> ResultStore:
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

    @property
    def known_state(self) -> str:
        """Return the state as far as it is known here; asks nobody."""
        if self.ignored:
            return states.SUCCESS
        return states.PENDING if self._meta is None else self._meta[0]

    def drop(self) -> None:
        """Forget what is known here."""
        self._meta = None

    # --- waiting ---

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        no_ack: bool = True,
        follow_parents: bool = True,
        callback: Callable[[str, Any], object] | None = None,
        on_message: Callable[[dict[str, Any]], object] | None = None,
        on_interval: Callable[[], object] | None = None,
        disable_sync_subtasks: bool = True,
    ) -> R:
        """Wait for the task to end and return what it returned.

        Raises what the task raised (with ``propagate``; otherwise that exception is returned), and TimeoutError after ``timeout``
        seconds (None: wait for ever). ``callback(id, value)`` is called with the value; ``on_interval()`` about every ``interval``
        seconds while waiting; ``on_message(meta)`` with what ``backend.get_task_meta`` gives, whenever another state is seen at
        such an interval, and at the end.

        Where a chord's header has failed, the ChordError of its body says so; with ``follow_parents``, and if the header's results
        are at hand as ``parent``, what the task of the header has raised is raised instead. ``no_ack`` is Celery's and means
        nothing.
        """
        if self.ignored:
            return None  # type: ignore[return-value]
        if not self.arrived():
            if disable_sync_subtasks:
                assert_will_not_block()
            if on_interval is None and on_message is None:
                self.backend.waiter.wait((self,), timeout)
            else:
                from fastq.waiting.arrivals import arrivals  # lazy: most waits need no more than the lines above

                for _ in arrivals((self,), timeout, interval, on_interval, on_message):
                    pass
            if not self.arrived():
                raise TimeoutError
        elif on_message is not None:
            on_message(self.known_meta())
        return self._outcome(propagate, callback, follow_parents)

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
                assert_will_not_block()
            await self.backend.waiter.await_((self,), timeout)
            if not self.arrived():
                raise TimeoutError
        if propagate and self.parent is not None and isinstance(self._decoded(), ChordError):
            import asyncio  # lazy: only where an event loop runs already

            # reads from the backend, which an event loop must not do itself; what it finds stays with the parents
            await asyncio.to_thread(self.header_failure, self._decoded())
        return self._outcome(propagate, callback, True)

    def _outcome(self, propagate: bool, callback: Callable[[str, Any], object] | None, follow_parents: bool = False) -> R:
        value = self._decoded()
        if propagate:
            if follow_parents and isinstance(value, ChordError):
                value = self.header_failure(value) or value
            self._raise(value)
        if callback is not None:
            callback(self.id, value)
        return value  # type: ignore[no-any-return]

    def _raise(self, value: object) -> None:
        meta = self._meta
        if meta is not None and meta[0] in states.PROPAGATE_STATES:
            if not isinstance(value, BaseException):  # stored by hand
                raise stand_in_for(value)
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

    def then(
        self,
        callback: Callable[[AsyncResult[R]], object],
        on_error: Callable[[Exception], object] | None = None,
        weak: bool = False,
    ) -> None:
        """Call ``callback(result)`` when the task has ended, in whatever state: now, or while somebody in this process waits for
        results (any of this application's).

        What the callback raises is given to ``on_error``, else logged.
        """
        try:
            self._then.append((callback, on_error))
        except AttributeError:
            self._then = [(callback, on_error)]
        if not self.arrived():
            self.backend.waiter.watch(self)
        if self.arrived():
            self.fire()

    def fire(self) -> None:
        """Call what ``then`` was told, once; the waiter does when the record has come."""
        try:
            told = self._then
            del self._then
        except AttributeError:  # nothing to do, or another thread does it
            return
        for callback, on_error in told:
            try:
                callback(self)
            except Exception as exc:  # the caller waits for something else perhaps: it is not disturbed
                if on_error is None:
                    logger.exception("A callback of result %s raised", self.id)
                else:
                    on_error(exc)

    # --- looking ---

    def _look(self) -> Meta | None:
        if not self.arrived():
            record = self.backend.records((self.id,))[0]
            if record is not None and self.deliver(record):
                self.fire()
        return self._meta

    @property
    def state(self) -> str:
        """Return PENDING (also: unknown), STARTED, RETRY, SUCCESS, FAILURE, REVOKED, or what ``update_state`` stored."""
        meta = self._look()
        return states.PENDING if meta is None else meta[0]

    @property
    def status(self) -> str:
        return self.state

    @property
    def result(self) -> R | Any:
        """Return the return value, the exception (also the one a retry is for), or the meta of a custom state; None while there
        is nothing."""
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
        return _moment(self._look())

    def ready(self) -> bool:
        """Say whether the task has ended."""
        return self.state in _READY

    def successful(self) -> bool:
        """Say whether the task has returned."""
        return self.state == states.SUCCESS

    def failed(self) -> bool:
        """Say whether the task has failed."""
        return self.state == states.FAILURE

    def exists(self) -> bool:
        """Say whether there is a record now: PENDING alone does not tell a task that waits from one that never was."""
        return self.backend.records((self.id,))[0] is not None

    def maybe_throw(self, propagate: bool = True, callback: Callable[[str, Any], object] | None = None) -> Any:
        """Raise if the task has failed, else return what there is; never waits."""
        self._look()
        return self._outcome(propagate, callback, True)

    maybe_reraise = maybe_throw

    def throw(self, exc: BaseException, tb: Any = None) -> None:
        """Raise an exception as ``get`` would."""
        raise exc.with_traceback(tb)

    def forget(self) -> None:
        """Delete the stored result, and those of its parents."""
        self._meta = None
        if self.parent is not None:
            self.parent.forget()
        self.backend.forget((self.id,))

    def revoke(
        self,
        connection: Any = None,
        terminate: bool = False,
        signal: Any = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Keep the task from starting; with ``terminate`` end it where it runs. See ``Control.revoke``.

        On return the broker knows. ``wait``: until the nodes have answered, for ``timeout`` seconds (1) at most.
        """
        asked: dict[str, Any] = {"reply": True, "timeout": timeout or 1.0} if wait else {}
        self.app.control.revoke(self.id, terminate=terminate, signal=signal or "SIGTERM", **asked)

    def terminate(self, connection: Any = None, signal: Any = None, wait: bool = False, timeout: float | None = None) -> None:
        """End the task whether it runs or not: ``revoke`` with ``terminate``."""
        self.revoke(connection, True, signal, wait, timeout)

    def revoke_by_stamped_headers(
        self,
        headers: Mapping[str, Any],
        connection: Any = None,
        terminate: bool = False,
        signal: Any = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Revoke all tasks with one of these stamps, this one or not: see ``Control.revoke_by_stamped_headers``."""
        asked: dict[str, Any] = {"reply": True, "timeout": timeout or 1.0} if wait else {}
        self.app.control.revoke_by_stamped_headers(headers, terminate=terminate, signal=signal or "SIGTERM", **asked)

    # --- what result_extended stores ---

    def _noted(self, key: str) -> Any:
        meta = self._look()
        return meta[5].get(key) if meta is not None and meta[5] else None

    @property
    def name(self) -> str | None:
        """Return the task's name. Like the five below it None unless ``result_extended`` is on and the task has begun."""
        return self._noted("name")  # type: ignore[no-any-return]

    @property
    def args(self) -> Any:
        return self._noted("args")

    @property
    def kwargs(self) -> Any:
        return self._noted("kwargs")

    @property
    def worker(self) -> str | None:
        return self._noted("worker")  # type: ignore[no-any-return]

    @property
    def retries(self) -> int | None:
        return self._noted("retries")  # type: ignore[no-any-return]

    @property
    def queue(self) -> str | None:
        return self._noted("queue")  # type: ignore[no-any-return]

    def _get_task_meta(self) -> dict[str, Any]:
        self._look()
        return self.known_meta()

    def known_meta(self) -> dict[str, Any]:
        """Return what is known here as ``backend.get_task_meta`` does; asks nobody."""
        meta = self._meta
        found: dict[str, Any] = {
            "status": self.known_state,
            "result": self._decoded(),
            "traceback": meta[3] or None if meta is not None else None,
            "date_done": _moment(meta),
            "children": self.known_children() or [],
            "task_id": self.id,
        }
        if meta is not None and meta[5]:
            found.update((key, value) for key, value in meta[5].items() if key != "children")
        return found

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
        return AsyncResult(self.id, self._app, parent=self.parent, ignored=self.ignored)

    def __reduce__(self) -> Any:
        return _unpickle, (self.id, self.ignored, self.parent)


def _unpickle(id: str, ignored: bool, parent: Any = None) -> AsyncResult[Any]:
    return AsyncResult(id, ignored=ignored, parent=parent)


def _moment(meta: Meta | None) -> datetime | None:
    return datetime.fromtimestamp(meta[4] / 1000, UTC) if meta is not None and meta[0] in _READY else None


def _value(app: FastQ, meta: Meta) -> Any:
    state, content_type, body, traceback, _, _ = meta
    if state in states.EXCEPTION_STATES:
        if not body:
            return TaskRevokedError("revoked") if state == states.REVOKED else None
        return decode_failure(content_type, body, traceback, app.serializers)
    return app.serializers.loads_result(content_type, body) if body else None
