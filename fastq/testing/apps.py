"""Applications for tests: each with a memory broker of its own, current while the test runs, gone afterwards."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn, cast

from fastq import FastQ, shared
from fastq.transports import memory

__all__ = ["Trap", "test_app"]

_numbers = itertools.count(1)


class Trap:
    """Stand where the current application would: whoever uses it is told that he depends on it."""

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)  # what Python itself looks for
        raise RuntimeError(
            f"current_app.{name} was used, but this test forbids the current application: pass the application on, or ask for the "
            "fixture depends_on_current_app"
        )

    def __repr__(self) -> str:
        return "<no current application: fastq_app_trap>"


@contextmanager
def test_app(
    name: str = "fastq.tests",
    *,
    config: Mapping[str, Any] | None = None,
    parameters: Mapping[str, Any] | None = None,
    trap: bool = False,
) -> Iterator[FastQ]:
    """Make an application for one test, or for all.

    ``config``: its settings; with no broker, or a plain ``memory://``, it has a memory broker that nobody else uses.
    ``parameters``: further arguments of ``FastQ``. ``trap``: no application is the current one; else this is.
    """
    store = f"test-{os.getpid()}-{next(_numbers)}"
    settings = {key: _private(value, store) for key, value in (config or {}).items()}
    values: dict[str, Any] = {
        "main": name,
        "broker": f"memory://{store}",
        "set_as_current": False,
        # a test that lets days pass wants to see what came of it; the store goes with the test
        "result_expires": None,
        **(parameters or {}),
    }
    for key in ("broker", "backend"):
        if key in values:
            values[key] = _private(values[key], store)
    app = FastQ(**values, changes=settings)
    before = shared._current.app, shared._default[:]
    # whatever stands there is only ever used by the names of an application's attributes
    current = cast("FastQ", Trap()) if trap else app
    shared.set_current(current)
    try:
        yield app
    finally:
        app.close()
        shared._current.app, shared._default[:] = before
        memory.reset(store)


# not a test, whatever pytest thinks of its name
test_app.__test__ = False  # type: ignore[attr-defined]


def _private(value: Any, store: str) -> Any:
    """Give a setting that names the memory of the whole process a memory of its own; Celery calls that of results a cache."""
    return f"memory://{store}" if value in ("memory://", "memory", "cache+memory://", "cache") else value
