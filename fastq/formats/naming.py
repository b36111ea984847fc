"""Say what a value is, in errors."""

from __future__ import annotations

__all__ = ["cannot", "clip", "type_name"]


def cannot(obj: object) -> str:
    return f"{type_name(obj)} cannot be serialized: {clip(obj)}"


def type_name(obj: object) -> str:
    kind = type(obj)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def clip(obj: object, limit: int = 80) -> str:
    try:
        text = repr(obj)
    except Exception:  # naming the value must not hide the error being reported
        return "<no repr>"
    return text if len(text) <= limit else text[: limit - 3] + "..."
