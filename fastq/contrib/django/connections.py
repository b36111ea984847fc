"""Close Django's connections around tasks, as Django does around requests."""

from __future__ import annotations

from typing import Any

from django.core.cache import close_caches  # type: ignore[import-untyped]
from django.db import close_old_connections, connections, reset_queries  # type: ignore[import-untyped]

from fastq import signals

__all__ = ["close_all", "kept_open", "watch_tasks"]

#: connections that came over a fork; kept, so that no destructor says good-bye on the parent's
_inherited: list[object] = []
_watching = False


def close_all() -> None:
    """Close every connection of this thread."""
    connections.close_all()


def kept_open() -> bool:
    """Say whether threads of this process keep their connections between calls: in a worker, tasks close them."""
    return _watching


def watch_tasks(**_: Any) -> None:
    """Begin a worker process: drop what came over the fork, and look after connections from now on."""
    global _watching
    for connection in connections.all(initialized_only=True):
        _inherited.append(connection)
        del connections[connection.alias]
    _watching = True
    signals.task_prerun.connect(_before)
    signals.task_postrun.connect(_after)


def _before(sender: Any = None, **_: Any) -> None:
    """Close connections that have broken or are over CONN_MAX_AGE; those within a transaction are left alone."""
    if not _is_eager(sender):
        reset_queries()
        close_old_connections()


def _after(sender: Any = None, **_: Any) -> None:
    if not _is_eager(sender):
        close_old_connections()
        close_caches()


def _is_eager(task: Any) -> bool:
    """Say whether a task runs inside of another one, whose transaction it may be in."""
    return bool(task is not None and task.request.is_eager)
