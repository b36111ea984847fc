"""Types of the application, which travel in msgpack and json by the name they were registered with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastq.exceptions import DecodeError

__all__ = ["made", "readers", "register_type", "writer_of", "writers"]

#: names that mean something already
BUILT_IN = ("datetime", "date", "time", "timedelta", "decimal", "uuid", "bytes", "set", "frozenset")

writers: dict[type, tuple[str, Callable[[Any], object]]] = {}
readers: dict[str, Callable[[Any], object]] = {}


def register_type(cls: type, name: str, encode: Callable[[Any], object], decode: Callable[[Any], object]) -> None:
    """Let values of a class of one's own travel in msgpack and json.

    ``encode(value)`` returns a plain value, ``decode(plain)`` makes the value of it again. ``name`` is what the message says and
    must mean the same wherever it is read; registering it again replaces it. Subclasses are written as the class itself. (A class
    with a method ``__json__`` needs no registration to be sent, and arrives as what that returns.)
    """
    if not isinstance(cls, type):
        raise TypeError(f"register_type takes a class, not {cls!r}")
    if not isinstance(name, str) or not name or name in BUILT_IN:
        raise ValueError(f"the name {name!r} cannot be registered: expected text that is none of {', '.join(BUILT_IN)}")
    writers[cls] = (name, encode)
    readers[name] = decode


def writer_of(obj: object) -> tuple[str, Callable[[Any], object]] | None:
    if not writers:
        return None
    return next((writers[kind] for kind in type(obj).__mro__ if kind in writers), None)


def made(name: str, value: object) -> object:
    read = readers.get(name)
    if read is None:
        raise DecodeError(
            f"the type {name!r} is not registered here: call fastq.serialization.register_type for it where the worker imports it"
        )
    return read(value)
