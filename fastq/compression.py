"""Compress bodies above a size.

A compressed body says so in its content type (``application/x-msgpack;zlib``), so whoever reads the bytes needs nothing else,
and a reader that does not know the codec refuses the content type instead of reading nonsense.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

from fastq.exceptions import DecodeError, ImproperlyConfigured

__all__ = ["CODECS", "available", "codec", "compress", "decompress"]

#: names as in Celery (``task_compression``), each with its module; zstd is in the standard library from Python 3.14
_MODULES = {
    "zlib": ("zlib",),
    "gzip": ("gzip",),
    "bz2": ("bz2",),
    "lzma": ("lzma",),
    "zstd": ("compression.zstd", "zstandard"),
}
_ALIASES = {"bzip2": "bz2", "xz": "lzma", "zstandard": "zstd", "gz": "gzip"}
CODECS = tuple(_MODULES)

_Codec = tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]


def codec(name: str) -> str:
    """Return the canonical name of a codec that this interpreter has; ImproperlyConfigured otherwise."""
    canonical = _ALIASES.get(name.lower(), name.lower())
    if canonical not in _MODULES:
        raise ImproperlyConfigured(f"unknown compression {name!r}: expected one of {', '.join(CODECS)}")
    if _load(canonical) is None:
        raise ImproperlyConfigured(
            f"compression {name!r} is not available in this Python: it needs {' or '.join(_MODULES[canonical])}"
            + (" (pip install zstandard)" if canonical == "zstd" else "")
        )
    return canonical


def available() -> tuple[str, ...]:
    """Return the codecs that this interpreter has."""
    return tuple(name for name in CODECS if _load(name) is not None)


def compress(name: str, data: bytes) -> bytes:
    """Compress with a codec named by its canonical name."""
    return _pair(name)[0](data)


def decompress(name: str, data: bytes) -> bytes:
    """Decompress; DecodeError if the bytes are not what the codec wrote."""
    expand = _pair(name)[1]
    try:
        return expand(data)
    except Exception as exc:  # every codec has its own error class; the caller's duty is one settlement
        raise DecodeError(f"the body says it is compressed with {name}, but cannot be expanded: {exc}") from exc


def _pair(name: str) -> _Codec:
    pair = _load(name)
    if pair is None:
        raise DecodeError(f"compression {name!r} is not available here (available: {', '.join(available())})")
    return pair


#: loaded codecs; a race loads one twice, which is harmless
_loaded: dict[str, _Codec | None] = {}


def _load(name: str) -> _Codec | None:
    if name in _loaded:
        return _loaded[name]
    pair: _Codec | None = None
    for module_name in _MODULES.get(name, ()):
        try:
            module = importlib.import_module(module_name)
        except ImportError:
            continue
        pair = (module.compress, module.decompress)
        break
    if name in _MODULES:
        _loaded[name] = pair
    return pair
