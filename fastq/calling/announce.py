"""Tell before_task_publish and after_task_publish of a call, in the words of Celery's messages.

Receivers of before_task_publish may add to ``headers``, as tracing libraries do: what they add travels with the message and is an
attribute of ``self.request``. Other changes that they make change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fastq.calling.values import plain_headers
from fastq.signals import after_task_publish, before_task_publish, on_change

if TYPE_CHECKING:
    from fastq.calling.plan import Plan

__all__ = ["before", "listened"]

#: whether anybody listens to what is published: one look per call instead of two
listened = [False]


def _look_who_listens() -> None:
    listened[0] = bool(before_task_publish.receivers or after_task_publish.receivers)


on_change(_look_who_listens)
_look_who_listens()


def before(
    plan: Plan,
    task_id: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    options: dict[str, Any] | None,
    call: Mapping[str, Any],
    expires_ms: int | None,
) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Send before_task_publish; return the envelope's options as they are then, and what after_task_publish is told."""
    get = (options or {}).get
    limits = (get("flow") or {}).get("limits") or [None, None]
    eta_ms = get("eta_ms")
    told: dict[str, Any] = {
        "lang": "py",
        "task": plan.name,
        "id": task_id,
        "root_id": get("root_id") or task_id,
        "parent_id": get("parent_id"),
        "group": call.get("group_id"),
        "group_index": call.get("group_index"),
        "retries": call.get("retries", 0),
        "eta": _iso(eta_ms),
        "expires": _iso(expires_ms),
        "timelimit": [limits[1], limits[0]],
        "argsrepr": get("argsrepr") or repr(tuple(args)),
        "kwargsrepr": get("kwargsrepr") or repr(dict(kwargs)),
        "origin": get("origin") or "",
        "ignore_result": plan.ignore_result,
        "shadow": get("shadow"),
    }
    headers = {**told, **(get("headers") or {})}
    body = (tuple(args), dict(kwargs), {"callbacks": None, "errbacks": None, "chain": None, "chord": None})
    properties = {"correlation_id": task_id, "reply_to": get("reply_to") or "", "priority": get("priority", 0)}
    if before_task_publish.receivers:
        before_task_publish.send(
            sender=plan.name, body=body, exchange="", routing_key=plan.queue, headers=headers, properties=properties, declare=[],
            retry_policy=plan.policy._asdict(),
        )  # fmt: skip
        own = {key: value for key, value in headers.items() if key not in told}
        if own != (get("headers") or {}):
            options = {**(options or {}), "headers": plain_headers(plan.name, own)}
    announced = {"sender": plan.name, "headers": headers, "body": body, "exchange": "", "routing_key": plan.queue}
    return options, announced


def _iso(ms: int | None) -> str | None:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat() if ms else None
