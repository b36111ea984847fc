"""Serializers: values to bytes and back, by content type, and which content types are accepted.

msgpack (default) keeps datetime, date, time, timedelta, Decimal, UUID, set, frozenset, tuple and bytes; the compiled core writes
and reads plain values itself and calls ``default`` and ``ext_hook`` of this module for the rest. json keeps the same types but
tuple (a list afterwards). yaml and pickle are used only when named in ``accept_content``. An application adds types of its own with
``register_type``, and serializers with ``register``, when it is imported: where it sends and where it works.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from fastq import compression
from fastq.exceptions import ContentDisallowed, DecodeError, EncodeError, ImproperlyConfigured
from fastq.formats import json, msgpack, named
from fastq.formats.msgpack import default, ext_hook
from fastq.formats.naming import clip, type_name
from fastq.formats.own import register_type

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


class _Serializer(NamedTuple):
    content_type: str
    dumps: Callable[[object], bytes]
    loads: Callable[[bytes], Any]


_SERIALIZERS: dict[str, _Serializer] = {
    "msgpack": _Serializer(MSGPACK, msgpack.dumps, msgpack.loads),
    "json": _Serializer(JSON, json.dumps, json.loads),
    "yaml": _Serializer(YAML, named.yaml_dumps, named.yaml_loads),
    "pickle": _Serializer(PICKLE, named.pickle_dumps, named.pickle_loads),
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
            raise EncodeError(f"{name} cannot write {type_name(value)}: {type(exc).__name__}: {exc}") from exc
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
                return f"the key {clip(key, 40)} of {where}", key
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
    return f"{place} is of type {type_name(value)}, which {name} cannot write: {clip(value)}. What to do: {advice}."
