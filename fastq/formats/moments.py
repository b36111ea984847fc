"""Datetimes as text that keeps the name of their zone: ISO 8601, then ``[Europe/Paris]``."""

from __future__ import annotations

from datetime import datetime

__all__ = ["datetime_text", "read_datetime"]


def datetime_text(value: datetime) -> str:
    text = value.isoformat()
    key = getattr(value.tzinfo, "key", None)
    return f"{text}[{key}]" if isinstance(key, str) else text


def read_datetime(text: str) -> datetime:
    if not text.endswith("]"):
        return datetime.fromisoformat(text)
    text, _, key = text[:-1].partition("[")
    value = datetime.fromisoformat(text)
    if key == "UTC":
        return value
    from zoneinfo import ZoneInfo  # lazy: few messages carry a zone, and it reads files

    try:
        return value.astimezone(ZoneInfo(key))
    except (KeyError, ValueError, OSError):  # no such zone on this machine: the instant is kept, its zone's rules are not
        return value
