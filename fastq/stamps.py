"""Revocations by stamp: a record like that of an id, under a name that no task has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

__all__ = ["MARK", "shown", "stamp_names", "stamps_of"]

#: how such a name begins; a zero byte stands before the value, too
MARK = "\0"


def stamp_names(header: str, values: Any) -> Iterator[str]:
    """Return the names under which a header with one of some values is revoked; a single value is one of one."""
    for value in _several(values):
        yield f"{MARK}{header}{MARK}{value}"


def stamps_of(options: Mapping[str, Any] | None) -> Iterator[str]:
    """Return the names under which a message may have been revoked, from its options."""
    headers = (options or {}).get("headers")
    if not isinstance(headers, dict):
        return
    stamped = headers.get("stamped_headers")
    if not isinstance(stamped, list | tuple):
        return
    stamps = headers.get("stamps")
    for header in stamped:
        if isinstance(stamps, dict) and header in stamps:
            yield from stamp_names(header, stamps[header])
        elif header in headers:
            yield from stamp_names(header, headers[header])


def shown(name: str) -> str:
    """Return a task id as it is, and the name of a stamp as ``header=value``."""
    return name[1:].replace(MARK, "=", 1) if name.startswith(MARK) else name


def _several(values: Any) -> Iterable[Any]:
    return values if isinstance(values, list | tuple | set | frozenset) else (values,)
