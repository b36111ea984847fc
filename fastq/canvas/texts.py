"""How signatures are written in logs and at the prompt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

__all__ = ["reprcall", "shortened"]


def reprcall(name: str, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> str:
    """Return the text of a call: ``name(1, key=2)``."""
    shown: Iterator[str] = (repr(value) for value in args)
    return f"{name}({', '.join([*shown, *(f'{key}={value!r}' for key, value in (kwargs or {}).items())])})"


def shortened(task: str, text: str) -> str:
    """Return the text with the module of ``task`` written once only."""
    module, dot, _ = task.rpartition(".")
    if not dot:
        return text
    head, found, rest = text.partition(module + dot)
    return head + found + rest.replace(module + dot, "")
