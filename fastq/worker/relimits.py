"""Time limits that were set while the worker runs (``app.control.time_limit``).

A run with limits goes through ``Outcomes``; that is a property of the task's entry in the frozen registry. So a task that had none
gets another entry, in another registry: the others keep theirs, with what was measured of them, and pay nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fastq.records import Entry

if TYPE_CHECKING:
    from fastq.records import Registry

__all__ = ["NewLimits"]


class NewLimits:
    """Keep the limits that replace those of tasks, by name. Owned by the consumer's loop; slots read it."""

    def __init__(self, registry: Callable[[], Registry]) -> None:
        """``registry`` returns the application's tasks, frozen; another one when a task was added."""
        self._registry = registry
        #: task name -> (soft, hard) in seconds; None: as the settings say, 0: none
        self._limits: dict[str, tuple[float | None, float | None]] = {}
        self._special: dict[Entry, Entry] = {}
        self._base: Registry | None = None
        self._made: Registry | None = None

    def obey(self, order: Mapping[str, Any]) -> None:
        """Take in an order: from the next run on."""
        self._limits[order["task"]] = order["soft"], order["hard"]
        self._base = None

    def get(self, name: str) -> tuple[float | None, float | None] | None:
        """Return what replaces the limits of a task; None: nothing does."""
        return self._limits.get(name)

    def registry(self) -> Registry:
        """Return the tasks; those with new limits have entries whose runs go through Outcomes."""
        base = self._registry()
        if base is not self._base or self._made is None:
            self._base, self._made = base, self._replaced(base)
        return self._made

    def _replaced(self, base: Registry) -> Registry:
        plain = [entry for name in self._limits if (entry := base.get(name)) is not None and not entry.special]
        if not plain:
            return base
        entries = (base.get(name) for name in base.names())
        return type(base)([self._special_one(entry) if entry in plain else entry for entry in entries if entry is not None])

    def _special_one(self, entry: Entry) -> Entry:
        made = self._special.get(entry)
        if made is None:
            made = self._special[entry] = Entry(
                entry.name,
                entry.fn,
                entry.task,
                is_async=entry.is_async,
                ignore_result=entry.ignore_result,
                track_started=entry.track_started,
                acks_late=entry.acks_late,
                special=True,
            )
        return made
