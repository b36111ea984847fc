"""Pydantic models as arguments and results of tasks (``pydantic=True``).

Nothing is imported for it: a model is any class with pydantic's ``model_validate`` and ``model_dump``, found in the annotations.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastq.task import Task

__all__ = ["Models"]


class Models:
    """The models in one task's signature, read once."""

    def __init__(self, task: Task[..., Any]) -> None:
        function: Callable[..., Any] = getattr(task, "run", None) or task
        self._signature = inspect.signature(function)
        try:
            hints = typing.get_type_hints(getattr(function, "__func__", function))
        except Exception:  # an annotation that names what is imported for type checkers only: what can be read still counts
            hints = {name: p.annotation for name, p in self._signature.parameters.items()}
            hints["return"] = self._signature.return_annotation
        self._models = {name: model for name, hint in hints.items() if name != "return" and (model := _model(hint)) is not None}
        self._returned = _model(hints.get("return"))
        self._strict = bool(getattr(task, "pydantic_strict", False))
        self._context = {
            **(getattr(task, "pydantic_context", None) or {}),
            "fastq_app": getattr(task, "app", None),
            "fastq_task_name": task.name,
        }
        self._dump = {"mode": "json", **(getattr(task, "pydantic_dump_kwargs", None) or {})}

    def validate(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments with models where the signature has them; pydantic's ValidationError if they do not fit."""
        bound = self._signature.bind(*args, **kwargs)
        for name, model in self._models.items():
            if name not in bound.arguments:
                continue
            given = bound.arguments[name]
            if given is None and _optional(self._signature.parameters[name]):
                continue
            bound.arguments[name] = model.model_validate(given, strict=self._strict or None, context=self._context)
        return bound.args, bound.kwargs

    def dump(self, value: Any) -> Any:
        """Return a returned model as plain data, anything else as it is."""
        if self._returned is not None and isinstance(value, self._returned):
            return value.model_dump(**self._dump)
        return value


def plain(value: Any) -> Any:
    """Return what a caller's argument travels as: a model as plain data, anything else as it is."""
    return value.model_dump(mode="json") if _is_model(type(value)) else value


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and hasattr(kind, "model_validate") and hasattr(kind, "model_dump")


def _model(hint: Any) -> Any:
    """Return the model that an annotation names, alone or beside None."""
    if _is_model(hint):
        return hint
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
        if len(kinds) == 1 and _is_model(kinds[0]):
            return kinds[0]
    return None


def _optional(parameter: inspect.Parameter) -> bool:
    return not _is_model(parameter.annotation)
