"""The five fields of a crontab: what may stand in them, and which numbers that means."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

__all__ = ["DAY_OF_MONTH", "DAY_OF_WEEK", "HOUR", "MINUTE", "MONTH_OF_YEAR", "Field", "ParseException", "crontab_parser"]

_DAYS = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")
_MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december",
)  # fmt: skip
_PART = re.compile(r"(?:(?P<star>\*)|(?P<first>\w+)(?:-(?P<last>\w+))?)(?:/(?P<step>\w*))?")


class ParseException(ValueError):
    """Say what in a crontab cannot be read, and what could."""


class crontab_parser:
    """Read one field: ``crontab_parser(60).parse('*/15') == {0, 15, 30, 45}``.

    ``max_`` numbers from ``min_`` on are allowed. A range whose end is before its beginning goes on from the start: ``22-2`` are
    the hours 22, 23, 0, 1, 2. Days of the week (7 from 0) have names and 7 for Sunday, months (12 from 1) have names.
    """

    ParseException: ClassVar[type[ParseException]] = ParseException

    def __init__(self, max_: int = 60, min_: int = 0) -> None:
        self.max_ = max_
        self.min_ = min_
        self._names = {(7, 0): _DAYS, (12, 1): _MONTHS}.get((max_, min_), ())
        #: 7 is Sunday too
        self._highest = 7 if self._names is _DAYS else min_ + max_ - 1

    def parse(self, spec: str) -> set[int]:
        """Return the numbers that a text means; ParseException if it cannot be read."""
        numbers: set[int] = set()
        for part in spec.split(","):
            numbers.update(self._part(part.strip(), spec))
        return numbers

    def allowed(self) -> str:
        """Say what may stand here."""
        names = f", names ({self._names[0][:3]} to {self._names[-1][:3]})" if self._names else ""
        return f"numbers from {self.min_} to {self._highest}{names}, a-b, */n, a-b/n, or a list of these with commas"

    def _part(self, part: str, spec: str) -> list[int]:
        if not part:
            raise ParseException(f"there is an empty part in {spec!r}")
        match = _PART.fullmatch(part)
        if match is None:
            if part.startswith("-"):
                raise ParseException(f"{part!r}: negative numbers are not allowed")
            raise ParseException(f"{part!r} cannot be read")
        if match["star"]:
            found = list(range(self.min_, self.min_ + self.max_))
        else:
            first = self._number(match["first"])
            if match["last"] is None:
                if match["step"] is not None:
                    raise ParseException(
                        f"{part!r}: a step needs a range, such as {first}-{self.min_ + self.max_ - 1}/{match['step']}"
                    )
                found = [first]
            else:
                found = self._range(first, self._number(match["last"]))
        step = match["step"]
        if step is not None:
            if not step.isdecimal() or int(step) == 0:
                raise ParseException(f"{part!r}: the step after / is a whole number, 1 or more, not {step!r}")
            found = found[:: int(step)]
        return [number if number < self.min_ + self.max_ else self.min_ for number in found]

    def _range(self, first: int, last: int) -> list[int]:
        top = self.min_ + self.max_
        if first == top:  # 7-2: from Sunday on
            first = self.min_
        if last < first:
            return [*range(first, top), *range(self.min_, last + 1)]
        return list(range(first, last + 1))

    def _number(self, text: str) -> int:
        if not text.isdecimal():
            word = text.lower()
            for number, name in enumerate(self._names, self.min_):
                if len(word) >= 3 and name.startswith(word):
                    return number
            raise ParseException(f"{text!r} is no number" + (" and no name of a " + self._kind() if self._names else ""))
        number = int(text)
        if not self.min_ <= number <= self._highest:
            raise ParseException(f"{number} is out of range")
        return number

    def _kind(self) -> str:
        return "day" if self._names is _DAYS else "month"


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a crontab."""

    name: str
    count: int
    lowest: int = 0

    def read(self, value: Any) -> frozenset[int]:
        """Return the numbers that a value of any accepted form means."""
        parser = crontab_parser(self.count, self.lowest)
        try:
            numbers = frozenset(self._read(value, parser))
        except ParseException as exc:
            raise ParseException(f"crontab {self.name}={value!r}: {exc}; allowed are {parser.allowed()}") from None
        if not numbers:
            raise ParseException(f"crontab {self.name}={value!r} names no {self.name} at all; '*' is every one")
        return numbers

    def _read(self, value: Any, parser: crontab_parser) -> Iterable[int]:
        if value is None:
            return parser.parse("*")
        if isinstance(value, str):
            return parser.parse(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return parser.parse(str(value))
        if isinstance(value, Iterable) and not isinstance(value, bytes | bytearray):
            return {number for part in value for number in self._read(part, parser)}
        raise TypeError(
            f"crontab {self.name}={value!r}: expected a number, text such as '*/15', or a list of these, not {type(value).__name__}"
        )

    def text(self, value: Any) -> str:
        """Return a value of any accepted form as the text that means the same."""
        if value is None:
            return "*"
        if isinstance(value, str | int):
            return str(value)
        return ",".join(map(str, sorted(self.read(value))))


MINUTE = Field("minute", 60)
HOUR = Field("hour", 24)
DAY_OF_WEEK = Field("day_of_week", 7)
DAY_OF_MONTH = Field("day_of_month", 31, 1)
MONTH_OF_YEAR = Field("month_of_year", 12, 1)
