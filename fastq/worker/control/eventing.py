"""Commands that switch events on and off."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastq.worker.node import Node

__all__ = ["COMMANDS"]


def enable_events(node: Node) -> dict[str, str]:
    """Tell monitors of tasks."""
    return {"ok": "task events enabled" if node.services.events.enable() else "task events already enabled"}


def disable_events(node: Node) -> dict[str, str]:
    """Tell monitors of no task."""
    return {"ok": "task events disabled" if node.services.events.disable() else "task events already disabled"}


def listening(node: Node) -> dict[str, str]:
    """Somebody has begun to listen to events: what the next heartbeat would say is said now."""
    node.services.heartbeat.now()
    return {"ok": "heard"}


#: name -> ``command(node, **arguments)``
COMMANDS: dict[str, Callable[..., Any]] = {
    "enable_events": enable_events,
    "disable_events": disable_events,
    "listening": listening,
}
