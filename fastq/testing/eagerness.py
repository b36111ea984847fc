"""Run tasks where they are called."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastq.app import FastQ

__all__ = ["eager"]


@contextmanager
def eager(app: FastQ, propagate: bool = True) -> Iterator[FastQ]:
    """Have every call run its task at once in the calling thread, without a broker, for the ``with`` block (all threads see it).

    ``propagate``: what a task raises is raised at the call; False: it is in the result. Arguments and results are not encoded, so a
    test that should notice what cannot be sent drains the queue instead (``drain``).
    """
    before = {name: (app.conf.origin(name), app.conf[name]) for name in ("task_always_eager", "task_eager_propagates")}
    app.conf.update(task_always_eager=True, task_eager_propagates=propagate)
    try:
        yield app
    finally:
        for name, (origin, value) in before.items():
            del app.conf[name]
            if origin == "app.conf":  # it was an assignment that was replaced
                app.conf[name] = value
