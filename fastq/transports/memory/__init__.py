"""The transport inside one process, for tests: the laws of the others, in dictionaries under one lock.

``memory://`` and ``memory://name`` are stores that every Broker, Backend and Inspector of the process shares by name; a fork gets
a copy of its own. ``store("name").clock`` may be replaced by a simulated clock, ``reset("name")`` empties a store.
"""

from __future__ import annotations

from fastq.exceptions import ImproperlyConfigured
from fastq.transports.base import TransportOptions
from fastq.transports.memory.backend import MemoryBackend
from fastq.transports.memory.broker import MemoryBroker
from fastq.transports.memory.inspector import MemoryInspector
from fastq.transports.memory.stores import MemoryStore, reset, store

__all__ = ["MemoryStore", "open_backend", "open_broker", "open_inspector", "reset", "store"]


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
