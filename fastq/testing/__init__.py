"""What tests of an application need: a worker inside the process, a clock that can be moved, draining, eager mode.

    from fastq.testing import start_worker

    with start_worker(app):
        assert add.delay(2, 2).get(timeout=5) == 4

``fastq.testing.plugin`` offers the same as fixtures of pytest; pytest finds it by itself once fastq is installed. Importing this
package imports no part of the worker: each name does so at its first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastq.testing.clock import Clock, app_clock
    from fastq.testing.draining import drain
    from fastq.testing.eagerness import eager
    from fastq.testing.worker import InProcessWorker, start_worker

__all__ = ["Clock", "InProcessWorker", "app_clock", "drain", "eager", "start_worker"]

#: name -> module
_LATER = {
    "Clock": "fastq.testing.clock",
    "InProcessWorker": "fastq.testing.worker",
    "app_clock": "fastq.testing.clock",
    "drain": "fastq.testing.draining",
    "eager": "fastq.testing.eagerness",
    "start_worker": "fastq.testing.worker",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        import importlib  # lazy: see _LATER

        value = globals()[name] = getattr(importlib.import_module(_LATER[name]), name)
        return value
    raise AttributeError(f"module 'fastq.testing' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LATER])
