"""Commands that end tasks of a node: revoke, terminate.

A revocation is a record in the broker. A client makes it, then says so here (``recorded``), so that what runs is ended at once; a
request that comes without one, from Celery's own calls of ``broadcast`` for instance, is recorded here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from fastq.stamps import shown, stamp_names

if TYPE_CHECKING:
    from fastq.worker.node import Node

__all__ = ["COMMANDS"]


def revoke(
    node: Node, task_id: Any = (), terminate: bool = False, signal: Any = None, recorded: bool = False, **_: Any
) -> dict[str, str]:
    """Let tasks not start any more; with ``terminate`` end those that run here."""
    ids = [task_id] if isinstance(task_id, str) else [str(id) for id in task_id]
    if not ids:
        return {"error": "no task id was given"}
    return _revoke(node, ids, _signal_name(signal) if terminate else "", recorded)


def terminate(node: Node, signal: Any = None, task_id: Any = (), recorded: bool = False, **_: Any) -> dict[str, str]:
    """End tasks that run here, and let them not start any more."""
    return revoke(node, task_id, True, signal, recorded)


def revoke_by_stamped_headers(
    node: Node, headers: Any = None, terminate: bool = False, signal: Any = None, recorded: bool = False, **_: Any
) -> dict[str, str]:
    """The same for all tasks with a stamp."""
    if not isinstance(headers, dict) or not headers:
        return {"error": f"headers must be a map of stamps and their values, not {headers!r:.80}"}
    names = [name for header, values in headers.items() for name in stamp_names(header, values)]
    return _revoke(node, names, _signal_name(signal) if terminate else "", recorded)


def _revoke(node: Node, ids: Iterable[str], signal: str, recorded: bool) -> dict[str, str]:
    ids = list(ids)
    if not recorded:
        node.revoke(ids, signal)
    if not signal:
        return {"ok": f"tasks {', '.join(map(shown, ids))} flagged as revoked"}
    running = node.services.cancelling.cancel(dict.fromkeys(ids, signal))
    if not running:
        return {"ok": "terminate: tasks unknown"}
    return {"ok": "terminate: " + ", ".join(f"{run.name}[{run.id}]" for run in running)}


def _signal_name(signal: Any) -> str:
    return signal if isinstance(signal, str) and signal else "SIGTERM"


#: name -> ``command(node, **arguments)``
COMMANDS: dict[str, Callable[..., Any]] = {
    "revoke": revoke,
    "terminate": terminate,
    "revoke_by_stamped_headers": revoke_by_stamped_headers,
}
