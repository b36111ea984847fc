"""Commands that end or renew what runs: shutdown, pool_restart; and heartbeat."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastq.worker.node import Node

__all__ = ["COMMANDS", "Renewal"]

logger = logging.getLogger("fastq.worker.control")

#: seconds between looks whether a process has been replaced
LOOK_S = 0.1
#: seconds for which a process that still runs something keeps the next ones from being replaced
PATIENCE_S = 10.0


def shutdown(node: Node, msg: str = "Got shutdown from remote") -> Any:
    """Stop the node, warm: what runs is finished, what waits goes back to its queues."""
    logger.warning("%s", msg)
    # the answer goes first
    node.loop.after(0, lambda: node.stop("warm"))
    return {"ok": "shutting down"}


def heartbeat(node: Node) -> Any:
    """Say at once how the node is."""
    node.services.heartbeat.now()
    return {"ok": "heartbeat sent"}


def pool_restart(node: Node, modules: Sequence[str] | None = None, reload: bool = False, reloader: Any = None) -> Any:
    """Replace all worker processes, one after the other; each finishes what it runs."""
    if modules or reload or reloader:
        return {
            "error": "pool_restart: modules cannot be loaded again in a running worker: its processes share what was imported at "
            "the start; restart the worker (fastq multi restart, or fastq worker --reload while developing)"
        }
    pids = [process.pid for process in node.processes() if process.pid and not process.spent]
    if not node.replaces:
        return {"error": "pool_restart: this node is one process, and nobody would be left to start another; restart the worker"}
    Renewal(node, pids).look()
    return {"ok": f"{len(pids)} processes are being replaced, one after the other"}


class Renewal:
    """Replace processes one after the other."""

    def __init__(self, node: Node, pids: Sequence[int]) -> None:
        self._node = node
        self._left = list(pids)
        self._until_s = 0.0

    def look(self) -> None:
        """Go on with the next one when the last has its successor."""
        node = self._node
        if node.stage:
            return  # it stops: no process takes the place of another any more
        serving = sum(process.ready and not process.spent for process in node.processes())
        if serving >= node.wanted or time.monotonic() > self._until_s > 0:
            self._replace_one()
        if self._left:
            node.loop.after(LOOK_S, self.look)

    def _replace_one(self) -> None:
        while self._left:
            pid = self._left.pop(0)
            for process in self._node.processes():
                if process.pid == pid and not process.spent:
                    self._node.order({"do": "recycle", "why": "pool_restart"}, only=process.index)
                    self._until_s = time.monotonic() + PATIENCE_S
                    return


COMMANDS: dict[str, Callable[..., Any]] = {
    "shutdown": shutdown,
    "heartbeat": heartbeat,
    "pool_restart": pool_restart,
}
