"""The setting ``task_annotations``: attributes of tasks that the configuration changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastq.task import Task

__all__ = ["annotate"]


def annotate(task: Task[..., Any], annotations: Any) -> None:
    """Set the attributes that annotations give a task.

    An annotation is a mapping of task names, and ``"*"`` for all, to attributes, or an object with ``annotate(task)`` (and
    ``annotate_any()``) that returns attributes or None; several stand in a list, later ones win. A name such as ``"@__call__"``
    has a function that is given the method and returns the one to use instead.
    """
    for annotation in _each(annotations):
        for attributes in _of(annotation, task):
            for key, value in (attributes or {}).items():
                if key.startswith("@"):
                    setattr(task, key[1:], value(getattr(task, key[1:])))
                else:
                    setattr(task, key, value)


def _each(annotations: Any) -> Iterable[Any]:
    if annotations is None:
        return ()
    return annotations if isinstance(annotations, list | tuple) else (annotations,)


def _of(annotation: Any, task: Task[..., Any]) -> Iterable[Mapping[str, Any] | None]:
    if isinstance(annotation, str):
        from fastq.app.names import named  # lazy: only where an annotation is the name of one

        annotation = named(annotation)
        annotation = annotation() if isinstance(annotation, type) else annotation
    if isinstance(annotation, Mapping):
        return annotation.get("*"), annotation.get(task.name)
    anywhere = getattr(annotation, "annotate_any", None)
    return (anywhere() if anywhere is not None else None), annotation.annotate(task)
