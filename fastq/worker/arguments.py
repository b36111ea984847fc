"""The arguments of a task that is part of a workflow: what came before it, in front of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastq import _core, states
from fastq.errbacks import takes_failure
from fastq.exceptions import ChordError, OperationalError, TaskRevokedError
from fastq.records import Delivery
from fastq.remote import decode_exception, repr_safe
from fastq.serialization import Serializers

if TYPE_CHECKING:
    from fastq.app import FastQ
    from fastq.transports.base import Backend, Broker

__all__ = ["Arguments", "Unready"]


class Unready(Exception):
    """Say that what the task needs cannot be loaded now; nothing of it has run."""


class Arguments:
    """Load what goes in front of a task's own arguments. Called from slots; keeps a connection, no state."""

    def __init__(
        self, app: FastQ | None, serializers: Serializers, broker: Broker, backend: Backend | None,
        open_store: Callable[[], Backend],
    ) -> None:  # fmt: skip
        """``open_store`` opens a backend on the broker's own store, which keeps the joins; used where ``backend`` is another."""
        self._app = app
        self._serializers = serializers
        self._store = backend if backend is not None and backend.shares(broker) else None
        self._opened: Backend | None = None
        self._open_store = open_store

    def complete(self, d: Delivery, flow: Mapping[str, Any], args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return all arguments: those that ``flow`` says, then the task's own.

        Raises ChordError for a body of which a member failed, Unready where the join cannot be read now, and ContentDisallowed or
        DecodeError for what may not or cannot be read.
        """
        if "joined" in flow and "loaded" not in flow:
            args = (self._results(*flow["joined"]), *args)
        if "args" in flow:
            loads = self._serializers.loads_result
            args = (*[loads(content_type, body) for content_type, body in flow["args"]], *args)
        if "errback" in flow:
            args = (*self._failure(d, *flow["errback"]), *args)
        return args

    # --- joins ---

    def _results(self, join: str, queue: str) -> list[Any]:
        try:
            joined = self._backend().joined(queue, join)
        except OperationalError as exc:
            raise Unready(str(exc)) from exc
        if joined is None:
            raise ChordError(f"the results of the chord {join} are not in queue {queue} any more")
        if joined.failed is not None:
            id, record = joined.failed
            raise ChordError(f"Dependency {id} raised {repr_safe(self._exception(record))}")
        loads, decode = self._serializers.loads_result, _core.decode_result
        results = []
        for member in joined.records:
            if member is None:
                raise ChordError(f"the chord {join} lacks a result of its {joined.size} members")
            _, content_type, body, *_ = decode(member)
            results.append(loads(content_type, body))
        return results

    def _backend(self) -> Backend:
        if self._store is not None:
            return self._store
        if self._opened is None:
            self._opened = self._open_store()
        return self._opened

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()

    # --- errbacks ---

    def _failure(self, d: Delivery, task_id: str, record: bytes, message: bytes) -> Sequence[Any]:
        """Return what an errback is called with: (request, exception, traceback), or the id where it takes no more than that."""
        task = None if d.entry is None else d.entry.task
        if task is None or self._app is None or not takes_failure(task):
            return (task_id,)
        from fastq.context import Context  # lazy: only where an errback runs

        failed = _core.peek(message)
        owner = self._app.tasks.get(failed.name)
        return Context(owner if owner is not None else task, failed), self._exception(record), _core.decode_result(record)[3]

    def _exception(self, record: bytes) -> BaseException:
        state, content_type, body, traceback, *_ = _core.decode_result(record)
        if not body and state == states.REVOKED:  # ended where it waited: purged, or revoked
            return TaskRevokedError("revoked")
        return decode_exception(content_type, body, traceback, self._serializers)
