"""The Redis transport: ``redis://``, ``rediss://``, ``unix://``, ``redis+socket://``. Redis 6.2 and later, Valkey 7.2 and later."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fastq.transports.base import Scope, TransportOptions
from fastq.transports.redis import sockets
from fastq.transports.redis.backend import RedisBackend
from fastq.transports.redis.broker import RedisBroker
from fastq.transports.redis.control import RedisChannel

if TYPE_CHECKING:
    from fastq.transports.redis.examining import RedisExaminer
    from fastq.transports.redis.inspector import RedisInspector
    from fastq.transports.redis.timetable import RedisTimetable

__all__ = [
    "RedisBackend",
    "RedisBroker",
    "RedisChannel",
    "RedisExaminer",
    "RedisInspector",
    "RedisTimetable",
    "open_backend",
    "open_broker",
    "open_channel",
    "open_examiner",
    "open_inspector",
    "open_timetable",
    "preload",
]

_LATER = {"RedisExaminer": "examining", "RedisInspector": "inspector", "RedisTimetable": "timetable"}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def open_broker(url: str, options: TransportOptions) -> RedisBroker:
    return RedisBroker(url, options)


def open_backend(url: str, options: TransportOptions) -> RedisBackend:
    return RedisBackend(url, options)


def open_inspector(url: str, options: TransportOptions) -> RedisInspector:
    # lazy: a worker process needs none
    from fastq.transports.redis.inspector import RedisInspector

    return RedisInspector(url, options)


def open_examiner(url: str, options: TransportOptions, scope: Scope) -> RedisExaminer:
    # lazy: for the doctor
    from fastq.transports.redis.examining import RedisExaminer

    return RedisExaminer(url, options, scope)


def open_channel(url: str, options: TransportOptions) -> RedisChannel:
    return RedisChannel(url, options)


def open_timetable(url: str, options: TransportOptions, scope: str) -> RedisTimetable:
    # lazy: for beat
    from fastq.transports.redis.timetable import RedisTimetable

    return RedisTimetable(url, options, scope)


def preload(url: str) -> None:
    """Import what connections to the URL will need."""
    scheme, _, rest = url.partition("://")
    sockets.preload(tls=scheme in ("rediss", "sentinel+tls") or "ssl" in rest)
