"""Say what is in a result record for people and queries."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from django.conf import settings  # type: ignore[import-untyped]
from django.utils import timezone  # type: ignore[import-untyped]

from fastq import _core, states
from fastq.exceptions import FastQError
from fastq.serialization import JSON, MSGPACK, YAML, Serializers

__all__ = ["columns_of", "moment"]

#: what may be decoded to be shown: never pickle
_READER = Serializers(accept=("msgpack", "json"))


def columns_of(record: bytes) -> dict[str, Any]:
    """Return the columns of a task's row that a record gives."""
    state, content_type, body, traceback, done_ms, meta = _core.decode_result(record)
    meta = meta or {}
    done = moment(done_ms)
    columns = {
        "status": state,
        "content_type": content_type,
        "result": _text_of(state, content_type, body),
        "traceback": traceback,
        "date_done": done if state in states.READY_STATES else None,
        "task_name": meta.get("name"),
        "task_args": _json(meta["args"]) if meta.get("args") is not None else None,
        "task_kwargs": _json(meta["kwargs"]) if meta.get("kwargs") is not None else None,
        "worker": meta.get("worker"),
        "meta": _json({"children": meta.get("children") or []}),
        "record": record,
    }
    if state == states.STARTED:
        columns["date_started"] = done
    return columns


def moment(unix_ms: int) -> datetime:
    """Return a time as this project keeps times."""
    aware = datetime.fromtimestamp(unix_ms / 1000, UTC)
    return aware if settings.USE_TZ else timezone.make_naive(aware)


def _text_of(state: str, content_type: str, body: bytes) -> str | None:
    """Return a value as JSON, an exception as Celery writes it; None for what is not to be decoded here."""
    base = content_type.partition(";")[0]
    if base == YAML and base == content_type:
        return body.decode(errors="replace")
    if base not in (MSGPACK, JSON):
        return None
    try:
        value = _READER.loads(content_type, body)
    except FastQError:  # the record is kept whatever can be shown of it
        return None
    if state in states.EXCEPTION_STATES and isinstance(value, Mapping) and value.keys() >= {"type", "module", "args"}:
        value = {"exc_type": value["type"], "exc_message": value["args"], "exc_module": value["module"]}
    return _json(value)


def _json(value: Any) -> str:
    try:
        _, text = _READER.dumps("json", value)
        return text.decode()
    except FastQError:
        return json.dumps(repr(value))
