"""Option types: JSON, times, spans of time, pool names, comma-separated lists."""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from fastq.exceptions import ImproperlyConfigured
from fastq.pools import canonical_name, check_installed

if TYPE_CHECKING:
    # generic for type checkers of newer releases of click, not at run time in older ones
    ParamType = click.ParamType[Any]
else:
    ParamType = click.ParamType

__all__ = ["Bounds", "JSONValue", "Names", "PoolName", "Slots", "Span", "When"]


_UNIT_S = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


class Bounds(ParamType):
    """Two whole numbers, ``MAX,MIN``; MIN alone left out is 1."""

    name = "bounds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        most, comma, fewest = value.partition(",")
        try:
            bounds = int(most), int(fewest) if comma else 1
        except ValueError:
            self.fail(f"{value!r} is not MAX,MIN: expected two whole numbers, like 10,3, or MAX alone.", param, ctx)
        if bounds[1] < 1:
            self.fail(f"MIN is {bounds[1]}: a worker runs one task at least, so expected 1 or more.", param, ctx)
        if bounds[1] > bounds[0]:
            text = f"MIN ({bounds[1]}) is more than MAX ({bounds[0]}). The larger number comes first: {bounds[1]},{bounds[0]}."
            self.fail(text, param, ctx)
        return bounds


class JSONValue(ParamType):
    """A JSON text of one type: ``JSONValue(list)`` reads ``[1, 2]``."""

    name = "json"

    def __init__(self, kind: type[list[Any]] | type[dict[str, Any]]) -> None:
        self.kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        expected = "a JSON array, like '[1, \"two\"]'" if self.kind is list else "a JSON object, like '{\"x\": 1}'"
        try:
            decoded = json.loads(value)
        except ValueError as exc:
            self.fail(f"{value!r} is not JSON ({exc}); expected {expected}.", param, ctx)
        if not isinstance(decoded, self.kind):
            self.fail(f"{value!r} is not {expected}.", param, ctx)
        return decoded


class When(ParamType):
    """An ISO 8601 date and time, or with ``seconds`` also a number of seconds from now."""

    name = "time"

    def __init__(self, *, seconds: bool) -> None:
        self.seconds = seconds

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime | float:
        if not isinstance(value, str):
            assert isinstance(value, datetime | float)
            return value
        if self.seconds:
            try:
                return float(value)
            except ValueError:
                pass
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            number = "a number of seconds or " if self.seconds else ""
            self.fail(f"{value!r} is not {number}an ISO 8601 time, like 2030-01-31T12:00:00+00:00.", param, ctx)


class Span(ParamType):
    """A span of time, in seconds: a number with s, m, h, d or w behind it, such as 90s or 2h."""

    name = "span"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float | int):
            return float(value)
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw]?)", value.strip())
        if found is None:
            expected = "a number with s, m, h, d or w behind it, like 90s, 2h or 7d"
            self.fail(f"{value!r} is not a span of time: expected {expected}.", param, ctx)
        return float(found[1]) * _UNIT_S[found[2]]


class Names(ParamType):
    """Comma-separated names, as a tuple without empty ones."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if not isinstance(value, str):
            return tuple(value)
        names = tuple(dict.fromkeys(name for part in value.split(",") if (name := part.strip())))
        if not names:
            self.fail(f"{value!r} names nothing; expected names separated by commas, like a,b.", param, ctx)
        return names


class PoolName(ParamType):
    """A pool that exists and whose library is installed."""

    name = "pool"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            check_installed(value)
            return canonical_name(value)
        except ImproperlyConfigured as exc:
            self.fail(str(exc), param, ctx)


class Slots(ParamType):
    """A number of slots, or ``auto``: None, as many as there are CPUs."""

    name = "slots"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        if isinstance(value, str) and value.lower() == "auto":
            return None
        return click.IntRange(min=1).convert(value, param, ctx)
