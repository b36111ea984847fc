"""A distributed task queue for Python: Celery's programming model, a compiled core, no lost tasks.

from fastq import FastQ

app = FastQ("tasks", broker="redis://localhost", backend="redis://localhost")

@app.task
def add(x: int, y: int) -> int:
    return x + y

add.delay(2, 2).get(timeout=5)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastq.app import FastQ
    from fastq.canvas import StampingVisitor, chunks, subtask, xmap, xstarmap
    from fastq.canvas.chain import chain
    from fastq.canvas.chord import chord
    from fastq.canvas.group import group
    from fastq.canvas.signature import Signature, maybe_signature, signature
    from fastq.result import AsyncResult
    from fastq.results import GroupResult, ResultSet
    from fastq.shared import current_app, current_task, shared_task
    from fastq.task import Task

__version__ = "0.1.0"

__all__ = [
    "AsyncResult",
    "FastQ",
    "GroupResult",
    "ResultSet",
    "Signature",
    "StampingVisitor",
    "Task",
    "__version__",
    "chain",
    "chord",
    "chunks",
    "current_app",
    "current_task",
    "group",
    "maybe_signature",
    "shared_task",
    "signature",
    "subtask",
    "xmap",
    "xstarmap",
]

#: name -> module: imported at their first use. A supervisor needs none of them, and most programs not all.
_LATER = dict.fromkeys(
    (
        "Signature", "StampingVisitor", "chain", "chord", "chunks", "group", "maybe_signature", "signature", "subtask", "xmap",
        "xstarmap",
    ),
    "fastq.canvas",
) | dict.fromkeys(("current_app", "current_task", "shared_task"), "fastq.shared") | {
    "AsyncResult": "fastq.result", "FastQ": "fastq.app", "GroupResult": "fastq.results", "ResultSet": "fastq.results",
    "Task": "fastq.task",
}  # fmt: skip

#: modules that `import fastq` is enough for
_MODULES = frozenset(
    (
        "app", "canvas", "config", "context", "exceptions", "fixups", "result", "results", "schedules", "settings", "shared",
        "signals", "states", "task",
    )
)  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _LATER:
        import importlib  # lazy: see _LATER

        value = globals()[name] = getattr(importlib.import_module(_LATER[name]), name)
        return value
    if name in _MODULES:
        import importlib  # lazy: as above

        return importlib.import_module(f"fastq.{name}")
    raise AttributeError(f"module 'fastq' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
