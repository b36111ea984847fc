"""The result store of one application: records as values, and waiting for them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fastq import _core, states
from fastq.exceptions import ImproperlyConfigured
from fastq.records import StoredResult
from fastq.remote import encode_exception
from fastq.waiting.waiter import Waiter

if TYPE_CHECKING:
    from fastq.app import FastQ
    from fastq.results import GroupResult
    from fastq.transports.base import Backend, Inbox

__all__ = ["ResultStore"]

#: records in one call of the backend
BATCH = 1_000

#: the state of a record that is a saved group; it stands under the group's id behind this key, where no task's result is looked for
GROUP = "GROUP"
GROUP_KEY = "taskset:"

_inherited: list[object] = []


class ResultStore:
    """What ``app.backend`` is. Opens its connection at the first use, anew after a fork; safe from any thread."""

    def __init__(self, app: FastQ, open_backend: Callable[[], Backend | None]) -> None:
        self._app = app
        self._open = open_backend
        self._raw: tuple[int, Backend] | None = None
        self._lock = threading.Lock()
        # a backend on a database that cannot call anybody says so with ``tells = False``
        self.waiter = Waiter(self.records, self._inbox, lambda: getattr(self.raw, "tells", True))

    @property
    def raw(self) -> Backend:
        """Return the transport's backend; ImproperlyConfigured where results are disabled."""
        raw = self._raw
        if raw is not None and raw[0] == os.getpid():
            return raw[1]
        if raw is not None:
            # inherited over a fork: kept, so that no destructor speaks on the parent's connections; its lock may be held
            _inherited.append(raw)
            self._lock = threading.Lock()
            self._raw = None
        with self._lock:
            if self._raw is None:
                backend = self._open()
                if backend is None:
                    raise ImproperlyConfigured(_disabled(self._app))
                self._raw = (os.getpid(), backend)
            return self._raw[1]

    def _inbox(self) -> Inbox:
        return self.raw.inbox(self._app.producer.name)

    # --- records ---

    def records(self, ids: Sequence[str]) -> list[bytes | None]:
        """Return the records in order, None where there is none."""
        raw = self.raw
        if len(ids) <= BATCH:
            return raw.get(ids)
        found: list[bytes | None] = []
        for start in range(0, len(ids), BATCH):
            found.extend(raw.get(ids[start : start + BATCH]))
        return found

    def forget(self, ids: Sequence[str]) -> None:
        """Delete records."""
        for start in range(0, len(ids), BATCH):
            self.raw.forget(ids[start : start + BATCH])

    def store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: str | None = None,
        request: Any = None,
        *,
        inbox: str = "",
    ) -> Any:
        """Store a state with its value: a return value, an exception (FAILURE, RETRY, REVOKED), or the meta of any other state.

        A stored SUCCESS is never replaced, and FAILURE and REVOKED only by SUCCESS. ``request`` is Celery's and means nothing here.
        """
        serializers = self._app.serializers
        if isinstance(result, BaseException):
            content_type, body, text = encode_exception(result, serializers)
            traceback = traceback if traceback is not None else text
        else:
            content_type, body = serializers.dumps(serializers.result, result)
        record = _core.encode_result(state, content_type, body, traceback, self._app.producer.clock_ms(), None)
        # not final for the backend: then it looks in the same step whether what is there may be replaced
        final = state == states.SUCCESS and self.get_state(task_id) != states.SUCCESS
        self.raw.store((StoredResult(task_id, record, inbox),), final=final)
        return result

    def mark_as_done(self, task_id: str, result: Any, request: Any = None) -> None:
        """Store that a task has returned; for work that ends outside of any worker."""
        self.store_result(task_id, result, states.SUCCESS)

    def mark_as_failure(self, task_id: str, exc: BaseException, traceback: str | None = None, request: Any = None) -> None:
        """Store that a task has failed."""
        self.store_result(task_id, exc, states.FAILURE, traceback)

    # --- reading ---

    def get_task_meta(self, task_id: str) -> dict[str, Any]:
        """Return ``status``, ``result``, ``traceback``, ``date_done``, ``children`` and ``task_id`` of one task, and with
        ``result_extended`` its ``name``, ``args``, ``kwargs``, ``worker``, ``retries`` and ``queue``."""
        return self.get_many((task_id,))[task_id]

    def get_many(self, task_ids: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Return ``get_task_meta`` of many by id, in few round trips."""
        results = [self._app.AsyncResult(task_id) for task_id in task_ids]
        for result, record in zip(results, self.records([result.id for result in results]), strict=True):
            if record is not None:
                result.deliver(record)
        return {result.id: result.known_meta() for result in results}

    def get_state(self, task_id: str) -> str:
        """Return a task's state."""
        return self._app.AsyncResult(task_id).state

    def get_result(self, task_id: str) -> Any:
        """Return what a task returned or raised, or the meta of its state."""
        return self._app.AsyncResult(task_id).result

    def get_traceback(self, task_id: str) -> str | None:
        """Return the traceback of a failed task."""
        return self._app.AsyncResult(task_id).traceback

    def get_children(self, task_id: str) -> list[Any] | None:
        """Return the results of the tasks that a task has sent."""
        return self._app.AsyncResult(task_id).children

    # --- groups ---

    def save_group(self, group_id: str, result: GroupResult[Any]) -> GroupResult[Any]:
        """Keep which results belong to a group, for as long as results are kept."""
        body = _core.packb(result.as_tuple())
        record = _core.encode_result(GROUP, "application/x-msgpack", body, None, self._app.producer.clock_ms(), None)
        self.raw.store((StoredResult(GROUP_KEY + group_id, record),))
        return result

    def restore_group(self, group_id: str) -> GroupResult[Any] | None:
        """Return a group that was saved, None if there is none."""
        meta = self.get_group_meta(group_id)
        return meta["result"] if meta is not None else None

    def get_group_meta(self, group_id: str) -> dict[str, Any] | None:
        """Return ``result`` (the GroupResult), ``date_done`` (when it was saved) and ``task_id`` of a saved group."""
        record = self.records((GROUP_KEY + group_id,))[0]
        if record is None:
            return None
        from fastq.result_tree import result_from_tuple  # lazy: only where groups are kept

        state, _, body, _, saved_ms, _ = _core.decode_result(record)
        if state != GROUP:
            return None
        return {
            "result": result_from_tuple(_core.unpackb(body), self._app),
            "date_done": datetime.fromtimestamp(saved_ms / 1000, UTC),
            "task_id": group_id,
        }

    def delete_group(self, group_id: str) -> None:
        """Undo ``save_group``."""
        self.forget((GROUP_KEY + group_id,))

    def ensure_chords_allowed(self) -> None:
        """Do nothing: chords work with every backend. Celery's raises where they do not."""

    def cleanup(self) -> None:
        """Do nothing: every backend lets its records expire by itself."""

    def close(self) -> None:
        """Drop the connections; a later use opens new ones."""
        self.waiter.close()
        raw, self._raw = self._raw, None
        if raw is not None and raw[0] == os.getpid():
            raw[1].close()


def _disabled(app: FastQ) -> str:
    if app.conf.is_set("result_backend"):
        where = f"result_backend is {app.conf.result_backend!r} ({app.conf.origin('result_backend')})"
    else:
        where = "no result_backend is set, and the configured broker does not keep results unless it is named as one"
    return (
        f"Results are disabled: {where}. To keep results, pass backend= to FastQ, or set result_backend or FASTQ_RESULT_BACKEND, "
        f"for example to {_example(app)}."
    )


def _example(app: FastQ) -> str:
    from fastq.transports import display_url  # lazy: only for this message

    return display_url(app.broker_url)
