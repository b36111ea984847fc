"""Where values of settings come from: the values of one source, objects that are named, arguments of the command line."""

from __future__ import annotations

import importlib
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from types import FunctionType, ModuleType
from typing import Any

from fastq.exceptions import ImproperlyConfigured
from fastq.settings.kinds import ANY, Setting
from fastq.settings.masking import censor
from fastq.settings.table import SETTINGS, aliases, find, suggest

__all__ = ["MISSING", "Layer", "SettingWarning", "import_object", "parse_arguments", "read", "values_of", "warn_if_close"]

MISSING = object()


class SettingWarning(UserWarning):
    """Say that a setting's name looks like a misspelt one."""


class Layer:
    """Values of one source, by canonical name; what is no setting is kept under its own name."""

    __slots__ = ("extra", "origin", "values")

    def __init__(self, origin: str) -> None:
        self.origin = origin
        #: name -> (raw value, how it was spelled)
        self.values: dict[str, tuple[Any, str]] = {}
        self.extra: dict[str, Any] = {}

    def take(self, source: Mapping[str, Any], namespace: str | None = None) -> None:
        """Add a source's values. Two spellings of one setting may stand together if they agree."""
        for key, value in source.items():
            if namespace:
                if not key.startswith(namespace):
                    continue
                rest = key[len(namespace) :]
                row = SETTINGS.get(rest.lower()) or aliases().get(rest) or aliases().get(key)
                plain = rest.lower()
            else:
                row = find(key)
                plain = key
            if row is None:
                if not isinstance(value, ModuleType | FunctionType | type):
                    warn_if_close(plain, self.origin)
                self.extra[plain] = value
                continue
            if row.name in self.values:
                other, spelled = self.values[row.name]
                if spelled != key and read(row, other, self.origin, spelled) != read(row, value, self.origin, key):
                    raise ImproperlyConfigured(
                        f"{self.origin}: {spelled} = {censor(row.name, other)!r} and {key} = {censor(row.name, value)!r} are "
                        "two names of one setting with different values; remove one of them"
                    )
            self.values[row.name] = (value, key)

    def put(self, key: str, value: Any) -> None:
        """Set one value; a later one replaces an earlier one."""
        row = find(key)
        if row is None:
            warn_if_close(key, self.origin)
            self.extra[key] = value
        else:
            self.values[row.name] = (read(row, value, self.origin, key), key)

    def drop(self, key: str) -> bool:
        row = find(key)
        found = self.extra.pop(key, MISSING) if row is None else self.values.pop(row.name, MISSING)
        return found is not MISSING


def warn_if_close(name: str, origin: str) -> None:
    """Warn about a name that is no setting but looks like one."""
    if not name.isupper():
        hint = suggest(name, SETTINGS)
    elif name.lower() in SETTINGS and name.startswith(("TASK_", "RESULT_", "WORKER_", "BEAT_")):
        hint = f" (did you mean {name.lower()!r}?)"
    else:
        # a web framework's settings have upper-case names of their own, such as REDIS_PASSWORD
        hint = suggest(name, aliases(), 0.88) if name.startswith(("CELERY", "FASTQ_", "BROKER_")) else ""
    if hint:
        warnings.warn(
            f"{origin}: {name!r} is no setting of fastq{hint}; it is kept for the application's own use",
            SettingWarning,
            stacklevel=5,
        )


def read(row: Setting, value: Any, origin: str, spelled: str) -> Any:
    """Return a value as its setting wants it; ImproperlyConfigured says where a wrong one stands."""
    try:
        return row.kind.read(value)
    except (ValueError, TypeError, KeyError) as exc:
        name = row.name if spelled == row.name else f"{row.name} (given as {spelled})"
        raise ImproperlyConfigured(f"{name} = {censor(row.name, value)!r} from {origin}: expected {row.kind.expected}") from exc


def values_of(source: Any, namespace: str = "") -> dict[str, Any]:
    """Return what a config object holds: a mapping's items, else the public attributes of a module, class or instance.

    ``namespace``: only names that start with it; the others are not even looked at, as some raise (Django's SECRET_KEY).
    """
    if isinstance(source, Mapping):
        return {str(key): source[key] for key in source if str(key).startswith(namespace)}
    return {name: getattr(source, name) for name in dir(source) if name.startswith(namespace) and not name.startswith("_")}


def import_object(spec: str) -> Any:
    """Import ``pkg.mod``, ``pkg.mod:attr`` or ``pkg.mod.attr``; ImproperlyConfigured if there is no such thing."""
    module_name, _, attribute = spec.partition(":")
    if module_name.endswith(".py"):
        hint = module_name.removesuffix(".py").replace("/", ".").strip(".")
        raise ImproperlyConfigured(f"config object {spec!r} is a file; expected the module's name, such as {hint!r}")
    try:
        value: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as exc:
        if exc.name is None or not (module_name == exc.name or module_name.startswith(exc.name + ".")):
            raise  # an import inside it failed: that traceback is the one to show
        parent, _, last = module_name.rpartition(".")
        if attribute or not parent or (parent not in sys.modules and exc.name != module_name):
            raise ImproperlyConfigured(f"config object {spec!r}: there is no module {exc.name!r} (searched on sys.path)") from exc
        value = importlib.import_module(parent)
        attribute = last
    if attribute:
        for part in attribute.split("."):
            try:
                value = getattr(value, part)
            except AttributeError:
                raise ImproperlyConfigured(f"config object {spec!r}: {value!r} has no attribute {part!r}") from None
    return value


#: patterns are compiled at their first use: importing fastq stays quick
_ARGUMENT = r"(?s)-{0,2}(?P<key>[A-Za-z_.][\w.]*)=(?P<value>.*)"
_CAST = r"\((\w+)\)"
_CASTS: Mapping[str, Callable[[str], Any]] = {
    "int": int, "float": float, "str": str, "string": str, "tuple": lambda text: tuple(filter(None, text.split(","))),
    "list": lambda text: list(filter(None, text.split(","))),
}  # fmt: skip


def parse_arguments(arguments: Iterable[str], namespace: str = "") -> dict[str, Any]:
    """Return settings given as arguments: ``worker.lease=20``, ``worker_lease=20``, or ``.lease=20`` in the namespace ``worker``.

    A value has the type of its setting; ``(int)20``, ``(float)``, ``(str)``, ``(bool)``, ``(list)``, ``(tuple)`` and ``(json)`` in
    front of it say another. ImproperlyConfigured for anything else.
    """
    found: dict[str, Any] = {}
    for argument in arguments:
        parts = re.fullmatch(_ARGUMENT, argument)
        if parts is None:
            raise ImproperlyConfigured(f"argument {argument!r}: expected a setting and its value, such as worker.lease=20")
        key = parts["key"].lower().replace(".", "_")
        if key.startswith("_"):
            key = f"{namespace}{key}" if namespace else key[1:]
        row = SETTINGS.get(key)
        if row is None:
            raise ImproperlyConfigured(f"argument {argument!r}: there is no setting {key!r}{suggest(key, SETTINGS)}")
        found[key] = read(row, _typed(parts["value"], argument, row), "the command line", key)
    return found


def _typed(text: str, argument: str, row: Setting) -> Any:
    import json  # lazy: only where settings are given as arguments

    cast = re.match(_CAST, text)
    if cast is None:
        if row.kind is not ANY:
            return text
        try:
            return json.loads(text)
        except ValueError:
            return text
    word, rest = cast[1], text[cast.end() :]
    try:
        if word == "bool":
            return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}[rest.lower()]
        if word in ("json", "dict"):
            return json.loads(rest)
        return _CASTS[word](rest)
    except (KeyError, ValueError):
        known = ", ".join([*_CASTS, "bool", "dict", "json"])
        raise ImproperlyConfigured(f"argument {argument!r}: {rest!r} is not of type {word!r} (types: {known})") from None
