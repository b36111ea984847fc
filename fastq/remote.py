"""Exceptions across the wire: what raised in a worker is raised again where the result is read.

The body of a FAILURE, REVOKED or RETRY is a map: ``type`` (qualified name), ``module``, ``args``, ``text`` (what ``str`` gave),
``state`` (attributes, nil if none). Reading one runs no code of the application: the class is taken only from a module that is
imported already, and its ``__init__`` is not called when it is Python code. Where there is no such class here a ``RemoteError`` of
its name stands in, where it cannot be made again an ``UnpickleableExceptionWrapper``; a name that is no exception class is refused
with ``SecurityError``.
"""

from __future__ import annotations

import sys
import traceback as tracebacks
from types import FunctionType, TracebackType
from typing import Any

from fastq.exceptions import EncodeError, FastQError, RemoteError, SecurityError, UnpickleableExceptionWrapper
from fastq.serialization import Serializers

__all__ = ["RemoteTraceback", "decode_exception", "decode_failure", "encode_exception", "format_traceback"]

#: longer texts are cut in the middle: a traceback is read by people
MAX_TRACEBACK_CHARS = 64_000
#: a longer text of an exception, or of one of its arguments, is cut
MAX_TEXT_CHARS = 16_000


class RemoteTraceback(Exception):
    """Carry the worker's traceback as the cause of an exception raised again here, so that it is printed with it."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text.rstrip()}\n"""'


def encode_exception(exc: BaseException, serializers: Serializers, serializer: str | None = None) -> tuple[str, bytes, str]:
    """Return (content type, body, traceback text) of an exception. Never raises for what the exception holds."""
    kind = type(exc)
    if isinstance(exc, RemoteError) and (origin := getattr(exc, "remote_class", None)):
        module, name = origin
    else:
        module, name = kind.__module__, kind.__qualname__
    wire: dict[str, Any] = {
        "type": name,
        "module": module,
        "args": [_portable(arg, serializers) for arg in _arguments(exc)],
        "text": _text(exc),
        "state": _state(exc, serializers),
    }
    name = serializer or serializers.result
    try:
        content_type, body = serializers.dumps(name, wire)
    except EncodeError:
        wire["args"] = [_clip(repr_safe(arg)) for arg in _arguments(exc)]
        wire["state"] = None
        content_type, body = serializers.dumps(name, wire)
    return content_type, body, format_traceback(exc)


def _arguments(exc: BaseException) -> tuple[Any, ...]:
    """Return what the exception was made of."""
    if isinstance(exc, OSError) and exc.filename is not None and len(exc.args) == 2:
        return (*exc.args, exc.filename)  # OSError takes the name out of its args
    return exc.args


def format_traceback(exc: BaseException) -> str:
    """Return the traceback as text, without the frames of the core and of fastq above the task's own."""
    tb = exc.__traceback__
    try:
        text = "".join(tracebacks.format_exception(type(exc), exc, _task_frames(tb)))
    except Exception:  # an exception whose own __str__ raises must still be reported
        text = "".join(tracebacks.format_tb(tb)) + f"{type(exc).__qualname__}: <its text cannot be formed>\n"
    if len(text) > MAX_TRACEBACK_CHARS:
        half = MAX_TRACEBACK_CHARS // 2
        text = f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"
    return text


def _task_frames(tb: TracebackType | None) -> TracebackType | None:
    frame = tb
    while frame is not None and str(frame.tb_frame.f_globals.get("__name__", "")).partition(".")[0] == "fastq":
        frame = frame.tb_next
    return frame if frame is not None else tb


def decode_exception(content_type: str, body: bytes, traceback_text: str | None, serializers: Serializers) -> Exception:
    """Return the exception that a FAILURE's body describes, the remote traceback as its ``__cause__`` and as ``remote_traceback``.

    Raises ContentDisallowed or DecodeError if the body may not or cannot be read.
    """
    found = decode_failure(content_type, body, traceback_text, serializers)
    return found if isinstance(found, Exception) else stand_in_for(found)


def decode_failure(content_type: str, body: bytes, traceback_text: str | None, serializers: Serializers) -> Any:
    """``decode_exception``, but what is not written as an exception is returned as it is: a state such as FAILURE may have been
    stored by hand, with anything."""
    wire = serializers.loads_result(content_type, body)
    if not (isinstance(wire, dict) and wire.keys() >= {"type", "module", "args"}):
        return wire
    exc = _revive(wire)
    if traceback_text:
        exc.__cause__ = RemoteTraceback(traceback_text)
    return exc


def stand_in_for(value: object) -> RemoteError:
    """Return what is raised where a failure was stored with something that is no exception."""
    return RemoteError(_clip(repr_safe(value)))


def _revive(wire: dict[str, Any]) -> Exception:
    module, name = str(wire.get("module") or ""), str(wire.get("type") or "RemoteError")
    text = str(wire.get("text") or "")
    raw = wire.get("args")
    args = tuple(raw) if isinstance(raw, list | tuple) else (text,)
    state = wire.get("state")
    cls = _resolve(module, name)
    if cls is None:
        return _stand_in(RemoteError, module, name, text, args)
    if not (isinstance(cls, type) and issubclass(cls, BaseException)):
        return SecurityError(f"refused: the failure names {module}.{name}, which is not an exception class (text: {_clip(text)})")
    if not issubclass(cls, Exception):  # SystemExit, KeyboardInterrupt, CancelledError: raising these here would end the reader
        return _stand_in(RemoteError, module, name, text, args)
    try:
        exc = _build(cls, args)
        if isinstance(state, dict):
            exc.__dict__.update(state)
        str(exc)
    except Exception:  # a class that cannot be built from its arguments must not hide the failure it reports
        return _stand_in(UnpickleableExceptionWrapper, module, name, text, args)
    return exc


def _resolve(module_name: str, qualname: str) -> object:
    found: object = sys.modules.get(module_name)
    if found is None:
        return None
    for part in qualname.split("."):
        found = getattr(found, part, None) if part.isidentifier() else None
        if found is None:
            return None
    return found


def _build(cls: type[Exception], args: tuple[Any, ...]) -> Exception:
    """Make an instance by ``__new__`` and ``__init__`` of the nearest built-in base: no Python code of the application runs."""
    if cls.__module__ == FastQError.__module__:
        return cls(*args)
    new = next(
        base.__dict__["__new__"] for base in cls.__mro__ if "__new__" in base.__dict__ and not _is_python(base.__dict__["__new__"])
    )
    init = next(
        base.__dict__["__init__"]
        for base in cls.__mro__
        if "__init__" in base.__dict__ and not _is_python(base.__dict__["__init__"])
    )
    exc: Exception = new(cls, *args)
    init(exc, *args)
    return exc


def _is_python(function: object) -> bool:
    return isinstance(function, FunctionType | staticmethod | classmethod)


def _stand_in(base: type[RemoteError], module: str, name: str, text: str, args: tuple[Any, ...]) -> RemoteError:
    """Return an exception of a class of that name, made for it; ``exc_module``, ``exc_cls_name``, ``exc_args`` say what it was."""
    # a class' name holds neither zeros nor half characters, whatever came over the wire
    short = name.rpartition(".")[2].replace("\0", "?").encode("utf-8", "replace").decode() or "RemoteError"
    cls = type(
        short,
        (base,),
        {
            "__module__": module, "__qualname__": name, "__str__": _stand_in_text, "__reduce__": _stand_in_reduced,
            "remote_class": (module, name), "exc_module": module, "exc_cls_name": name,
        },
    )  # fmt: skip
    exc: RemoteError = cls(*args)
    exc.__dict__.update(_base=base, _text=text, exc_args=args)
    return exc


def _stand_in_text(self: RemoteError) -> str:
    return str(self.__dict__.get("_text", ""))


def _stand_in_reduced(self: RemoteError) -> Any:
    kept = self.__dict__
    module, name = type(self).remote_class  # type: ignore[attr-defined]
    return _stand_in, (kept["_base"], module, name, kept["_text"], self.args)


def repr_safe(value: object) -> str:
    """Return ``repr(value)``, or the type's name where that raises."""
    try:
        return repr(value)
    except Exception:  # a broken __repr__ must not hide what is being reported
        return f"<{type(value).__qualname__}>"


def _text(exc: BaseException) -> str:
    try:
        return _clip(str(exc))
    except Exception:  # as above
        return f"<{type(exc).__qualname__} without text>"


def _clip(text: str) -> str:
    return text if len(text) <= MAX_TEXT_CHARS else text[:MAX_TEXT_CHARS] + "..."


def _portable(value: object, serializers: Serializers) -> object:
    """Return the value where the default serializer can write it, else its repr."""
    if isinstance(value, str):
        return _clip(value)
    if value is None or isinstance(value, bool | float):
        return value
    try:
        serializers.dumps(serializers.result, value)
    except Exception:  # whatever an argument does when it is written, the failure itself must be stored
        return _clip(repr_safe(value))
    return value


def _state(exc: BaseException, serializers: Serializers) -> dict[str, Any] | None:
    """Return the attributes that can be written; private ones and notes aside."""
    found: dict[str, Any] = {}
    for key, value in vars(exc).items():
        if key == "__notes__":
            found[key] = [_clip(str(note)) for note in value] if isinstance(value, list) else []
        elif not key.startswith("_"):
            try:
                serializers.dumps(serializers.result, value)
            except Exception:  # as in _portable
                continue
            found[key] = value
    return found or None
