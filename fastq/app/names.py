"""Names: of objects by their path, of the module that is run, of two tasks' origins."""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

from fastq.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from fastq.task import Task

__all__ = ["main_name", "named", "origin"]


def named(path: str) -> Any:
    """Return the object of a dotted name (``pkg.mod:attr`` or ``pkg.mod.attr``)."""
    module, _, attribute = path.rpartition(":" if ":" in path else ".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as exc:
        raise ImproperlyConfigured(f"{path!r} names no object: {exc}") from exc


def main_name() -> str:
    """Return the name of the module that is run as a script: as ``python -m`` found it, or its file's."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name and spec.name != "__main__":
        return str(spec.name).removesuffix(".__main__")
    path = getattr(main, "__file__", None)
    return os.path.splitext(os.path.basename(path))[0] if path else ""


def origin(task: Task[..., Any]) -> tuple[str, str]:
    """Return where a task's code is: module and qualified name (a module reloaded, or a notebook's cell, replaces its own)."""
    source = task.__dict__.get("__wrapped__", type(task))
    return str(getattr(source, "__module__", "")), str(getattr(source, "__qualname__", repr(source)))
