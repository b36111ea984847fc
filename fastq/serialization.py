"""Serializers: values to bytes and back, by content type, and which content types are accepted.

msgpack (default) keeps datetime, date, time, timedelta, Decimal, UUID, set, frozenset, tuple and bytes; the compiled core writes
and reads plain values itself and calls ``default`` and ``ext_hook`` of this module for the rest. json keeps the same types but
tuple (a list afterwards). yaml and pickle are used only when named in ``accept_content``. An application adds types of its own with
``register_type``, and serializers with ``register``, when it is imported: where it sends and where it works.
"""

from __future__ import annotations

import base64
import importlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

import msgpack  # type: ignore[import-untyped]

from fastq import _core, compression
from fastq.exceptions import ContentDisallowed, DecodeError, EncodeError, ImproperlyConfigured

__all__ = [
    "CONTENT_TYPES",
    "JSON",
    "MSGPACK",
    "PICKLE",
    "YAML",
    "Serializers",
    "blame",
    "content_types",
    "default",
    "ext_hook",
    "register",
    "register_type",
    "unregister",
]

MSGPACK = "application/x-msgpack"
JSON = "application/json"
YAML = "application/x-yaml"
PICKLE = "application/x-python-serialize"

#: serializer name -> content type
_content_types = {"msgpack": MSGPACK, "json": JSON, "yaml": YAML, "pickle": PICKLE}
CONTENT_TYPES: Mapping[str, str] = MappingProxyType(_content_types)
_NAMES = {content_type: name for name, content_type in CONTENT_TYPES.items()}

# --- extension types of msgpack: codes are part of the wire format, never reused ---

EXT_TUPLE = 1
EXT_SET = 2
EXT_FROZENSET = 3
EXT_DATETIME = 4  # ISO 8601 text, with "[zone]" behind it where the zone has a name
EXT_DATE = 5
EXT_TIME = 6
EXT_TIMEDELTA = 7  # array [days, seconds, microseconds]
EXT_DECIMAL = 8
EXT_UUID = 9  # 16 bytes
EXT_REGISTERED = 10  # array [name given to register_type, plain value]
#: MessagePack's own timestamp, written by other implementations
EXT_TIMESTAMP = -1

ExtType = msgpack.ExtType
_packb = _core.packb
_unpackb = _core.unpackb


def default(obj: object) -> object:
    """Return what stands for ``obj`` in MessagePack: an extension type, or the plain value of a subclass of a plain type."""
    kind = type(obj)
    if kind is tuple:
        return ExtType(EXT_TUPLE, _packb(list(obj), default))  # type: ignore[call-overload]
    write = _WRITERS.get(kind)
    if write is not None:
        return write(obj)
    for base, write in _WRITERS.items():
        if isinstance(obj, base):
            return write(obj)
    own = _own_writer(obj)
    if own is not None:
        return ExtType(EXT_REGISTERED, _packb([own[0], own[1](obj)], default))
    for base, plain in _PLAIN:
        if isinstance(obj, base):
            return plain(obj)
    if (plain_form := getattr(kind, "__json__", None)) is not None:
        return plain_form(obj)
    raise EncodeError(_cannot(obj))


def ext_hook(code: int, data: bytes) -> object:
    """Return the value of an extension type; DecodeError for an unknown code or a malformed payload."""
    try:
        read = _READERS[code]
    except KeyError:
        raise DecodeError(f"unknown MessagePack extension type {code} (a newer fastq, or another program, wrote this)") from None
    try:
        return read(data)
    except DecodeError:
        raise
    except (ValueError, TypeError, OverflowError, InvalidOperation) as exc:
        raise DecodeError(f"malformed MessagePack extension type {code}: {exc}") from exc


def _write_datetime(value: datetime) -> object:
    return ExtType(EXT_DATETIME, _datetime_text(value).encode())


def _datetime_text(value: datetime) -> str:
    text = value.isoformat()
    key = getattr(value.tzinfo, "key", None)
    return f"{text}[{key}]" if isinstance(key, str) else text


def _datetime(text: str) -> datetime:
    if not text.endswith("]"):
        return datetime.fromisoformat(text)
    text, _, key = text[:-1].partition("[")
    value = datetime.fromisoformat(text)
    if key == "UTC":
        return value
    from zoneinfo import ZoneInfo  # lazy: few messages carry a zone, and it reads files

    try:
        return value.astimezone(ZoneInfo(key))
    except (KeyError, ValueError, OSError):  # no such zone on this machine: the instant is kept, its zone's rules are not
        return value


def _timedelta(data: bytes) -> timedelta:
    days, seconds, microseconds = _unpackb(data)
    return timedelta(days, seconds, microseconds)


_WRITERS: dict[type, Callable[[Any], object]] = {
    datetime: _write_datetime,
    date: lambda v: ExtType(EXT_DATE, v.isoformat().encode()),
    time: lambda v: ExtType(EXT_TIME, v.isoformat().encode()),
    timedelta: lambda v: ExtType(EXT_TIMEDELTA, _packb([v.days, v.seconds, v.microseconds])),
    Decimal: lambda v: ExtType(EXT_DECIMAL, str(v).encode()),
    UUID: lambda v: ExtType(EXT_UUID, v.bytes),
    set: lambda v: ExtType(EXT_SET, _packb(list(v), default)),
    frozenset: lambda v: ExtType(EXT_FROZENSET, _packb(list(v), default)),
    tuple: lambda v: ExtType(EXT_TUPLE, _packb(list(v), default)),
}

#: subclasses of plain types (StrEnum, IntEnum, defaultdict, numpy's float64 ...) and buffers travel as the plain type
_PLAIN: tuple[tuple[type, Callable[[Any], object]], ...] = (
    (bool, bool),
    (int, int),
    (float, float),
    (str, str.__str__),
    (bytes, bytes),
    (bytearray, bytes),
    (memoryview, bytes),
    (list, list),
    (dict, dict),
)

_READERS: dict[int, Callable[[bytes], object]] = {
    EXT_TUPLE: lambda d: tuple(_unpackb(d, ext_hook)),
    EXT_SET: lambda d: set(_unpackb(d, ext_hook)),
    EXT_FROZENSET: lambda d: frozenset(_unpackb(d, ext_hook)),
    EXT_DATETIME: lambda d: _datetime(d.decode()),
    EXT_DATE: lambda d: date.fromisoformat(d.decode()),
    EXT_TIME: lambda d: time.fromisoformat(d.decode()),
    EXT_TIMEDELTA: _timedelta,
    EXT_DECIMAL: lambda d: Decimal(d.decode()),
    EXT_UUID: lambda d: UUID(bytes=d),
    EXT_REGISTERED: lambda d: _registered(*_unpackb(d, ext_hook)),
    EXT_TIMESTAMP: lambda d: msgpack.Timestamp.from_bytes(d).to_datetime().astimezone(UTC),
}


def _cannot(obj: object) -> str:
    return f"{_type_name(obj)} cannot be serialized: {_clip(obj)}"


def _type_name(obj: object) -> str:
    kind = type(obj)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _clip(obj: object, limit: int = 80) -> str:
    try:
        text = repr(obj)
    except Exception:  # naming the value must not hide the error being reported
        return "<no repr>"
    return text if len(text) <= limit else text[: limit - 3] + "..."


# --- types of the application ---

_own_writers: dict[type, tuple[str, Callable[[Any], object]]] = {}
_own_readers: dict[str, Callable[[Any], object]] = {}


def register_type(cls: type, name: str, encode: Callable[[Any], object], decode: Callable[[Any], object]) -> None:
    """Let values of a class of one's own travel in msgpack and json.

    ``encode(value)`` returns a plain value, ``decode(plain)`` makes the value of it again. ``name`` is what the message says and
    must mean the same wherever it is read; registering it again replaces it. Subclasses are written as the class itself. (A class
    with a method ``__json__`` needs no registration to be sent, and arrives as what that returns.)
    """
    if not isinstance(cls, type):
        raise TypeError(f"register_type takes a class, not {cls!r}")
    if not isinstance(name, str) or not name or name in _JSON_READERS:
        raise ValueError(f"the name {name!r} cannot be registered: expected text that is none of {', '.join(_JSON_READERS)}")
    _own_writers[cls] = (name, encode)
    _own_readers[name] = decode


def _own_writer(obj: object) -> tuple[str, Callable[[Any], object]] | None:
    if not _own_writers:
        return None
    return next((_own_writers[kind] for kind in type(obj).__mro__ if kind in _own_writers), None)


def _registered(name: str, value: object) -> object:
    read = _own_readers.get(name)
    if read is None:
        raise DecodeError(
            f"the type {name!r} is not registered here: call fastq.serialization.register_type for it where the worker imports it"
        )
    return read(value)


# --- json ---

#: marks a value that JSON has no type for; the same layout as kombu's
_TYPE, _VALUE = "__type__", "__value__"

_JSON_WRITERS: dict[type, tuple[str, Callable[[Any], object]]] = {
    datetime: ("datetime", _datetime_text),
    date: ("date", lambda v: v.isoformat()),
    time: ("time", lambda v: v.isoformat()),
    timedelta: ("timedelta", lambda v: [v.days, v.seconds, v.microseconds]),
    Decimal: ("decimal", str),
    UUID: ("uuid", str),
    bytes: ("bytes", lambda v: base64.b64encode(v).decode()),
    set: ("set", list),
    frozenset: ("frozenset", list),
}
_JSON_READERS: dict[str, Callable[[Any], object]] = {
    "datetime": _datetime,
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "timedelta": lambda v: timedelta(*v),
    "decimal": Decimal,
    "uuid": UUID,
    "bytes": base64.b64decode,
    "set": set,
    "frozenset": frozenset,
}


def _json_default(obj: object) -> object:
    found = _JSON_WRITERS.get(type(obj)) or _own_writer(obj)
    if found is None:
        if isinstance(obj, bytearray | memoryview):
            obj = bytes(obj)
        found = next((pair for base, pair in _JSON_WRITERS.items() if isinstance(obj, base)), None)
        if found is None:
            plain_form = getattr(type(obj), "__json__", None)
            if plain_form is None:
                raise EncodeError(_cannot(obj))
            return plain_form(obj)
    name, write = found
    return {_TYPE: name, _VALUE: write(obj)}


def _json_object(value: dict[str, Any]) -> object:
    if len(value) == 2 and _TYPE in value and _VALUE in value:
        name = value[_TYPE]
        read = _JSON_READERS.get(name) if isinstance(name, str) else None
        if read is None and isinstance(name, str) and name in _own_readers:
            return _registered(name, value[_VALUE])
        if read is not None:
            return read(value[_VALUE])
    return value


_json_encoder = json.JSONEncoder(default=_json_default, separators=(",", ":"), ensure_ascii=False)
_json_decoder = json.JSONDecoder(object_hook=_json_object)


def _json_dumps(value: object) -> bytes:
    return _json_encoder.encode(value).encode()


def _json_loads(data: bytes) -> Any:
    return _json_decoder.decode(data.decode())


# --- yaml and pickle: only when named ---


def _yaml() -> Any:
    try:
        return importlib.import_module("yaml")
    except ImportError:
        raise ImproperlyConfigured("the yaml serializer needs PyYAML: pip install pyyaml") from None


def _yaml_dumps(value: object) -> bytes:
    yaml = _yaml()
    try:
        return bytes(yaml.safe_dump(value, allow_unicode=True).encode())
    except yaml.YAMLError as exc:
        raise EncodeError(f"yaml cannot write it: {exc}") from exc


def _yaml_loads(data: bytes) -> Any:
    yaml = _yaml()
    try:
        return yaml.safe_load(data.decode())
    except yaml.YAMLError as exc:
        raise DecodeError(f"not YAML: {exc}") from exc


def _pickle_dumps(value: object) -> bytes:
    import pickle  # lazy: only an application that names it

    return pickle.dumps(value, protocol=4)


def _pickle_loads(data: bytes) -> Any:
    import pickle  # lazy: only an application that names it

    return pickle.loads(data)


class _Serializer(NamedTuple):
    content_type: str
    dumps: Callable[[object], bytes]
    loads: Callable[[bytes], Any]


def _msgpack_dumps(value: object) -> bytes:
    return _packb(value, default)


def _msgpack_loads(data: bytes) -> Any:
    return _unpackb(data, ext_hook)


_SERIALIZERS: dict[str, _Serializer] = {
    "msgpack": _Serializer(MSGPACK, _msgpack_dumps, _msgpack_loads),
    "json": _Serializer(JSON, _json_dumps, _json_loads),
    "yaml": _Serializer(YAML, _yaml_dumps, _yaml_loads),
    "pickle": _Serializer(PICKLE, _pickle_dumps, _pickle_loads),
}


def register(
    name: str,
    encoder: Callable[[Any], Any] | None,
    decoder: Callable[[Any], Any] | None,
    content_type: str,
    content_encoding: str = "utf-8",
) -> None:
    """Add a serializer: used where it is named (``serializer=``, ``task_serializer``), read where ``accept_content`` names it.

    ``encoder(value)`` returns bytes, or text, which is written as UTF-8; ``decoder`` is given text, or bytes with
    ``content_encoding="binary"``. Arguments are those of kombu's ``register``. ValueError for a name or content type that is taken
    by a built-in one.
    """
    if name in _BUILT_IN or content_type in _BUILT_IN.values():
        raise ValueError(f"{name!r} ({content_type}) is a built-in serializer and cannot be replaced")
    if not name or ";" in content_type or not content_type:
        raise ValueError(f"a serializer needs a name and a content type without ';', not {name!r} and {content_type!r}")
    binary = content_encoding in ("binary", "ascii-8bit")

    def dumps(value: object) -> bytes:
        if encoder is None:
            raise EncodeError(f"the serializer {name} only reads")
        data = encoder(value)
        return data.encode() if isinstance(data, str) else bytes(data)

    def loads(data: bytes) -> Any:
        if decoder is None:
            raise DecodeError(f"the serializer {name} only writes")
        return decoder(data if binary else data.decode())

    unregister(name)
    _content_types[name] = content_type
    _NAMES[content_type] = name
    _SERIALIZERS[name] = _Serializer(content_type, dumps, loads)


def unregister(name: str) -> None:
    """Take away a serializer that was added; one that is not there is no error."""
    if name in _BUILT_IN:
        raise ValueError(f"{name!r} is a built-in serializer: leave it out of accept_content instead")
    content_type = _content_types.pop(name, None)
    if content_type is not None:
        del _NAMES[content_type], _SERIALIZERS[name]


_BUILT_IN = dict(_content_types)


def content_types(names: Iterable[str], setting: str = "accept_content") -> tuple[str, ...]:
    """Return the content types of serializer names (content types pass as they are); ImproperlyConfigured for unknown ones."""
    found: list[str] = []
    for name in names:
        content_type = name if name in _NAMES else CONTENT_TYPES.get(name.lower())
        if content_type is None:
            raise ImproperlyConfigured(f"{setting}: unknown serializer {name!r}, expected some of {', '.join(CONTENT_TYPES)}")
        if content_type not in found:
            found.append(content_type)
    return tuple(found)


class Serializers:
    """What one application writes and reads. Immutable; safe from any thread."""

    def __init__(
        self,
        *,
        task: str = "msgpack",
        result: str = "msgpack",
        accept: Iterable[str] = ("msgpack", "json"),
        result_accept: Iterable[str] | None = None,
    ) -> None:
        """Raises ImproperlyConfigured for a serializer that is unknown or not among those accepted."""
        #: content types a worker reads without and with compression
        self.accept_base = content_types(accept)
        self.accept = _with_codecs(self.accept_base)
        results = self.accept_base if result_accept is None else content_types(result_accept, "result_accept_content")
        self.result_accept = _with_codecs(results)
        #: serializer names
        self.task = self._own("task_serializer", task, self.accept_base, "accept_content")
        self.result = self._own(
            "result_serializer", result, results, "accept_content" if result_accept is None else "result_accept_content"
        )

    @staticmethod
    def _own(setting: str, name: str, accept: Sequence[str], among: str) -> str:
        (content_type,) = content_types((name,), setting)
        if content_type not in accept:
            names = ", ".join(_NAMES[c] for c in accept)
            raise ImproperlyConfigured(f"{setting} = {name!r} is not in {among} ({names}): nobody would read what it writes")
        return _NAMES[content_type]

    def accepts(self, content_type: str) -> bool:
        """Say whether a task body of this content type may be read."""
        return content_type in self.accept

    def dumps(self, name: str, value: object, compress: str | None = None) -> tuple[str, bytes]:
        """Return (content type, bytes); EncodeError says what in the value cannot be written.

        ``compress`` is a codec's canonical name (``fastq.compression.codec``).
        """
        serializer = _SERIALIZERS.get(name)
        if serializer is None:
            serializer = _SERIALIZERS[_NAMES[content_types((name,), "serializer")[0]]]
        try:
            data = serializer.dumps(value)
        except (EncodeError, ImproperlyConfigured):
            raise
        except RecursionError:
            raise EncodeError(f"{name} cannot write it: it contains itself, or is nested too deeply") from None
        except Exception as exc:  # pickle and json call foreign code; the caller is told what it could not write
            raise EncodeError(f"{name} cannot write {_type_name(value)}: {type(exc).__name__}: {exc}") from exc
        if compress is None:
            return serializer.content_type, data
        return f"{serializer.content_type};{compress}", compression.compress(compress, data)

    def loads(self, content_type: str, body: bytes) -> Any:
        """Read a task's body; ContentDisallowed outside ``accept_content``, DecodeError if it cannot be read."""
        return self._loads(content_type, body, self.accept, "accept_content")

    def loads_result(self, content_type: str, body: bytes) -> Any:
        """Read a result's body, by ``result_accept_content``."""
        return self._loads(content_type, body, self.result_accept, "result_accept_content")

    def _loads(self, content_type: str, body: bytes, accept: frozenset[str], setting: str) -> Any:
        if content_type not in accept:
            names = ", ".join(sorted(_NAMES[c] for c in accept if c in _NAMES))
            raise ContentDisallowed(
                f"refusing to deserialize content of type {content_type!r}: {setting} allows {names}"
                + (
                    " (add 'pickle' only if everyone who can reach the broker is trusted)"
                    if content_type.startswith(PICKLE)
                    else ""
                )
            )
        base, _, codec = content_type.partition(";")
        if codec:
            body = compression.decompress(codec, body)
        try:
            return _SERIALIZERS[_NAMES[base]].loads(body)
        except (DecodeError, ImproperlyConfigured):
            raise
        except Exception as exc:  # a pickle or hook may raise anything; the message must still end in one settlement
            raise DecodeError(f"the body is not {_NAMES[base]}: {type(exc).__name__}: {exc}") from exc


def _with_codecs(accept: Sequence[str]) -> frozenset[str]:
    return frozenset(accept) | {f"{content_type};{codec}" for content_type in accept for codec in compression.CODECS}


def blame(serializers: Serializers, name: str, value: object, where: str) -> tuple[str, object] | None:
    """Return (place, value) of the innermost part that the serializer cannot write, None if it can write all."""
    if _writes(serializers, name, value):
        return None
    parts: Iterable[tuple[str, object]] = ()
    if isinstance(value, dict):
        for key in value:
            if not _writes(serializers, name, {key: None}):
                return f"the key {_clip(key, 40)} of {where}", key
        parts = ((f"{where}[{key!r}]", part) for key, part in value.items())
    elif isinstance(value, list | tuple):
        parts = ((f"{where}[{i}]", part) for i, part in enumerate(value))
    elif isinstance(value, set | frozenset):
        parts = ((f"an element of {where}", part) for part in value)
    try:
        for place, part in parts:
            found = blame(serializers, name, part, place)
            if found is not None:
                return found
    except RecursionError:
        return where, value
    return where, value


def _writes(serializers: Serializers, name: str, value: object) -> bool:
    try:
        serializers.dumps(name, value)
    except EncodeError:
        return False
    return True


def unserializable(name: str, place: str, value: object) -> str:
    """Return the text of the EncodeError for a value at a place, with what to do."""
    if isinstance(value, int) and not isinstance(value, bool):
        advice = "integers must fit 64 bits: send it as text, or use serializer='json'"
    elif name == "msgpack" or name == "json":
        advice = (
            "send plain data instead (numbers, text, bytes, lists, dicts, datetime, Decimal, UUID, sets), such as an id or path "
            "that the task looks up; or name another serializer that can write it"
        )
    else:
        advice = "send plain data instead"
    return f"{place} is of type {_type_name(value)}, which {name} cannot write: {_clip(value)}. What to do: {advice}."
