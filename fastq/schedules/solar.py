"""``solar``: runs when the sun rises, sets, or stands at other points over a place. Needs ``ephem``."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from math import pi
from typing import TYPE_CHECKING, Any

from fastq.exceptions import ImproperlyConfigured
from fastq.schedules.base import Calendar

if TYPE_CHECKING:
    from fastq.app import FastQ

__all__ = ["solar"]

#: event -> (method of ephem's observer, height of the sun in degrees, whether that is of its centre). At sunrise and sunset
#: the upper edge is seen, 34' of which the air lifts it
_EVENTS = {
    "dawn_astronomical": ("next_rising", "-18", True),
    "dawn_nautical": ("next_rising", "-12", True),
    "dawn_civil": ("next_rising", "-6", True),
    "sunrise": ("next_rising", "-0:34", False),
    "solar_noon": ("next_transit", "0", False),
    "sunset": ("next_setting", "-0:34", False),
    "dusk_civil": ("next_setting", "-6", True),
    "dusk_nautical": ("next_setting", "-12", True),
    "dusk_astronomical": ("next_setting", "-18", True),
}
#: where a search begins: on a grid, so that the same event is found to the same second whoever asks and when
_GRID_S = 6 * 3600
#: by how much ephem may be wrong at most
_NEAR = timedelta(seconds=32)
_SECOND = timedelta(seconds=1)
#: no two events of one kind are this near
_APART = timedelta(hours=1)
#: a polar night is shorter than this
_POLAR_DAYS = 400


class solar(Calendar):
    """Run at an event of the sun as seen from a place. In a polar day or night none happens: the next may be months away."""

    def __init__(
        self, event: str, lat: float, lon: float, nowfun: Callable[[], datetime] | None = None, app: FastQ | None = None
    ) -> None:
        """``event``: dawn_astronomical, dawn_nautical, dawn_civil, sunrise, solar_noon, sunset, dusk_civil, dusk_nautical or
        dusk_astronomical. ``lat``, ``lon``: degrees, south and west negative.
        """
        super().__init__(nowfun=nowfun, app=app)
        if event not in _EVENTS:
            raise ValueError(f"solar event {event!r} is unknown; expected one of {', '.join(_EVENTS)}")
        if not -90 <= lat <= 90:
            raise ValueError(f"solar latitude {lat!r}: expected degrees from -90 to 90")
        if not -180 <= lon <= 180:
            raise ValueError(f"solar longitude {lon!r}: expected degrees from -180 to 180")
        try:
            import ephem  # lazy: an optional library, only where the sun counts
        except ImportError:
            raise ImproperlyConfigured("solar schedules need ephem: pip install 'fastq[solar]'") from None
        self.event = event
        self.lat = lat
        self.lon = lon
        self._ephem = ephem
        self._method, self._horizon, self._use_center = _EVENTS[event]

    def next_after(self, moment: datetime) -> datetime:
        moment = moment.astimezone(UTC)
        start_s = (int(moment.timestamp()) // _GRID_S - 1) * _GRID_S
        last_s = start_s + _POLAR_DAYS * 86400
        while start_s < last_s:
            found = self._next(datetime.fromtimestamp(start_s, UTC))
            if found is None:
                start_s += _GRID_S * 2
            elif found > moment:
                return found
            else:
                start_s = -int(-(found + _APART).timestamp() // _GRID_S) * _GRID_S
        raise ValueError(f"{self!r}: this never happens there")

    def _next(self, start: datetime) -> datetime | None:
        """Return the first whole second at which the event after ``start`` is over; None if the sun does not get there that day."""
        observer = self._ephem.Observer()
        observer.lat, observer.lon, observer.elev, observer.pressure = str(self.lat), str(self.lon), 0, 0
        observer.horizon = self._horizon
        method = getattr(observer, self._method)
        center = {"use_center": True} if self._use_center else {}
        try:
            found = method(self._ephem.Sun(), start=self._ephem.Date(start.replace(tzinfo=None)), **center)
        except self._ephem.CircumpolarError:
            return None
        moment: datetime = found.datetime().replace(tzinfo=UTC)
        return self._to_the_second(observer, moment.replace(microsecond=0))

    def _to_the_second(self, observer: Any, near: datetime) -> datetime:
        """Return the second that the sun itself gives. ephem's answer depends on where its search began, by 0.1 s or so."""
        early, late = near - _NEAR, near + _NEAR
        if self._is_over(observer, early) or not self._is_over(observer, late):
            return near  # the sun only grazes the line
        while late - early > _SECOND:
            middle = early + timedelta(seconds=(late - early) // _SECOND // 2)
            if self._is_over(observer, middle):
                late = middle
            else:
                early = middle
        return late

    def _is_over(self, observer: Any, moment: datetime) -> bool:
        observer.date = moment.replace(tzinfo=None)
        sun = self._ephem.Sun(observer)
        if self._method == "next_transit":
            # the sun is past the meridian: its hour angle is small and positive
            return float(observer.sidereal_time() - sun.g_ra) % (2 * pi) < pi
        height = sun.alt + (0 if self._use_center else sun.radius) - observer.horizon
        return bool(height >= 0) if self._method == "next_rising" else bool(height <= 0)

    def to_plain(self) -> dict[str, Any]:
        return {"type": "solar", "event": self.event, "lat": float(self.lat), "lon": float(self.lon)}

    def __repr__(self) -> str:
        return f"<solar: {self.event} at latitude {self.lat}, longitude: {self.lon}>"

    def _value(self) -> tuple[Any, ...]:
        return self.event, self.lat, self.lon

    def __eq__(self, other: object) -> bool:
        return self._value() == other._value() if isinstance(other, solar) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._value())

    def __reduce__(self) -> Any:
        return type(self), (*self._value(), self.nowfun)
