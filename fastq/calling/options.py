"""The options of ``apply_async`` and its kin, all in one place.

| option | meaning here |
|---|---|
| ``task_id`` | the call's id: text of 1 to 255 bytes; made anew if not given |
| ``countdown`` | s or timedelta: not before; wins over ``eta`` |
| ``eta`` | datetime (naive: in the application's time zone): not before |
| ``expires`` | s from now, timedelta or datetime: dropped as REVOKED if it has not started by then |
| ``link``, ``link_error`` | a signature, or a list of them: called with the result, or if it fails for good |
| ``queue`` | where it is sent |
| ``exchange``, ``routing_key`` | resolved to a queue by ``task_routes`` and ``task_queues``, as without AMQP they can be |
| ``priority`` | 0 to 9, higher is more urgent (``task_priority_order="celery"``: 0 is the most urgent) |
| ``serializer``, ``compression`` | how the arguments are written |
| ``headers`` | plain values by name; attributes of ``self.request`` |
| ``ignore_result`` | no result is kept |
| ``time_limit``, ``soft_time_limit`` | s; over those of the task |
| ``shadow`` | the name that logs and events show |
| ``add_to_parent`` | False: sent inside a task, it is not among its ``children`` |
| ``retry``, ``retry_policy`` | of sending: see ``task_publish_retry_policy`` |
| ``root_id``, ``parent_id``, ``group_id``, ``group_index`` | what the message says; set by themselves inside tasks and canvases |
| ``retries`` | how often it is said to have been retried already |
| ``chain`` | signatures that follow it, the next one last, as ``self.request.chain`` has them |
| ``chord`` | the join that it counts for, as ``self.request.chord`` has it; a signature is refused: use ``fastq.chord`` |
| ``replaced_task_nesting`` | how many replacements led here; carried |
| ``reply_to``, ``app_id``, ``argsrepr``, ``kwargsrepr``, ``origin`` | carried, and shown by ``self.request`` |
| ``result_cls`` | made instead of AsyncResult: ``result_cls(task_id, app=app)`` |
| ``router`` | an object with ``route`` used instead of the application's |
| ``throw`` | where it runs here at once (``task_always_eager``): raise what the task raises |

Accepted and without meaning, because what they ask for holds always or has nothing to act on: ``connection``, ``producer``,
``publisher`` (the application's own connection is shared by all), ``declare`` (queues exist when they are used), ``mandatory``,
``immediate`` (a message is kept whether or not somebody reads the queue), ``delivery_mode`` (everything is kept), ``timeout``,
``confirm_timeout`` (``retry_policy`` and the transport's timeouts bound the wait), ``task_type``, ``utc``, ``correlation_id``.

Anything else is a TypeError: Celery hands unknown options to its transport, so that a misspelt one is never noticed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypedDict

__all__ = ["CALLED", "IGNORED", "PLANNED", "CallOptions", "ManyOptions", "split"]


class ManyOptions(TypedDict, total=False):
    """Options that many calls can share; None is as if not given."""

    countdown: float | timedelta | None
    eta: datetime | None
    expires: float | timedelta | datetime | None
    link: Any
    link_error: Any
    queue: str | None
    exchange: Any
    routing_key: str | None
    priority: int | None
    headers: Mapping[str, Any] | None
    serializer: str | None
    compression: str | None
    ignore_result: bool | None
    time_limit: float | None
    soft_time_limit: float | None
    shadow: str | None
    add_to_parent: bool | None
    retry: bool | None
    retry_policy: Mapping[str, Any] | None
    reply_to: str | None
    group_id: str | None
    group_index: int | None
    chord: Any
    chain: Sequence[Any] | None
    root_id: str | None
    parent_id: str | None
    retries: int | None
    replaced_task_nesting: int | None
    result_cls: type[Any] | None
    app_id: str | None
    argsrepr: str | None
    kwargsrepr: str | None
    origin: str | None
    router: Any
    throw: bool | None
    connection: Any
    producer: Any
    publisher: Any
    declare: Any
    mandatory: bool | None
    immediate: bool | None
    delivery_mode: int | str | None
    timeout: float | None
    confirm_timeout: float | None
    task_type: Any
    utc: bool | None
    correlation_id: str | None


class CallOptions(ManyOptions, total=False):
    """Options of one call."""

    task_id: str | None


#: options of which a call's plan is made: a few combinations are used again and again
PLANNED = frozenset(
    {
        "queue", "exchange", "routing_key", "priority", "serializer", "compression", "expires", "ignore_result", "retry",
        "retry_policy", "time_limit", "soft_time_limit",
    }
)  # fmt: skip
#: options accepted for the sake of code that passes them
IGNORED = frozenset(
    {
        "connection", "producer", "publisher", "declare", "mandatory", "immediate", "delivery_mode", "timeout", "confirm_timeout",
        "task_type", "utc", "correlation_id",
    }
)  # fmt: skip
#: options of the single call
CALLED = CallOptions.__optional_keys__ - PLANNED - IGNORED


def split(options: Mapping[str, Any], what: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options that make a plan and those of the single call; TypeError for unknown ones. None means not given."""
    planned: dict[str, Any] = {}
    call: dict[str, Any] = {}
    for key, value in options.items():
        if key in PLANNED:
            if value is not None:
                planned[key] = value
        elif key in CALLED:
            if value is not None:
                call[key] = value
        elif key not in IGNORED:
            from fastq.config import suggest  # lazy: only where an option is refused

            raise TypeError(
                f"{what} got an unexpected option {key!r}{suggest(key, sorted(PLANNED | CALLED))}; what a task is to be told goes "
                "into headers="
            )
    return planned, call
