"""Read ``sqlite:///file?options`` as SQLAlchemy does: three slashes and a relative path, or four and an absolute one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from urllib.parse import parse_qsl

from fastq.exceptions import ImproperlyConfigured

__all__ = ["Target", "parse"]

#: what ``?synchronous=`` may say. "normal" survives every death of a process; power loss can take the last moments of it.
#: "full" also survives power loss and costs an fsync per write
SYNCHRONOUS = ("normal", "full")


@dataclass(frozen=True, slots=True)
class Target:
    """A database file and how to open it."""

    url: str
    #: absolute, so that a later ``chdir`` changes nothing
    path: str
    synchronous: str = "normal"


def parse(url: str) -> Target:
    """Return what the URL names; ImproperlyConfigured says how it should look."""
    rest = url.partition("://")[2]
    place, _, query = rest.partition("?")
    if not place.startswith("/"):
        if place:
            raise ImproperlyConfigured(
                f"{url!r} has a host name, and SQLite has none: write sqlite:///relative/path.db or sqlite:////absolute/path.db"
            )
        raise ImproperlyConfigured(f"{url!r} names no file: write sqlite:///relative/path.db, or memory:// for a store in memory")
    path = place[1:]
    if path in ("", ":memory:"):
        raise ImproperlyConfigured(f"{url!r} names no file that processes could share; memory:// is a store inside one process")
    if "\0" in path:
        raise ImproperlyConfigured(f"{url!r} has a NUL character in its path")
    options = dict(parse_qsl(query, keep_blank_values=True))
    synchronous = options.pop("synchronous", "normal").lower()
    if synchronous not in SYNCHRONOUS:
        raise ImproperlyConfigured(f"{url!r}: synchronous={synchronous} is not one of {', '.join(SYNCHRONOUS)}")
    if options:
        raise ImproperlyConfigured(f"{url!r}: unknown option {', '.join(sorted(options))}; known is synchronous")
    return Target(url, os.path.abspath(path), synchronous)
