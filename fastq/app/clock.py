"""An application's time zone."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING

from fastq.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from fastq.config import Settings

__all__ = ["Clock"]


class Clock:
    """The part of an application that reads dates."""

    conf: Settings

    def __init__(self) -> None:
        self._timezone: tuple[int, tzinfo] | None = None

    @property
    def timezone(self) -> tzinfo:
        """Return the zone of naive datetimes."""
        known = self._timezone
        if known is None or known[0] != self.conf.generation:
            known = self._timezone = (self.conf.generation, self._read_timezone())
        return known[1]

    def _read_timezone(self) -> tzinfo:
        name = self.conf.timezone
        if isinstance(name, tzinfo):
            return name
        if name is None:
            if self.conf.enable_utc:
                return UTC
            local = datetime.now().astimezone().tzinfo
            return local if local is not None else UTC
        if name.upper() in ("UTC", "GMT", "Z"):
            return UTC
        from zoneinfo import ZoneInfo  # lazy: only where a zone is named

        try:
            return ZoneInfo(name)
        except (KeyError, ValueError, OSError) as exc:
            raise ImproperlyConfigured(
                f"timezone = {name!r}: no such zone on this machine (expected a name such as Europe/Paris; is tzdata installed?)"
            ) from exc

    def now(self) -> datetime:
        """Return this machine's time in the application's zone."""
        return datetime.now(self.timezone)

    def aware(self, moment: datetime) -> datetime:
        """Return a datetime with a zone: a naive one is in the application's."""
        return moment if moment.tzinfo is not None else moment.replace(tzinfo=self.timezone)
