"""The transport inside one process, for tests: the laws of the others, in dictionaries under one lock.

``memory://`` and ``memory://name`` are stores that every Broker, Backend and Inspector of the process shares by name; a fork gets
a copy of its own. ``reset("name")`` empties a store.

**Time.** ``store("name").advance(ms)`` lets time pass at once: what is due gets ready and idle processes are woken for it, results
and joins expire, rate limits give their turns. ``store("name").clock`` may also be replaced by any function that returns seconds,
one that stands still for example; then ``tick()`` after each of its steps makes due messages ready and wakes. ``next_due_ms()``
says how far the next step may go.
"""

from __future__ import annotations

from fastq.exceptions import ImproperlyConfigured
from fastq.transports.base import TransportOptions
from fastq.transports.memory.backend import MemoryBackend
from fastq.transports.memory.broker import MemoryBroker
from fastq.transports.memory.control import MemoryChannel
from fastq.transports.memory.inspector import MemoryInspector
from fastq.transports.memory.stores import MemoryStore, reset, store
from fastq.transports.memory.timetable import MemoryTimetable

__all__ = ["MemoryStore", "open_backend", "open_broker", "open_channel", "open_inspector", "open_timetable", "reset", "store"]


def _store_of(url: str) -> MemoryStore:
    name, _, query = url.partition("://")[2].partition("?")
    if query:
        raise ImproperlyConfigured(f"{url!r}: memory:// has no options, only a name: memory://name")
    return store(name.strip("/"))


def open_broker(url: str, options: TransportOptions) -> MemoryBroker:
    return MemoryBroker(url, _store_of(url), options)


def open_backend(url: str, options: TransportOptions) -> MemoryBackend:
    return MemoryBackend(url, _store_of(url), options)


def open_inspector(url: str, options: TransportOptions) -> MemoryInspector:
    return MemoryInspector(url, _store_of(url), options)


def open_channel(url: str, options: TransportOptions) -> MemoryChannel:
    return MemoryChannel(url, _store_of(url))


def open_timetable(url: str, options: TransportOptions, scope: str) -> MemoryTimetable:
    return MemoryTimetable(url, _store_of(url), scope)
