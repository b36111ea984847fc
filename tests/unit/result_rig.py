"""Records as a worker stores them, without one."""

from __future__ import annotations

from typing import Any

from fastq import FastQ, _core, states
from fastq.records import StoredResult
from fastq.remote import encode_exception


def store(
    app: FastQ, id: str, value: Any = None, state: str = states.SUCCESS, *, told: bool = False, meta: dict[str, Any] | None = None
) -> None:
    """Store a record; ``told``: this process hears of it."""
    traceback = None
    if isinstance(value, BaseException):
        content_type, body, traceback = encode_exception(value, app.serializers)
    else:
        content_type, body = app.serializers.dumps("msgpack", value)
    record = _core.encode_result(state, content_type, body, traceback, 1_700_000_000_000, meta)
    inbox = app.producer.name if told else ""
    app.backend.raw.store([StoredResult(id, record, inbox)], final=state in states.READY_STATES)


def sent(app: FastQ, *ids: str) -> list[Any]:
    """Return results as ``delay`` does: this process waits for them in its inbox."""
    results = [app.AsyncResult(id) for id in ids]
    for result in results:
        app.backend.waiter.expect(result)
    return results
