"""Zones by name, and which instant it is when a clock in a zone shows a time: also one that it never shows, or twice."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo

__all__ = ["changed_at", "instant", "is_repeated", "key_of", "read_zone"]

_SECOND = timedelta(seconds=1)


def read_zone(value: str | tzinfo | None) -> tzinfo | None:
    """Return the zone that a name or a tzinfo means; ValueError for a name that is none."""
    if value is None:
        return None
    if isinstance(value, tzinfo):
        # pytz's zones answer wrongly outside of pytz's own functions
        return value if not hasattr(value, "localize") else read_zone(str(value))
    if not isinstance(value, str):
        raise TypeError(f"tz={value!r}: expected the name of a zone such as 'Europe/Paris', or a tzinfo")
    if value.upper() in ("UTC", "GMT", "Z"):
        return UTC
    import zoneinfo  # lazy: only where a zone is named

    try:
        return zoneinfo.ZoneInfo(value)
    except (KeyError, ValueError, OSError):
        pass
    from difflib import get_close_matches  # lazy: only where a zone is refused

    near = get_close_matches(value, zoneinfo.available_timezones(), 1, 0.7)
    hint = f"did you mean {near[0]!r}?" if near else "is tzdata installed?"
    raise ValueError(f"tz={value!r}: no such zone on this machine (expected a name such as 'Europe/Paris'; {hint})")


def key_of(zone: tzinfo) -> str | None:
    """Return the name by which ``read_zone`` finds a zone again; None if it has none."""
    if zone is UTC:
        return "UTC"
    key = getattr(zone, "key", None)
    return key if isinstance(key, str) else None


def instant(wall: datetime, zone: tzinfo) -> tuple[datetime, bool]:
    """Return the instant at which a clock in ``zone`` first shows ``wall`` (naive), and True.

    If it never does, because the clock was put forward over it: the instant at which that happened, and False.
    """
    shown = wall.replace(tzinfo=zone)
    before, after = shown.utcoffset(), shown.replace(fold=1).utcoffset()
    if before is None or after is None:
        raise ValueError(f"the zone {zone!r} gives no offset from UTC")
    # by PEP 495, in a gap fold 0 has the offset before it, and fold 1 the one after
    if after > before:
        return changed_at((wall - after).replace(tzinfo=UTC), (wall - before).replace(tzinfo=UTC), zone), False
    return (wall - before).replace(tzinfo=UTC), True


def is_repeated(shown: datetime) -> bool:
    """Say whether the clock will show this aware time a second time."""
    if shown.fold:
        return False
    before, after = shown.utcoffset(), shown.replace(fold=1).utcoffset()
    return before is not None and after is not None and after < before


def changed_at(early: datetime, late: datetime, zone: tzinfo) -> datetime:
    """Return the instant (UTC) in early < instant <= late from which the offset of ``late`` holds; it changes once between."""
    offset = late.astimezone(zone).utcoffset()
    while late - early > _SECOND:
        middle = early + timedelta(seconds=(late - early) // _SECOND // 2)
        if middle.astimezone(zone).utcoffset() == offset:
            late = middle
        else:
            early = middle
    return late
