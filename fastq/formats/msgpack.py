"""MessagePack with extension types: datetime, date, time, timedelta, Decimal, UUID, set, frozenset and tuple survive.

The compiled core writes and reads plain values itself, and calls ``default`` and ``ext_hook`` for the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any
from uuid import UUID

import msgpack  # type: ignore[import-untyped]

from fastq import _core
from fastq.exceptions import DecodeError, EncodeError
from fastq.formats import own
from fastq.formats.moments import datetime_text, read_datetime
from fastq.formats.naming import cannot

__all__ = ["default", "dumps", "ext_hook", "loads"]

# --- extension types of msgpack: codes are part of the wire format, never reused ---

EXT_TUPLE = 1
EXT_SET = 2
EXT_FROZENSET = 3
EXT_DATETIME = 4  # ISO 8601 text, with "[zone]" behind it where the zone has a name
EXT_DATE = 5
EXT_TIME = 6
EXT_TIMEDELTA = 7  # array [days, seconds, microseconds]
EXT_DECIMAL = 8
EXT_UUID = 9  # 16 bytes
EXT_REGISTERED = 10  # array [name given to register_type, plain value]
#: MessagePack's own timestamp, written by other implementations
EXT_TIMESTAMP = -1

ExtType = msgpack.ExtType
_packb = _core.packb
_unpackb = _core.unpackb


def default(obj: object) -> object:
    """Return what stands for ``obj`` in MessagePack: an extension type, or the plain value of a subclass of a plain type."""
    kind = type(obj)
    if kind is tuple:
        return ExtType(EXT_TUPLE, _packb(list(obj), default))  # type: ignore[call-overload]
    write = _WRITERS.get(kind)
    if write is not None:
        return write(obj)
    for base, write in _WRITERS.items():
        if isinstance(obj, base):
            return write(obj)
    found = own.writer_of(obj)
    if found is not None:
        return ExtType(EXT_REGISTERED, _packb([found[0], found[1](obj)], default))
    for base, plain in _PLAIN:
        if isinstance(obj, base):
            return plain(obj)
    if (plain_form := getattr(kind, "__json__", None)) is not None:
        return plain_form(obj)
    raise EncodeError(cannot(obj))


def ext_hook(code: int, data: bytes) -> object:
    """Return the value of an extension type; DecodeError for an unknown code or a malformed payload."""
    try:
        read = _READERS[code]
    except KeyError:
        raise DecodeError(f"unknown MessagePack extension type {code} (a newer fastq, or another program, wrote this)") from None
    try:
        return read(data)
    except DecodeError:
        raise
    except (ValueError, TypeError, OverflowError, InvalidOperation) as exc:
        raise DecodeError(f"malformed MessagePack extension type {code}: {exc}") from exc


def _write_datetime(value: datetime) -> object:
    return ExtType(EXT_DATETIME, datetime_text(value).encode())


def _timedelta(data: bytes) -> timedelta:
    days, seconds, microseconds = _unpackb(data)
    return timedelta(days, seconds, microseconds)


_WRITERS: dict[type, Callable[[Any], object]] = {
    datetime: _write_datetime,
    date: lambda v: ExtType(EXT_DATE, v.isoformat().encode()),
    time: lambda v: ExtType(EXT_TIME, v.isoformat().encode()),
    timedelta: lambda v: ExtType(EXT_TIMEDELTA, _packb([v.days, v.seconds, v.microseconds])),
    Decimal: lambda v: ExtType(EXT_DECIMAL, str(v).encode()),
    UUID: lambda v: ExtType(EXT_UUID, v.bytes),
    set: lambda v: ExtType(EXT_SET, _packb(list(v), default)),
    frozenset: lambda v: ExtType(EXT_FROZENSET, _packb(list(v), default)),
    tuple: lambda v: ExtType(EXT_TUPLE, _packb(list(v), default)),
}

#: subclasses of plain types (StrEnum, IntEnum, defaultdict, numpy's float64 ...) and buffers travel as the plain type
_PLAIN: tuple[tuple[type, Callable[[Any], object]], ...] = (
    (bool, bool),
    (int, int),
    (float, float),
    (str, str.__str__),
    (bytes, bytes),
    (bytearray, bytes),
    (memoryview, bytes),
    (list, list),
    (dict, dict),
)

_READERS: dict[int, Callable[[bytes], object]] = {
    EXT_TUPLE: lambda d: tuple(_unpackb(d, ext_hook)),
    EXT_SET: lambda d: set(_unpackb(d, ext_hook)),
    EXT_FROZENSET: lambda d: frozenset(_unpackb(d, ext_hook)),
    EXT_DATETIME: lambda d: read_datetime(d.decode()),
    EXT_DATE: lambda d: date.fromisoformat(d.decode()),
    EXT_TIME: lambda d: time.fromisoformat(d.decode()),
    EXT_TIMEDELTA: _timedelta,
    EXT_DECIMAL: lambda d: Decimal(d.decode()),
    EXT_UUID: lambda d: UUID(bytes=d),
    EXT_REGISTERED: lambda d: own.made(*_unpackb(d, ext_hook)),
    EXT_TIMESTAMP: lambda d: msgpack.Timestamp.from_bytes(d).to_datetime().astimezone(UTC),
}


def dumps(value: object) -> bytes:
    return _packb(value, default)


def loads(data: bytes) -> Any:
    return _unpackb(data, ext_hook)
