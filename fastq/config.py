"""The settings of one application, and where each value comes from.

A value is looked up in this order; the first place that has it wins:

    command line            options of ``fastq worker`` and others
    app.conf                assignments and ``app.conf.update(...)`` after construction
    keyword                 arguments of ``FastQ(...)``
    environment             ``FASTQ_<SETTING>``, then the Celery names listed in the table
    config object           ``app.config_from_object(...)``, else the module named by FASTQ_CONFIG_MODULE or CELERY_CONFIG_MODULE
    added defaults          ``app.add_defaults(...)``, the latest first
    default                 the table (``fastq.settings.table``)
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from types import ModuleType
from typing import Any

from fastq.exceptions import ImproperlyConfigured
from fastq.settings.kinds import TEXT, Setting
from fastq.settings.masking import censor, mask_url
from fastq.settings.sources import MISSING, Layer, SettingWarning, import_object, parse_arguments, read, values_of, warn_if_close
from fastq.settings.table import SETTINGS, find, suggest

__all__ = ["SETTINGS", "Setting", "SettingWarning", "Settings", "mask_url", "suggest"]

#: environment variables that name a config object, where the application sets none
CONFIG_MODULE_ENV = ("FASTQ_CONFIG_MODULE", "CELERY_CONFIG_MODULE")
#: environment variables that are not settings
_OTHER_ENV = frozenset({"FASTQ_APP", "FASTQ_CONFIG_MODULE"})
#: a default that another setting gives: setting -> (other setting, key in it)
_BORROWED = {"key_prefix": ("broker_transport_options", "global_keyprefix")}
_TLS = {"broker_url": "broker_use_ssl", "result_backend": "redis_backend_use_ssl"}


class Settings(MutableMapping[str, Any]):
    """The settings of one application, by attribute and by key. Values are looked up and checked at their first use."""

    #: rises with every change, so that whoever has prepared something from settings sees that it is stale
    generation: int
    _cache: dict[str, Any]
    _command: Layer
    _changes: Layer
    _keywords: Layer
    _environ: Mapping[str, str] | None
    _environment: Layer | None
    #: the config object as it was given, until it is read
    _source: tuple[Any, str | None, bool] | None
    #: whether the application has set a config object: the environment then names none
    _loaded: bool
    _object: Layer
    #: held while a source is read: a second thread must wait for it, and not go on without
    _lock: threading.RLock
    #: whether this is happening: what is being read may itself look at settings
    _reading: bool
    #: periodic tasks that were added by calls, in order
    _periodic: list[tuple[str, dict[str, Any]]]
    #: beat_schedule as it was given, the application's own copy of it, and how many of ``_periodic`` are in that
    _schedule: tuple[Any, dict[str, Any], int] | None
    #: the latest first; a callable until it is read
    _defaults: tuple[Layer | Callable[[], Mapping[str, Any]], ...]

    def __init__(self, keywords: Mapping[str, Any] | None = None, *, environ: Mapping[str, str] | None = None) -> None:
        """``environ``: instead of ``os.environ``."""
        put = object.__setattr__
        put(self, "generation", 0)
        put(self, "_command", Layer("the command line"))
        put(self, "_changes", Layer("app.conf"))
        put(self, "_keywords", Layer("a keyword of FastQ(...)"))
        put(self, "_environ", environ)
        put(self, "_environment", None)
        put(self, "_source", None)
        put(self, "_loaded", False)
        put(self, "_object", Layer("the config object"))
        put(self, "_defaults", ())
        put(self, "_periodic", [])
        put(self, "_schedule", None)
        put(self, "_cache", {})
        put(self, "_lock", threading.RLock())
        put(self, "_reading", False)
        if keywords:
            for key, value in keywords.items():
                self._keywords.put(key, value)

    # --- sources ---

    def load(self, source: Any, *, namespace: str | None = None, silent: bool = False, force: bool = False) -> None:
        """Read a config object: a module, class, instance, mapping, or the dotted name of one (``pkg.mod`` or ``pkg.mod:attr``).

        It is read at the first use of a setting (at once with ``force``), and replaces one that was set earlier. ``namespace``:
        only names that start with it count, such as ``CELERY`` for ``CELERY_BROKER_URL``. ``silent``: a missing module is no error.
        """
        object.__setattr__(self, "_loaded", True)
        object.__setattr__(self, "_source", (source, namespace, silent))
        object.__setattr__(self, "_object", Layer("the config object"))
        self._changed()
        if force:
            self._read_sources()

    def load_envvar(self, variable: str, *, silent: bool = False, force: bool = False) -> bool:
        """``load`` what an environment variable names; ImproperlyConfigured if it is not set (``silent``: return False)."""
        name = self._os_environ.get(variable)
        if not name:
            if silent:
                return False
            raise ImproperlyConfigured(f"the environment variable {variable} is not set: expected the module with the settings")
        self.load(name, silent=silent, force=force)
        return True

    def load_arguments(self, arguments: Iterable[str], namespace: str = "worker") -> None:
        """Take settings from the command line, where they win over everything: ``worker.lease=20`` or ``.lease=20``."""
        self.override(parse_arguments(arguments, namespace))

    def add_defaults(self, source: Mapping[str, Any] | Callable[[], Mapping[str, Any]]) -> None:
        """Add defaults that every other source wins over; a later addition wins over an earlier one.

        A callable is called at the first use of a setting.
        """
        if not callable(source) and not isinstance(source, Mapping):
            raise TypeError(f"add_defaults() takes a mapping or a function that returns one, not {type(source).__name__}")
        layer: Layer | Callable[[], Mapping[str, Any]]
        layer = source if callable(source) else _defaults_of(source)
        object.__setattr__(self, "_defaults", (layer, *self._defaults))
        self._changed()

    def override(self, values: Mapping[str, Any]) -> None:
        """Set values that win over everything: options of the command line."""
        for key, value in values.items():
            self._command.put(key, value)
        self._changed()

    def _changed(self) -> None:
        object.__setattr__(self, "generation", self.generation + 1)
        self._cache.clear()

    @property
    def _os_environ(self) -> Mapping[str, str]:
        return os.environ if self._environ is None else self._environ

    def _read_sources(self) -> None:
        """Read the config object and the added defaults that have not been read. An error is raised again at the next look."""
        put = object.__setattr__
        with self._lock:
            if self._reading:  # the source that this thread is reading looks at settings
                return
            put(self, "_reading", True)
            try:
                if self._source is not None:
                    put(self, "_object", _read_object(*self._source))
                    put(self, "_source", None)
                for layer in self._defaults:
                    if not isinstance(layer, Layer):
                        made = _defaults_of(layer())
                        put(self, "_defaults", tuple(made if other is layer else other for other in self._defaults))
            finally:
                put(self, "_reading", False)
                # what was looked at meanwhile may have been seen without its source
                self._cache.clear()

    def _read_environment(self) -> Layer:
        """Read the environment, once. What it names as the config object is loaded unless the application has set one."""
        environ = self._os_environ
        layer = Layer("the environment")
        for row in SETTINGS.values():
            for variable in (row.env, *row.env_aliases):
                # an empty URL means unset, as everywhere in shells
                if variable in environ and (environ[variable] or row.kind is TEXT):
                    layer.values.setdefault(row.name, (environ[variable], variable))
        for variable in environ:
            if variable.startswith("FASTQ_") and variable not in _OTHER_ENV and variable[6:].lower() not in SETTINGS:
                warn_if_close(variable[6:].lower(), f"environment variable {variable}")
        object.__setattr__(self, "_environment", layer)
        module = next(filter(None, map(environ.get, CONFIG_MODULE_ENV)), None)
        if module is not None and not self._loaded:
            object.__setattr__(self, "_source", (module, None, False))
        return layer

    def _order(self) -> tuple[Layer, ...]:
        environment = self._environment
        if environment is None:
            environment = self._read_environment()
        if self._source is not None or not all(isinstance(layer, Layer) for layer in self._defaults):
            self._read_sources()
        added = (layer for layer in self._defaults if isinstance(layer, Layer))
        return self._command, self._changes, self._keywords, environment, self._object, *added

    def add_periodic(self, name: str, entry: dict[str, Any]) -> bool:
        """Add an entry to ``beat_schedule``, whichever source gives that, now or later; say whether it replaces such an entry."""
        replaces = any(name == other for other, _ in self._periodic)
        self._periodic.append((name, entry))
        self._changed()
        return replaces

    # --- reading ---

    def _find(self, name: str) -> Any:
        row = find(name)
        if row is None:
            for layer in self._order():
                if name in layer.extra:
                    return layer.extra[name]
            return MISSING
        return self._derived(row, self._own(row))

    def _own(self, row: Setting) -> Any:
        """Return what the sources say, MISSING where none does."""
        for layer in self._order():
            if row.name in layer.values:
                value, spelled = layer.values[row.name]
                if layer is self._environment:
                    return read(row, value, f"environment variable {spelled}", row.name)
                return read(row, value, layer.origin, spelled)
        return MISSING

    def _derived(self, row: Setting, value: Any) -> Any:
        """Return the value where one setting has a say in another, else as it is, or the default."""
        name = row.name
        if name in _TLS and isinstance(value, str) and (tls := self[_TLS[name]]):
            from fastq.settings.tls import secured  # lazy: only where TLS is asked for

            return secured(value, tls, _TLS[name])
        if name == "broker_connection_retry_on_startup" and value is None:
            return self["broker_connection_retry"]
        if name == "beat_schedule":
            return self._schedule_of(value)
        if value is not MISSING:
            return value
        if name in ("task_serializer", "result_serializer") and self.is_set("accept_content"):
            first = self["accept_content"]
            if first:
                return first[0]
        if name in _BORROWED:
            other, key = _BORROWED[name]
            if borrowed := self[other].get(key):
                return read(row, borrowed, other, key)
        return dict(row.default) if isinstance(row.default, dict) else row.default

    def _schedule_of(self, given: Any) -> dict[str, Any]:
        """Return beat_schedule with what was added to it: the same dict each time, which may be changed, until another is given."""
        known = self._schedule
        if known is None or known[0] is not given:
            known = (given, {} if given is MISSING else dict(given), 0)
        own = known[1]
        for name, entry in self._periodic[known[2] :]:
            own[name] = entry
        object.__setattr__(self, "_schedule", (known[0], own, len(self._periodic)))
        return own

    def __getitem__(self, name: str) -> Any:
        cache = self._cache
        try:
            return cache[name]
        except KeyError:
            pass
        value = self._find(name)
        if value is MISSING:
            raise KeyError(name)
        cache[name] = value
        return value

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no setting {name!r}{suggest(name, SETTINGS)}") from None

    def origin(self, name: str) -> str:
        """Say where a value comes from, such as ``environment FASTQ_BROKER_URL``."""
        row = find(name)
        for layer in self._order():
            if row is None:
                if name in layer.extra:
                    return layer.origin
            elif row.name in layer.values:
                if layer is self._environment:
                    return f"environment {layer.values[row.name][1]}"
                return layer.origin
        return "default"

    def is_set(self, name: str) -> bool:
        """Say whether anything but the default gives this setting."""
        return self.origin(name) != "default"

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._find(name) is not MISSING

    def __iter__(self) -> Iterator[str]:
        yield from SETTINGS
        seen: set[str] = set()
        for layer in self._order():
            for name in layer.extra:
                if name not in seen:
                    seen.add(name)
                    yield name

    def __len__(self) -> int:
        return sum(1 for _ in self)

    # --- writing ---

    def __setitem__(self, name: str, value: Any) -> None:
        self._changes.put(name, value)
        self._changed()

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __delitem__(self, name: str) -> None:
        """Take back an assignment."""
        if not self._changes.drop(name):
            raise KeyError(name)
        self._changed()

    # --- showing ---

    def table(self, *, with_defaults: bool = True, censored: bool = True) -> list[tuple[str, Any, str]]:
        """Return (name, value, origin) of every setting, secrets masked."""
        rows = []
        for name in self:
            origin = self.origin(name)
            if origin != "default" or with_defaults:
                rows.append((name, censor(name, self[name]) if censored else self[name], origin))
        return rows

    def humanize(self, with_defaults: bool = False, censored: bool = True) -> str:
        """Return ``name: value`` lines."""
        return "\n".join(f"{name}: {value!r}" for name, value, _ in self.table(with_defaults=with_defaults, censored=censored))

    def __repr__(self) -> str:
        return f"<Settings {self.humanize() or 'defaults'}>".replace("\n", ", ")


def _defaults_of(source: Any) -> Layer:
    layer = Layer("add_defaults(...)")
    layer.take(values_of(source))
    return layer


def _read_object(source: Any, namespace: str | None, silent: bool) -> Layer:
    origin = "the config object"
    if isinstance(source, str):
        origin = f"config object {source}"
        try:
            source = import_object(source)
        except ImproperlyConfigured:
            if silent:
                return Layer(origin)
            raise
    elif isinstance(source, ModuleType | type):
        origin = f"config object {source.__name__}"
    if namespace and not namespace.endswith("_"):
        namespace += "_"
    layer = Layer(origin)
    layer.take(values_of(source, namespace or ""), namespace)
    return layer
