"""The Redis transport: ``redis://``, ``rediss://``, ``unix://``, ``redis+socket://``. Redis 6.2 and later, Valkey 7.2 and later."""

from __future__ import annotations

from fastq.transports.base import Scope, TransportOptions
from fastq.transports.redis.backend import RedisBackend
from fastq.transports.redis.broker import RedisBroker
from fastq.transports.redis.examining import RedisExaminer
from fastq.transports.redis.inspector import RedisInspector

__all__ = [
    "RedisBackend",
    "RedisBroker",
    "RedisExaminer",
    "RedisInspector",
    "open_backend",
    "open_broker",
    "open_examiner",
    "open_inspector",
]


def open_broker(url: str, options: TransportOptions) -> RedisBroker:
    return RedisBroker(url, options)


def open_backend(url: str, options: TransportOptions) -> RedisBackend:
    return RedisBackend(url, options)


def open_inspector(url: str, options: TransportOptions) -> RedisInspector:
    return RedisInspector(url, options)


def open_examiner(url: str, options: TransportOptions, scope: Scope) -> RedisExaminer:
    return RedisExaminer(url, options, scope)
