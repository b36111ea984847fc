"""When a call is due, and when it is too late: countdown, eta and expires in milliseconds."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastq.app import FastQ

__all__ = ["expires_after_ms", "expires_at_ms", "expires_ms", "when"]


def when(app: FastQ, now_ms: int, countdown: float | timedelta | None, eta: datetime | None) -> tuple[int, int]:
    """Return (delay in ms, due at in ms); as in Celery a countdown wins over an eta."""
    if countdown is not None:
        try:
            seconds = countdown.total_seconds() if isinstance(countdown, timedelta) else float(countdown)
        except (TypeError, ValueError):
            raise TypeError(f"countdown={countdown!r}: expected a number of seconds or a timedelta") from None
        if seconds != seconds or seconds == float("inf"):
            raise ValueError(f"countdown={countdown!r}: expected a number of seconds")
        return max(0, round(seconds * 1000)), 0
    if eta is None:
        return 0, 0
    due_ms = round(app.aware(_datetime("eta", eta)).timestamp() * 1000)
    return (0, due_ms) if due_ms > now_ms else (0, 0)


def expires_ms(app: FastQ, now_ms: int, expires: float | timedelta | datetime | str | None) -> int | None:
    """Return when a call that has not started is dropped, Unix ms; None: never."""
    if expires is None:
        return None
    # 0 on the wire means never, and a time in the past means already over
    return expires_at_ms(app, expires) or max(1, now_ms + expires_after_ms(expires))


def expires_at_ms(app: FastQ, expires: Any) -> int:
    """Return the date in Unix ms, 0 if it is none."""
    if isinstance(expires, datetime | str):
        return max(1, round(app.aware(_datetime("expires", expires)).timestamp() * 1000))
    return 0


def expires_after_ms(expires: Any) -> int:
    """Return a number of seconds or a timedelta in ms, 0 for a date; below 0: over already."""
    if expires is None or isinstance(expires, datetime | str):
        return 0
    seconds = expires.total_seconds() if isinstance(expires, timedelta) else expires
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError(f"expires={expires!r}: expected a number of seconds, a timedelta or a datetime")
    return round(seconds * 1000)


def _datetime(option: str, value: Any) -> datetime:
    if isinstance(value, datetime):
        return value
    if isinstance(value, str):  # as self.request has it, and as JSON keeps it
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(f"{option}={value!r}: expected a datetime, or one in ISO 8601") from None
    raise TypeError(f"{option}={value!r}: expected a datetime, got {type(value).__name__}")
