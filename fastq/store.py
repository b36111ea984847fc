"""The result store of one application: records as values, and waiting for them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from fastq import _core, states
from fastq.exceptions import ImproperlyConfigured
from fastq.records import StoredResult
from fastq.remote import encode_exception
from fastq.waiter import Waiter

if TYPE_CHECKING:
    from fastq.app import FastQ
    from fastq.transports.base import Backend, Inbox

__all__ = ["ResultStore"]

#: records in one call of the backend
BATCH = 1_000

_inherited: list[object] = []


class ResultStore:
    """What ``app.backend`` is. Opens its connection at the first use, anew after a fork; safe from any thread."""

    def __init__(self, app: FastQ, open_backend: Callable[[], Backend | None]) -> None:
        self._app = app
        self._open = open_backend
        self._raw: tuple[int, Backend] | None = None
        self._lock = threading.Lock()
        self.waiter = Waiter(self.records, self._inbox)

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

    def store_result(self, task_id: str, result: Any, state: str, traceback: str | None = None, *, inbox: str = "") -> Any:
        """Store a state with its value: a return value, an exception (FAILURE, REVOKED), or the meta of any other state.

        A state that is not final never replaces one that is.
        """
        serializers = self._app.serializers
        if isinstance(result, BaseException):
            content_type, body, text = encode_exception(result, serializers)
            traceback = traceback if traceback is not None else text
        else:
            content_type, body = serializers.dumps(serializers.result, result)
        record = _core.encode_result(state, content_type, body, traceback, self._app.producer.clock_ms(), None)
        self.raw.store((StoredResult(task_id, record, inbox),), final=state in states.READY_STATES)
        return result

    def get_task_meta(self, task_id: str) -> dict[str, Any]:
        """Return ``status``, ``result``, ``traceback``, ``date_done``, ``children`` and ``task_id`` of one task."""
        result = self._app.AsyncResult(task_id)
        return {
            "status": result.state,
            "result": result._decoded(),
            "traceback": result._meta[3] if result._meta else None,
            "date_done": result.date_done,
            "children": [],
            "task_id": task_id,
        }

    def get_state(self, task_id: str) -> str:
        """Return a task's state."""
        return self._app.AsyncResult(task_id).state

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
