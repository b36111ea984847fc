"""How often and when a publish is tried again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["DEFAULT", "NO_RETRY", "RetryPolicy"]


class RetryPolicy(NamedTuple):
    """How often and when a publish is tried again; names and meaning are Celery's."""

    #: None: no end
    max_retries: int | None = 3
    interval_start_s: float = 0.0
    interval_step_s: float = 0.2
    interval_max_s: float = 1.0

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> RetryPolicy:
        """Read ``task_publish_retry_policy``; keys that are missing have their defaults."""
        known = {"max_retries", "interval_start", "interval_step", "interval_max"}
        # Celery's retry_errors and errback are for its client library's own errors
        if unknown := set(values) - known - {"retry_errors", "errback"}:
            raise ValueError(f"unknown keys {sorted(unknown)} in the publish retry policy, expected some of {sorted(known)}")
        retries = values.get("max_retries", 3)
        return cls(
            None if retries is None else int(retries),
            float(values.get("interval_start") or 0.0),
            float(values.get("interval_step", 0.2) or 0.0),
            float(values.get("interval_max", 1.0) or 0.0),
        )

    def pause_s(self, attempt: int) -> float | None:
        """Return how long to wait after the ``attempt``-th failure (from 1), None: give up."""
        if self.max_retries is not None and attempt > self.max_retries:
            return None
        return min(self.interval_start_s + (attempt - 1) * self.interval_step_s, max(self.interval_max_s, self.interval_start_s))


NO_RETRY = RetryPolicy(max_retries=0)
DEFAULT = RetryPolicy()
