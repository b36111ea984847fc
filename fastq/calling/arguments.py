"""What arguments a task's function takes, and whether a call's fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

__all__ = ["Signature", "arguments"]


class Signature:
    """What arguments a task's function takes, read once."""

    __slots__ = ("_bind", "_name", "_parameters", "high", "low")

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        import inspect  # lazy: only where a task is sent

        self._name = name
        self._bind: Callable[..., Any] | None = None
        self._parameters: list[str] = []
        #: calls without keyword arguments fit when they have low to high positional ones
        self.low, self.high = 0, 1 << 30
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):  # a built-in without a signature: the worker will see
            return
        self._bind = signature.bind
        self.high = 0
        for parameter in signature.parameters.values():
            self._parameters.append(parameter.name)
            if parameter.kind is parameter.VAR_POSITIONAL:
                self.high = 1 << 30
                self._parameters.pop()
            elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
                self.high += 1
                if parameter.default is parameter.empty:
                    self.low += 1
            elif parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty:
                # a required keyword: no call without keywords fits
                self.low, self.high = 1, 0
                break

    def check(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Raise TypeError, in the words of a call, for arguments that the function does not take."""
        if self._bind is None:
            return
        try:
            self._bind(*args, **kwargs)
        except TypeError as exc:
            raise TypeError(f"{self._name}() {exc}") from None

    def parameter(self, position: int) -> str:
        """Return the name of a positional parameter, "" if it has none."""
        return self._parameters[position] if position < len(self._parameters) else ""


def arguments(args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None) -> tuple[Sequence[Any], dict[str, Any]]:
    """Return args and kwargs of an ``apply_async`` in plain form; TypeError for what cannot be such."""
    if args is None:
        args = ()
    elif not isinstance(args, list | tuple):
        if isinstance(args, str | bytes | Mapping) or not isinstance(args, Iterable):
            raise TypeError(f"args must be a list or tuple of arguments, not {type(args).__name__}: {args!r}")
        args = tuple(args)
    if kwargs is None:
        return args, {}
    if not isinstance(kwargs, Mapping):
        raise TypeError(f"kwargs must be a mapping of argument names to values, not {type(kwargs).__name__}: {kwargs!r}")
    return args, dict(kwargs)
