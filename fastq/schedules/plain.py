"""Schedules as plain values, which JSON and MessagePack carry, and back. No schedule is ever pickled.

    {"type": "crontab", "minute": "0", "hour": "4", "day_of_month": "*", "month_of_year": "*", "day_of_week": "*",
     "tz": "Europe/Paris"}
    {"type": "interval", "every_s": 30.0, "relative": true}
    {"type": "solar", "event": "sunset", "lat": 48.85, "lon": 2.35}

``tz`` and ``relative`` are there only where they are set.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fastq.schedules.base import BaseSchedule
from fastq.schedules.crontab import crontab
from fastq.schedules.interval import maybe_schedule, schedule
from fastq.schedules.solar import solar

if TYPE_CHECKING:
    from fastq.app import FastQ

__all__ = ["from_plain", "to_plain"]

#: type -> (keys that must be there, keys that may)
_KEYS = {
    "crontab": (frozenset[str](), frozenset({"minute", "hour", "day_of_month", "month_of_year", "day_of_week", "tz"})),
    "interval": (frozenset({"every_s"}), frozenset({"relative"})),
    "solar": (frozenset({"event", "lat", "lon"}), frozenset[str]()),
}


def to_plain(value: Any) -> dict[str, Any]:
    """Return a schedule, number of seconds or timedelta as plain values; TypeError for a schedule of one's own."""
    made = maybe_schedule(value) if not isinstance(value, BaseSchedule) else value
    if not callable(getattr(made, "to_plain", None)):
        raise TypeError(f"{value!r} is no schedule: expected seconds, a timedelta, crontab, schedule or solar")
    plain: dict[str, Any] = made.to_plain()
    return plain


def from_plain(plain: Mapping[str, Any], app: FastQ | None = None) -> crontab | schedule | solar:
    """Make the schedule that plain values describe; ValueError (or TypeError) says what is wrong with them."""
    kind = plain.get("type") if isinstance(plain, Mapping) else None
    if kind not in _KEYS:
        raise ValueError(f"{plain!r} is no schedule: expected a mapping whose 'type' is one of {', '.join(_KEYS)}")
    must, may = _KEYS[kind]
    values = {key: value for key, value in plain.items() if key != "type"}
    if missing := must - values.keys():
        raise ValueError(f"schedule {dict(plain)!r} lacks {', '.join(sorted(missing))}")
    if unknown := values.keys() - must - may:
        raise ValueError(
            f"schedule {dict(plain)!r} has unknown keys {', '.join(sorted(unknown))}; known are {', '.join(sorted(must | may))}"
        )
    if kind == "crontab":
        return crontab(**values, app=app)
    if kind == "solar":
        return solar(**values, app=app)
    return schedule(values["every_s"], values.get("relative", False), app=app)
