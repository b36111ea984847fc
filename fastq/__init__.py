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

from fastq.app import FastQ
from fastq.shared import current_app, current_task, shared_task
from fastq.task import Task

if TYPE_CHECKING:
    from fastq.canvas import (
        Signature,
        StampingVisitor,
        chain,
        chord,
        chunks,
        group,
        maybe_signature,
        signature,
        subtask,
        xmap,
        xstarmap,
    )
    from fastq.result import AsyncResult
    from fastq.results import GroupResult, ResultSet

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

#: name -> module: imported at their first use, so that `import fastq` stays quick
_LATER = dict.fromkeys(
    (
        "Signature", "StampingVisitor", "chain", "chord", "chunks", "group", "maybe_signature", "signature", "subtask", "xmap",
        "xstarmap",
    ),
    "fastq.canvas",
) | {"AsyncResult": "fastq.result", "GroupResult": "fastq.results", "ResultSet": "fastq.results"}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _LATER:
        import importlib  # lazy: see _LATER

        value = globals()[name] = getattr(importlib.import_module(_LATER[name]), name)
        return value
    raise AttributeError(f"module 'fastq' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
