"""The Redis transport: ``redis://``, ``rediss://``, ``unix://``, ``redis+socket://``. Redis 6.2 and later, Valkey 7.2 and later."""

from __future__ import annotations

from fastq.transports.base import Scope, TransportOptions
from fastq.transports.redis.backend import RedisBackend
from fastq.transports.redis.broker import RedisBroker
from fastq.transports.redis.control import RedisChannel
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
]


def open_broker(url: str, options: TransportOptions) -> RedisBroker:
    return RedisBroker(url, options)


def open_backend(url: str, options: TransportOptions) -> RedisBackend:
    return RedisBackend(url, options)


def open_inspector(url: str, options: TransportOptions) -> RedisInspector:
    return RedisInspector(url, options)


def open_examiner(url: str, options: TransportOptions, scope: Scope) -> RedisExaminer:
    return RedisExaminer(url, options, scope)


def open_channel(url: str, options: TransportOptions) -> RedisChannel:
    return RedisChannel(url, options)


def open_timetable(url: str, options: TransportOptions, scope: str) -> RedisTimetable:
    return RedisTimetable(url, options, scope)
