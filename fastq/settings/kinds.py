"""What a setting is: the kinds of values with how each is read, and the row that describes one setting."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

__all__ = ["Kind", "Setting", "one_of"]


@dataclass(frozen=True, slots=True)
class Kind:
    """How the values of a setting are read and checked. ``read`` raises ValueError or TypeError for what it refuses."""

    name: str
    expected: str
    read: Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table."""

    name: str
    kind: Kind
    default: Any
    help: str
    unit: str = ""
    #: option of ``fastq worker`` that sets it
    flag: str = ""
    #: older names in modules, besides those that follow from the name (``aliases``)
    old: tuple[str, ...] = ()
    #: further environment variables, read after ``env``
    env_aliases: tuple[str, ...] = ()
    #: why it is taken and then not used; "" for a setting that is used
    accepted: str = ""

    @property
    def env(self) -> str:
        """Return the environment variable's name."""
        return "FASTQ_" + self.name.upper()

    @property
    def historic(self) -> tuple[str, ...]:
        """Return the names it had in Celery before 4.0."""
        prefix, _, rest = self.name.partition("_")
        name = self.name.upper()
        # the namespaces of Celery 3: celery_, celeryd_, celerybeat_; broker settings were upper case only
        by_rule = {
            "task": "CELERY_" + rest.upper(),
            "worker": "CELERYD_" + rest.upper(),
            "beat": "CELERYBEAT_" + rest.upper(),
            "broker": name,
        }.get(prefix, "CELERY_" + name)
        return tuple(dict.fromkeys((by_rule, *self.old)))

    @property
    def aliases(self) -> tuple[str, ...]:
        """Return every further name it may have in a module or mapping."""
        name = self.name.upper()
        return tuple(dict.fromkeys((*self.historic, f"CELERY_{name}", f"FASTQ_{name}")))


# --- readers ---


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise TypeError


def _is_none(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value.strip().lower() in ("", "none"))


def _optional(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def read_optional(value: Any) -> Any:
        return None if _is_none(value) else read(value)

    return read_optional


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    if isinstance(value, str):
        word = value.strip().lower()
        if word in ("1", "true", "yes", "on"):
            return True
        if word in ("0", "false", "no", "off", ""):
            return False
    raise ValueError


def _integer(low: int, high: int | None = None) -> Callable[[Any], int]:
    def read_integer(value: Any) -> int:
        if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
            raise TypeError
        number = int(value)
        if number < low or (high is not None and number > high):
            raise ValueError
        return number

    return read_integer


def _slots(value: Any) -> int | None:
    if isinstance(value, str) and value.strip().lower() == "auto":
        return None
    return _integer(1)(value)


def _seconds(value: Any) -> float:
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool):
        raise TypeError
    number = float(value)
    if not 0 <= number < float("inf"):
        raise ValueError
    return number


#: seconds; it is renewed each third of it, by a call that must have failed before the next is due: with less than a quarter of a
#: second for that, a busy machine looks dead
SHORTEST_LEASE_S = 1.0


def _lease(value: Any) -> float:
    number = _seconds(value)
    if number < SHORTEST_LEASE_S:
        raise ValueError
    return number


def _limit(value: Any) -> float | None:
    return _seconds(value) or None


_RATE = r"\s*\d+(\.\d+)?\s*(/\s*[smh]\s*)?"


def _rate(value: Any) -> int | float | str:
    if isinstance(value, str):
        if re.fullmatch(_RATE, value) is None:
            raise ValueError
        return value.replace(" ", "")
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else _seconds(value)


def _names(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    if isinstance(value, Mapping) or not all(isinstance(part, str) for part in value):
        raise TypeError
    return tuple(value)


def _json(text: str) -> Any:
    import json  # lazy: only where a structure is given as text

    return json.loads(text)


def _mapping(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        value = _json(value)
    if not isinstance(value, Mapping):
        raise TypeError
    return dict(value)


def _schedules(value: Any) -> Mapping[str, Any]:
    if isinstance(value, str):
        value = _json(value)
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise TypeError
    return value


def _scheduler(value: Any) -> Any:
    if not isinstance(value, str) and not callable(value):
        raise TypeError
    return value


def _loglevel(value: Any) -> str:
    import logging  # lazy: only when a level is checked

    if isinstance(value, int) and not isinstance(value, bool):
        value = logging.getLevelName(value)
    word = _text(value).upper()
    if word not in logging.getLevelNamesMapping():
        raise ValueError
    return word


def _routes(value: Any) -> Any:
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        value = _json(value)
    if isinstance(value, str | Mapping | list | tuple) or callable(value):
        return value
    raise TypeError


def _queues(value: Any) -> Any:
    if isinstance(value, str):
        value = _json(value) if value.lstrip()[:1] in ("{", "[") else _names(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Iterable):
        return tuple(value)
    raise TypeError


def _annotations(value: Any) -> Any:
    if isinstance(value, str):
        value = _json(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, list | tuple):
        return tuple(value)
    if callable(getattr(value, "annotate", None)):
        return value
    raise TypeError


def _tls(value: Any) -> bool | dict[str, Any]:
    if isinstance(value, str) and value.lstrip()[:1] == "{":
        value = _json(value)
    return dict(value) if isinstance(value, Mapping) else _boolean(value)


def one_of(*words: str) -> Kind:
    """Return the kind of a setting that takes one of some words."""

    def read_word(value: Any) -> str:
        if value not in words:
            raise ValueError
        return str(value)

    return Kind("text", f"{', '.join(map(repr, words[:-1]))} or {words[-1]!r}", read_word)


ANY = Kind("any", "any value", lambda value: value)
TEXT = Kind("text", "text", _text)
OPTIONAL_TEXT = Kind("text", "text, or None", _optional(_text))
BOOLEAN = Kind("boolean", "True or False", _boolean)
OPTIONAL_BOOLEAN = Kind("boolean", "True, False, or None", _optional(_boolean))
COUNT = Kind("integer", "a whole number, 0 or more", _integer(0))
POSITIVE = Kind("integer", "a whole number, 1 or more", _integer(1))
OPTIONAL_COUNT = Kind("integer", "a whole number, 0 or more, or None", _optional(_integer(0)))
OPTIONAL_POSITIVE = Kind("integer", "a whole number, 1 or more, or None", _optional(_integer(1)))
SLOTS = Kind("integer", "a whole number, 1 or more, or None", _optional(_slots))
PRIORITY = Kind("integer", "a whole number from 0 to 9", _optional(_integer(0, 9)))
DELIVERIES = Kind("integer", "a whole number from 1 to 127", _integer(1, 127))
SECONDS = Kind("number", "a number of seconds, or a timedelta", _seconds)
LEASE = Kind(
    "number", f"a number of seconds, or a timedelta, {SHORTEST_LEASE_S:g} s or more (a lease is renewed each third of it)", _lease
)
OPTIONAL_SECONDS = Kind("number", "a number of seconds, a timedelta, or None", _optional(_seconds))
LIMIT = Kind("number", "a number of seconds, a timedelta, or None", _optional(_limit))
RATE = Kind("rate", "a number of tasks a second, text such as '10/s', '100/m' or '1000/h', or None", _optional(_rate))
NAMES = Kind("list of text", "a list of text (in the environment: separated by commas)", _names)
OPTIONAL_NAMES = Kind("list of text", "a list of text, or None", _optional(_names))
MAPPING = Kind("mapping", "a mapping (in the environment: JSON)", _mapping)
OPTIONAL_MAPPING = Kind("mapping", "a mapping (in the environment: JSON), or None", _optional(_mapping))
SCHEDULES = Kind("mapping", "a mapping of names to entries such as {'task': 'mail.send', 'schedule': 30.0}", _schedules)
SCHEDULER = Kind("text", "'shared', 'persistent', a scheduler's class or the dotted name of one, or None", _optional(_scheduler))
LOGLEVEL = Kind("text", "DEBUG, INFO, WARNING, ERROR or CRITICAL", _loglevel)
ROUTES = Kind("routes", "a mapping of task names to queues, a router, its dotted name, or a list of such", _optional(_routes))
QUEUES = Kind("queues", "a list of queues, a mapping of names to their options, or None", _optional(_queues))
ANNOTATIONS = Kind("mapping", "a mapping of task names to attributes, a list of such, or None", _optional(_annotations))
TLS = Kind("mapping", "True, False, or a mapping such as {'ssl_cert_reqs': 'required'}", _optional(_tls))
