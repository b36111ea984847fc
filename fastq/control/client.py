"""``Control``: what ``app.control`` is, in parts by duty."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from fastq.control.inspecting import Inspect
from fastq.control.online import Online
from fastq.control.pausing import Pausing
from fastq.control.revoking import Revoking
from fastq.control.steering import Steering
from fastq.control.stores import open_app_inspector, queues_of

if TYPE_CHECKING:
    from fastq.app import FastQ

__all__ = ["Control"]


class Control(Revoking, Pausing, Steering, Online):
    """Steer the workers of an application. Opens its connections for each call; safe from any thread."""

    def __init__(self, app: FastQ | None = None) -> None:
        if app is None:
            from fastq.shared import get_current_app  # lazy: shared imports app, which imports this module

            app = get_current_app()
        self.app = app

    def inspect(
        self,
        destination: str | Iterable[str] | None = None,
        timeout: float | None = 1.0,
        callback: Callable[[dict[str, Any]], object] | None = None,
        connection: Any = None,
        limit: int | None = None,
        pattern: str | None = None,
        matcher: str | None = None,
    ) -> Inspect:
        """Return what asks nodes: ``app.control.inspect().active()``. The arguments are those of ``broadcast``."""
        return Inspect(self, destination, timeout, callback, connection, limit, pattern, matcher)

    def purge(self, connection: Any = None) -> int:
        """Drop the ready and delayed messages of the application's queues; return how many. There is no undo."""
        inspector = open_app_inspector(self.app)
        try:
            return sum(inspector.purge(name) for name in queues_of(self.app))
        finally:
            inspector.close()

    discard_all = purge

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.app.name}>"
