"""JSON, with marks for the values that it has no type for. A tuple comes back as a list."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from fastq.exceptions import EncodeError
from fastq.formats import own
from fastq.formats.moments import datetime_text, read_datetime
from fastq.formats.naming import cannot

__all__ = ["dumps", "loads"]

#: marks a value that JSON has no type for; the same layout as kombu's
_TYPE, _VALUE = "__type__", "__value__"

_WRITERS: dict[type, tuple[str, Callable[[Any], object]]] = {
    datetime: ("datetime", datetime_text),
    date: ("date", lambda v: v.isoformat()),
    time: ("time", lambda v: v.isoformat()),
    timedelta: ("timedelta", lambda v: [v.days, v.seconds, v.microseconds]),
    Decimal: ("decimal", str),
    UUID: ("uuid", str),
    bytes: ("bytes", lambda v: base64.b64encode(v).decode()),
    set: ("set", list),
    frozenset: ("frozenset", list),
}
_READERS: dict[str, Callable[[Any], object]] = {
    "datetime": read_datetime,
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "timedelta": lambda v: timedelta(*v),
    "decimal": Decimal,
    "uuid": UUID,
    "bytes": base64.b64decode,
    "set": set,
    "frozenset": frozenset,
}


def _default(obj: object) -> object:
    found = _WRITERS.get(type(obj)) or own.writer_of(obj)
    if found is None:
        if isinstance(obj, bytearray | memoryview):
            obj = bytes(obj)
        found = next((pair for base, pair in _WRITERS.items() if isinstance(obj, base)), None)
        if found is None:
            plain_form = getattr(type(obj), "__json__", None)
            if plain_form is None:
                raise EncodeError(cannot(obj))
            return plain_form(obj)
    name, write = found
    return {_TYPE: name, _VALUE: write(obj)}


def _object(value: dict[str, Any]) -> object:
    if len(value) == 2 and _TYPE in value and _VALUE in value:
        name = value[_TYPE]
        read = _READERS.get(name) if isinstance(name, str) else None
        if read is None and isinstance(name, str) and name in own.readers:
            return own.made(name, value[_VALUE])
        if read is not None:
            return read(value[_VALUE])
    return value


_encoder = json.JSONEncoder(default=_default, separators=(",", ":"), ensure_ascii=False)
_decoder = json.JSONDecoder(object_hook=_object)


def dumps(value: object) -> bytes:
    return _encoder.encode(value).encode()


def loads(data: bytes) -> Any:
    return _decoder.decode(data.decode())
