"""What the value of an option means: checked, and in the form in which it travels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastq import _core, compression
from fastq.exceptions import EncodeError
from fastq.producer import NO_RETRY, RetryPolicy

__all__ = ["codec", "level", "limits", "plain_headers", "policy", "queue_name"]


def queue_name(name: Any) -> str:
    """Return the name of a queue, or of what describes one."""
    # a Queue of kombu, or of fastq.routes, goes by its name
    name = name if isinstance(name, str) else getattr(name, "name", name)
    if not isinstance(name, str) or not name:
        raise TypeError(f"queue={name!r}: expected a queue's name")
    return name


def level(conf: Any, priority: Any) -> int:
    """Return the broker's level of a priority: as ``task_priority_order`` says, which end is the urgent one."""
    if priority is None:
        priority = conf.task_default_priority
    if priority is None:
        priority = 0
    if isinstance(priority, bool) or not isinstance(priority, int):
        raise TypeError(f"priority={priority!r}: expected a whole number from 0 to 9")
    reverse = conf.get("task_priority_order") == "celery"
    if not 0 <= priority <= 9:
        end = "0 is the most urgent" if reverse else "higher is more urgent"
        raise ValueError(f"priority={priority}: expected 0 to 9, {end}")
    return 9 - priority if reverse else priority


def limits(soft_s: Any, hard_s: Any, task: Any) -> list[float | None] | None:
    """Return the limits of a call, None: as the task says. ValueError for a soft one above the hard one."""
    for option, value in (("soft_time_limit", soft_s), ("time_limit", hard_s)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise TypeError(f"{option}={value!r}: expected a number of seconds")
    soft = soft_s if soft_s is not None or task is None else task.soft_time_limit
    hard = hard_s if hard_s is not None or task is None else task.time_limit
    if soft and hard and soft > hard:
        raise ValueError("soft_time_limit must be less than or equal to time_limit")
    return None if soft_s is None and hard_s is None else [soft_s, hard_s]


def codec(name: str | None) -> str | None:
    """Return the codec of a name, None for none."""
    return None if name is None or name == "" else compression.codec(name)


def policy(conf: Any, retry: bool | None, policy: Mapping[str, Any] | None) -> RetryPolicy:
    """Return how often sending is tried."""
    if not (conf.task_publish_retry if retry is None else retry):
        return NO_RETRY
    return RetryPolicy.of(conf.task_publish_retry_policy if policy is None else {**conf.task_publish_retry_policy, **policy})


def plain_headers(name: str, headers: Mapping[str, Any]) -> dict[str, Any]:
    """Return headers as the envelope has them: plain values only, for every worker reads them before any serializer."""
    if not isinstance(headers, Mapping):
        raise TypeError(f"headers={headers!r}: expected a mapping, got {type(headers).__name__}")
    for key, value in headers.items():
        if not isinstance(key, str):
            raise TypeError(f"headers: the name {key!r} is {type(key).__name__}, expected text")
        try:
            _core.packb(value)
        except (EncodeError, RecursionError):
            raise EncodeError(
                f"{name}: headers[{key!r}] is of type {type(value).__name__}, and headers hold plain values only "
                "(numbers, text, bytes, lists, dicts): send it as text, or as an argument."
            ) from None
    return dict(headers)
