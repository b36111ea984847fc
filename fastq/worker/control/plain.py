"""Make of a value what every client can read: replies are MessagePack without extensions."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from fastq._core import packb
from fastq.exceptions import EncodeError

__all__ = ["pack", "plain"]

#: containers in each other; what is deeper is shown as text
DEPTH_MAX = 50


def pack(value: Any) -> bytes:
    """Write a value as MessagePack, whatever it is."""
    try:
        return packb(value, plain)
    except EncodeError:  # integers beyond 64 bits, or containers too deep in each other
        return packb(_reduced(value, DEPTH_MAX))


def plain(value: Any) -> Any:
    """Return a plain value for one that is not (``default`` of the core's ``packb``): lists for sequences and sets, dates as ISO
    text, everything else as its repr."""
    if isinstance(value, tuple | set | frozenset | range):
        return list(value)
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    return _shown(value)


def _shown(value: Any) -> str:
    # lazy: brings the serializers, and most supervisors need none
    from fastq.remote import repr_safe

    return repr_safe(value)


def _reduced(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool | float | str | bytes):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**64 else _shown(value)
    if depth and isinstance(value, Mapping):
        return {_key(key): _reduced(one, depth - 1) for key, one in value.items()}
    if depth and isinstance(value, list | tuple | set | frozenset):
        return [_reduced(one, depth - 1) for one in value]
    return plain(value) if isinstance(value, datetime.date | datetime.time) else _shown(value)


def _key(key: Any) -> Any:
    return key if isinstance(key, str) else _shown(key)
