"""Every setting in one table, and where each value comes from.

A value is looked up in this order; the first place that has it wins:

    command line            options of ``fastq worker`` and others
    app.conf                assignments and ``app.conf.update(...)`` after construction
    keyword                 arguments of ``FastQ(...)``
    environment             ``FASTQ_<SETTING>``, then the Celery names listed in the table
    config object           ``app.config_from_object(...)``
    default                 the table
"""

from __future__ import annotations

import importlib
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from datetime import timedelta
from types import FunctionType, ModuleType
from typing import Any

from fastq.exceptions import ImproperlyConfigured

__all__ = ["SETTINGS", "Setting", "SettingWarning", "Settings", "mask_url", "settings_markdown"]


class SettingWarning(UserWarning):
    """Say that a setting's name looks like a misspelt one."""


# --- kinds of values ---


@dataclass(frozen=True, slots=True)
class Kind:
    """How the values of a setting are read and checked. ``read`` raises ValueError or TypeError for what it refuses."""

    name: str
    expected: str
    read: Callable[[Any], Any]


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise TypeError


def _optional(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def read_optional(value: Any) -> Any:
        if value is None or (isinstance(value, str) and value.strip().lower() in ("", "none")):
            return None
        return read(value)

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


def _seconds(value: Any) -> float:
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool):
        raise TypeError
    number = float(value)
    if not 0 <= number < float("inf"):
        raise ValueError
    return number


def _names(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    if isinstance(value, Mapping) or not all(isinstance(part, str) for part in value):
        raise TypeError
    return tuple(value)


def _mapping(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        import json  # lazy: only where a mapping is given as text

        value = json.loads(value)
    if not isinstance(value, Mapping):
        raise TypeError
    return dict(value)


def _loglevel(value: Any) -> str:
    import logging  # lazy: only when a level is checked

    if isinstance(value, int) and not isinstance(value, bool):
        value = logging.getLevelName(value)
    word = _text(value).upper()
    if word not in logging.getLevelNamesMapping():
        raise ValueError
    return word


TEXT = Kind("text", "text", _text)
OPTIONAL_TEXT = Kind("text", "text, or None", _optional(_text))
BOOLEAN = Kind("boolean", "True or False", _boolean)
OPTIONAL_BOOLEAN = Kind("boolean", "True, False, or None", _optional(_boolean))
COUNT = Kind("integer", "a whole number, 0 or more", _integer(0))
POSITIVE = Kind("integer", "a whole number, 1 or more", _integer(1))
OPTIONAL_COUNT = Kind("integer", "a whole number, 0 or more, or None", _optional(_integer(0)))
OPTIONAL_POSITIVE = Kind("integer", "a whole number, 1 or more, or None", _optional(_integer(1)))
PRIORITY = Kind("integer", "a whole number from 0 to 9", _optional(_integer(0, 9)))
DELIVERIES = Kind("integer", "a whole number from 1 to 127", _integer(1, 127))
SECONDS = Kind("number", "a number of seconds, or a timedelta", _seconds)
OPTIONAL_SECONDS = Kind("number", "a number of seconds, a timedelta, or None", _optional(_seconds))
NAMES = Kind("list of text", "a list of text (in the environment: separated by commas)", _names)
OPTIONAL_NAMES = Kind("list of text", "a list of text, or None", _optional(_names))
MAPPING = Kind("mapping", "a mapping (in the environment: JSON)", _mapping)
LOGLEVEL = Kind("text", "DEBUG, INFO, WARNING, ERROR or CRITICAL", _loglevel)


# --- the table ---


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
    #: older names, as Celery had them in modules
    aliases: tuple[str, ...] = ()
    #: further environment variables, read after ``env``
    env_aliases: tuple[str, ...] = ()

    @property
    def env(self) -> str:
        """Return the environment variable's name."""
        return "FASTQ_" + self.name.upper()

    @property
    def group(self) -> str:
        return _GROUPS.get(self.name.split("_", 1)[0], "Application")


_GROUPS = {
    "broker": "Broker",
    "key": "Broker",
    "result": "Results",
    "task": "Tasks",
    "worker": "Worker",
    "dead": "Dead letters",
}

_ROWS = (
    # application
    Setting("accept_content", NAMES, ("msgpack", "json"),
            "Serializers whose messages are read. pickle is never accepted unless named here. If this is set and task_serializer "
            "or result_serializer is not, its first entry becomes that serializer.", aliases=("CELERY_ACCEPT_CONTENT",)),
    Setting("result_accept_content", OPTIONAL_NAMES, None, "Serializers whose results are read. None: as accept_content.",
            aliases=("CELERY_RESULT_ACCEPT_CONTENT",)),
    Setting("include", NAMES, (), "Modules a worker imports at start, so that their tasks are known.", flag="--include",
            aliases=("CELERY_INCLUDE",)),
    Setting("imports", NAMES, (), "The same as include; both lists are imported, imports first.", aliases=("CELERY_IMPORTS",)),
    Setting("timezone", OPTIONAL_TEXT, None,
            "Zone of naive datetimes given as eta or expires, such as Europe/Paris. None: UTC (the machine's zone if enable_utc is "
            "off).",
            aliases=("CELERY_TIMEZONE",)),
    Setting("enable_utc", BOOLEAN, True, "Whether naive datetimes are UTC where no timezone is set.",
            aliases=("CELERY_ENABLE_UTC",)),
    # broker
    Setting("broker_url", OPTIONAL_TEXT, None,
            "Where messages are kept: redis://, rediss://, unix://, sqlite:// or memory://. None: the embedded broker, a file "
            "fastq.db beside the nearest pyproject.toml, else in the working directory.", flag="--broker",
            aliases=("BROKER_URL", "CELERY_BROKER_URL"), env_aliases=("CELERY_BROKER_URL",)),
    Setting("broker_transport_options", MAPPING, {}, "Options of the transport beyond those that have a setting.",
            aliases=("BROKER_TRANSPORT_OPTIONS", "CELERY_BROKER_TRANSPORT_OPTIONS")),
    Setting("broker_connection_timeout", SECONDS, 4.0, "How long connecting may take.", "s",
            aliases=("BROKER_CONNECTION_TIMEOUT",)),
    Setting("broker_connection_retry_on_startup", BOOLEAN, True,
            "Whether a worker that cannot reach the broker at start tries again.", flag="--no-retry"),
    Setting("key_prefix", TEXT, "fastq:", "What every key and channel on the server starts with."),
    # results
    Setting("result_backend", OPTIONAL_TEXT, None,
            "Where results are kept; disabled:// keeps none. None: with the embedded or memory broker the same store, otherwise "
            "disabled.",
            flag="--result-backend", aliases=("CELERY_RESULT_BACKEND", "RESULT_BACKEND"), env_aliases=("CELERY_RESULT_BACKEND",)),
    Setting("result_serializer", TEXT, "msgpack", "Serializer of return values.", aliases=("CELERY_RESULT_SERIALIZER",)),
    Setting("result_expires", OPTIONAL_SECONDS, 86400.0, "How long results are kept. None or 0: for ever.", "s",
            aliases=("CELERY_TASK_RESULT_EXPIRES", "CELERY_RESULT_EXPIRES")),
    Setting("result_max_bytes", COUNT, 1024 * 1024,
            "A larger return value (as serialized) makes the task fail with ResultTooLarge. 0: no limit.", "bytes"),
    Setting("result_backend_transport_options", MAPPING, {}, "As broker_transport_options, for the result backend.",
            aliases=("CELERY_RESULT_BACKEND_TRANSPORT_OPTIONS",)),
    # tasks
    Setting("task_serializer", TEXT, "msgpack", "Serializer of arguments.", aliases=("CELERY_TASK_SERIALIZER",)),
    Setting("task_compression", OPTIONAL_TEXT, None, "Compression of arguments: zlib, gzip, bz2, lzma or zstd.",
            aliases=("CELERY_MESSAGE_COMPRESSION", "CELERY_TASK_COMPRESSION")),
    Setting("task_compression_threshold", COUNT, 1024, "Smaller bodies are not compressed.", "bytes"),
    Setting("task_ignore_result", BOOLEAN, False, "Whether return values are dropped.",
            aliases=("CELERY_IGNORE_RESULT", "CELERY_TASK_IGNORE_RESULT")),
    Setting("task_store_errors_even_if_ignored", BOOLEAN, False, "Whether failures are stored where return values are dropped.",
            aliases=("CELERY_STORE_ERRORS_EVEN_IF_IGNORED", "CELERY_TASK_STORE_ERRORS_EVEN_IF_IGNORED")),
    Setting("task_track_started", BOOLEAN, False, "Whether the state STARTED is stored when a task begins.",
            aliases=("CELERY_TRACK_STARTED", "CELERY_TASK_TRACK_STARTED")),
    Setting("task_acks_late", BOOLEAN, True,
            "True: a task whose process dies runs again. False: once started it never runs again; lost, it becomes a dead letter.",
            aliases=("CELERY_ACKS_LATE", "CELERY_TASK_ACKS_LATE")),
    Setting("task_max_deliveries", DELIVERIES, 3,
            "How often a task may be lost with its process before it becomes a dead letter (reason worker-lost)."),
    Setting("task_default_queue", TEXT, "default", "Queue of tasks that name none.",
            aliases=("CELERY_DEFAULT_QUEUE", "CELERY_TASK_DEFAULT_QUEUE")),
    Setting("task_default_priority", PRIORITY, 0, "Priority of tasks that name none: 0 to 9, higher is more urgent.",
            aliases=("CELERY_DEFAULT_PRIORITY", "CELERY_TASK_DEFAULT_PRIORITY")),
    Setting("task_publish_retry", BOOLEAN, True, "Whether sending is tried again after a lost connection.",
            aliases=("CELERY_TASK_PUBLISH_RETRY",)),
    Setting("task_publish_retry_policy", MAPPING,
            {"max_retries": 3, "interval_start": 0, "interval_step": 0.2, "interval_max": 1},
            "max_retries (None: no end), interval_start, interval_step and interval_max in seconds.",
            aliases=("CELERY_TASK_PUBLISH_RETRY_POLICY",)),
    # dead letters
    Setting("dead_letter_max", COUNT, 10_000, "How many dead letters a queue keeps; the oldest go first."),
    Setting("dead_letter_expires", SECONDS, 604800.0, "How long dead letters are kept.", "s"),
    # worker
    Setting("worker_pool", TEXT, "prefork", "prefork, threads, gevent, eventlet, asyncio or solo.", flag="--pool",
            aliases=("CELERYD_POOL",)),
    Setting("worker_concurrency", OPTIONAL_POSITIVE, None,
            "Slots per process (prefork: processes). None: the number of CPUs that this process may use.",
            flag="--concurrency", aliases=("CELERYD_CONCURRENCY",)),
    Setting("worker_processes", OPTIONAL_POSITIVE, None,
            "Processes of a pool with slots inside. None: 1 (prefork: worker_concurrency).",
            flag="--processes"),
    Setting("worker_lease", SECONDS, 15.0,
            "A worker node that is silent for up to twice as long is taken for dead, and its tasks run elsewhere.", "s"),
    Setting("worker_prefetch", OPTIONAL_COUNT, None,
            "How many messages a process may hold beyond its slots. None: adapts to measured run times; 0: none.",
            flag="--prefetch"),
    Setting("worker_max_tasks_per_child", OPTIONAL_POSITIVE, None, "A process is replaced after this many tasks.",
            flag="--max-tasks-per-child", aliases=("CELERYD_MAX_TASKS_PER_CHILD",)),
    Setting("worker_hijack_root_logger", BOOLEAN, False,
            "Whether handlers that the application put on the root logger are replaced.",
            aliases=("CELERYD_HIJACK_ROOT_LOGGER",)),
    Setting("worker_log_color", OPTIONAL_BOOLEAN, None, "Coloured log lines. None: if standard error is a terminal.",
            aliases=("CELERYD_LOG_COLOR",)),
    Setting("worker_log_format", TEXT, "[%(asctime)s: %(levelname)s/%(processName)s] %(message)s", "Format of log lines.",
            aliases=("CELERYD_LOG_FORMAT",)),
    Setting("worker_task_log_format", TEXT, "[%(asctime)s: %(levelname)s/%(processName)s] %(task_name)s[%(task_id)s]: %(message)s",
            "Format of log lines of task loggers (fastq.utils.log.get_task_logger).", aliases=("CELERYD_TASK_LOG_FORMAT",)),
    Setting("worker_redirect_stdouts", BOOLEAN, True, "Whether what tasks print goes to the log.",
            aliases=("CELERY_REDIRECT_STDOUTS", "CELERYD_REDIRECT_STDOUTS")),
    Setting("worker_redirect_stdouts_level", LOGLEVEL, "WARNING", "The level of what tasks print.",
            aliases=("CELERY_REDIRECT_STDOUTS_LEVEL", "CELERYD_REDIRECT_STDOUTS_LEVEL")),
)  # fmt: skip

SETTINGS: Mapping[str, Setting] = {row.name: row for row in _ROWS}
_ALIASES: Mapping[str, Setting] = {alias: row for row in _ROWS for alias in row.aliases}
#: environment variables that are not settings
_OTHER_ENV = frozenset({"FASTQ_APP"})

_MISSING = object()


def suggest(name: str, known: Any) -> str:
    """Return `` (did you mean 'x'?)`` when one of the known names is close, else nothing."""
    import difflib  # lazy: only where a name is wrong

    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.82)
    return f" (did you mean {close[0]!r}?)" if close else ""


def mask_url(url: str) -> str:
    """Hide the password of a URL."""
    return re.sub(r"(?<=://)([^/@\s]*?):([^/\s]*)@", r"\1:**@", url)


_SECRET = re.compile(r"pass|secret|token|api_?key|signature|private|credential", re.IGNORECASE)


def _censor(name: str, value: Any) -> Any:
    if isinstance(value, str) and "://" in value:
        return mask_url(value)
    if name not in SETTINGS and value and _SECRET.search(name):
        return "********"
    if isinstance(value, Mapping):
        return {k: _censor(str(k), v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_censor("", v) for v in value)
    return value


class _Layer:
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
                row = SETTINGS.get(rest.lower()) or _ALIASES.get(rest) or _ALIASES.get(key)
                plain = rest.lower()
            else:
                row = SETTINGS.get(key) or _ALIASES.get(key)
                plain = key
            if row is None:
                if not isinstance(value, ModuleType | FunctionType | type):
                    _warn_if_close(plain, self.origin)
                self.extra[plain] = value
                continue
            if row.name in self.values:
                other, spelled = self.values[row.name]
                if spelled != key and _read(row, other, self.origin, spelled) != _read(row, value, self.origin, key):
                    raise ImproperlyConfigured(
                        f"{self.origin}: {spelled} = {_censor(row.name, other)!r} and {key} = {_censor(row.name, value)!r} are "
                        "two names of one setting with different values; remove one of them"
                    )
            self.values[row.name] = (value, key)

    def put(self, key: str, value: Any) -> None:
        """Set one value; a later one replaces an earlier one."""
        row = SETTINGS.get(key) or _ALIASES.get(key)
        if row is None:
            _warn_if_close(key, self.origin)
            self.extra[key] = value
        else:
            self.values[row.name] = (_read(row, value, self.origin, key), key)

    def drop(self, key: str) -> bool:
        row = SETTINGS.get(key) or _ALIASES.get(key)
        found = self.extra.pop(key, _MISSING) if row is None else self.values.pop(row.name, _MISSING)
        return found is not _MISSING


def _warn_if_close(name: str, origin: str) -> None:
    hint = suggest(name, SETTINGS) or (suggest(name, _ALIASES) if name.isupper() else "")
    if hint:
        warnings.warn(
            f"{origin}: {name!r} is no setting of fastq{hint}; it is kept for the application's own use",
            SettingWarning,
            stacklevel=5,
        )


def _read(row: Setting, value: Any, origin: str, spelled: str) -> Any:
    try:
        return row.kind.read(value)
    except (ValueError, TypeError, KeyError) as exc:
        name = row.name if spelled == row.name else f"{row.name} (given as {spelled})"
        raise ImproperlyConfigured(f"{name} = {_censor(row.name, value)!r} from {origin}: expected {row.kind.expected}") from exc


class Settings(MutableMapping[str, Any]):
    """The settings of one application, by attribute and by key. Values are looked up and checked at their first use."""

    _layers: tuple[_Layer, ...]
    #: rises with every change, so that whoever has prepared something from settings sees that it is stale
    generation: int

    def __init__(self, keywords: Mapping[str, Any] | None = None, *, environ: Mapping[str, str] | None = None) -> None:
        """``environ``: instead of ``os.environ``."""
        put = object.__setattr__
        put(self, "generation", 0)
        put(self, "_command", _Layer("the command line"))
        put(self, "_changes", _Layer("app.conf"))
        put(self, "_keywords", _Layer("a keyword of FastQ(...)"))
        put(self, "_environ", environ)
        put(self, "_environment", None)
        put(self, "_source", None)
        put(self, "_object", _Layer("the config object"))
        put(self, "_cache", {})
        if keywords:
            for key, value in keywords.items():
                self._keywords.put(key, value)

    # --- sources ---

    def load(self, source: Any, *, namespace: str | None = None, silent: bool = False, force: bool = False) -> None:
        """Read a config object: a module, class, mapping, or the dotted name of one (``pkg.mod`` or ``pkg.mod:attr``).

        It is read at the first use of a setting (at once with ``force``), and replaces one that was set earlier.
        """
        object.__setattr__(self, "_source", (source, namespace, silent))
        object.__setattr__(self, "_object", _Layer("the config object"))
        self._changed()
        if force:
            self._read_source()

    def override(self, values: Mapping[str, Any]) -> None:
        """Set values that win over everything: options of the command line."""
        for key, value in values.items():
            self._command.put(key, value)
        self._changed()

    def _changed(self) -> None:
        object.__setattr__(self, "generation", self.generation + 1)
        self._cache.clear()

    def _read_source(self) -> None:
        if self._source is None:
            return
        source, namespace, silent = self._source
        object.__setattr__(self, "_source", None)
        origin = "the config object"
        if isinstance(source, str):
            origin = f"config object {source}"
            try:
                source = _import_object(source)
            except ImproperlyConfigured:
                if silent:
                    return
                raise
        elif isinstance(source, ModuleType | type):
            origin = f"config object {source.__name__}"
        if namespace and not namespace.endswith("_"):
            namespace += "_"
        if isinstance(source, Mapping):
            values = {str(k): source[k] for k in source}
        else:
            values = {k: getattr(source, k) for k in dir(source) if not k.startswith("_")}
        layer = _Layer(origin)
        layer.take(values, namespace)
        object.__setattr__(self, "_object", layer)

    def _read_environment(self) -> _Layer:
        layer = self._environment
        if layer is None:
            environ = os.environ if self._environ is None else self._environ
            layer = _Layer("the environment")
            for row in _ROWS:
                for variable in (row.env, *row.env_aliases):
                    # an empty URL means unset, as everywhere in shells
                    if variable in environ and (environ[variable] or row.kind is TEXT):
                        layer.values.setdefault(row.name, (environ[variable], variable))
            for variable in environ:
                if variable.startswith("FASTQ_") and variable not in _OTHER_ENV and variable[6:].lower() not in SETTINGS:
                    _warn_if_close(variable[6:].lower(), f"environment variable {variable}")
            object.__setattr__(self, "_environment", layer)
        found: _Layer = layer
        return found

    def _order(self) -> tuple[_Layer, ...]:
        if self._source is not None:
            self._read_source()
        return self._command, self._changes, self._keywords, self._read_environment(), self._object

    # --- reading ---

    def _find(self, name: str) -> Any:
        row = SETTINGS.get(name) or _ALIASES.get(name)
        if row is None:
            for layer in self._order():
                if name in layer.extra:
                    return layer.extra[name]
            return _MISSING
        for layer in self._order():
            if row.name in layer.values:
                value, spelled = layer.values[row.name]
                origin = f"environment variable {spelled}" if layer is self._environment else layer.origin
                return _read(row, value, origin, row.name if layer is self._environment else spelled)
        if row.name in ("task_serializer", "result_serializer") and self.origin("accept_content") != "default":
            first = self._find("accept_content")
            if first:
                return first[0]
        return dict(row.default) if isinstance(row.default, dict) else row.default

    def __getitem__(self, name: str) -> Any:
        cache: dict[str, Any] = self._cache
        try:
            return cache[name]
        except KeyError:
            pass
        value = self._find(name)
        if value is _MISSING:
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
        row = SETTINGS.get(name) or _ALIASES.get(name)
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
        return isinstance(name, str) and self._find(name) is not _MISSING

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
                rows.append((name, _censor(name, self[name]) if censored else self[name], origin))
        return rows

    def humanize(self, with_defaults: bool = False, censored: bool = True) -> str:
        """Return ``name: value`` lines."""
        return "\n".join(f"{name}: {value!r}" for name, value, _ in self.table(with_defaults=with_defaults, censored=censored))

    def __repr__(self) -> str:
        return f"<Settings {self.humanize() or 'defaults'}>".replace("\n", ", ")


def _import_object(spec: str) -> Any:
    """Import ``pkg.mod``, ``pkg.mod:attr`` or ``pkg.mod.attr``; ImproperlyConfigured if there is no such thing."""
    module_name, _, attribute = spec.partition(":")
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


def settings_markdown() -> str:
    """Return the settings page of the docs."""
    lines = [
        "# Settings",
        "",
        "Generated from `fastq/config.py`. A value is looked up in this order; the first place that has it wins:",
        "",
    ]
    lines += [
        "1. options of the command line,",
        "2. `app.conf` (assignments, `app.conf.update(...)`),",
        "3. keyword arguments of `FastQ(...)`,",
        "4. the environment: `FASTQ_<SETTING>`, then Celery's names where given below,",
        "5. the object given to `app.config_from_object(...)`,",
        "6. the default.",
        "",
        "Old Celery names in a config object are understood; the old and the new name of a setting may stand together as long as "
        "their values agree. Unknown names are kept for the application's own use.",
    ]
    for group in dict.fromkeys(row.group for row in _ROWS):
        lines += ["", f"## {group}", "", "| setting | type | default | unit | meaning | also |", "|---|---|---|---|---|---|"]
        for row in _ROWS:
            if row.group != group:
                continue
            also = [f"`{row.flag}`"] if row.flag else []
            also += (
                [f"`{row.env}`"] + [f"`{name}` (environment)" for name in row.env_aliases] + [f"`{name}`" for name in row.aliases]
            )
            default = str(list(row.default) if isinstance(row.default, tuple) else row.default if row.default != "" else '""')
            cells = (f"`{row.name}`", row.kind.name, f"`{default}`", row.unit, row.help, ", ".join(also))
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"
