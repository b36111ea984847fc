"""``app.start()``: a script that is the ``fastq`` command of its own application."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fastq.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from types import FrameType

    from fastq.app.application import FastQ

__all__ = ["place", "refuse_in_workers", "start", "worker_main"]


def start(app: FastQ, argv: Sequence[str] | None = None) -> None:
    """Run the command line of ``argv`` (None: the script's own) for this application; exits as the command does."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    _command()(args=_with_app(app, arguments))


def worker_main(app: FastQ, argv: Sequence[str] | None = None) -> None:
    """Run ``fastq worker`` for this application."""
    refuse_in_workers("app.worker_main()")
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "worker" not in arguments:
        arguments.insert(0, "worker")
    start(app, arguments)


def refuse_in_workers(call: str) -> None:
    """Raise ImproperlyConfigured if a process of a worker imports the module that calls this: each would start one more."""
    if "fastq.worker.hello" not in sys.modules:
        return
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "<module>":
            name = str(frame.f_globals.get("__name__"))
            spec = getattr(sys.modules.get(name), "__spec__", None)
            if getattr(spec, "_initializing", False):
                raise ImproperlyConfigured(
                    f"{call} is called while a process of a worker imports the module {name} for its tasks: put the call below "
                    '`if __name__ == "__main__":`'
                )
        frame = frame.f_back


def _with_app(app: FastQ, arguments: list[str]) -> list[str]:
    """Return the arguments with ``-A``, unless they name an application: processes of a worker import it by that name."""
    if any(argument in ("-A", "--app") or argument.startswith(("-A", "--app=")) for argument in arguments):
        return arguments
    name = place(app)
    return ["-A", name, *arguments] if name else arguments


def place(app: FastQ) -> str | None:
    """Return ``module:attribute`` of an application: of the script that is run first, then of any module."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    path = getattr(main, "__file__", None)
    if main is not None and (attribute := _attribute(main, app)):
        if spec is not None and spec.name:
            return f"{spec.name}:{attribute}"
        if path:
            # its processes import it by this name, from wherever they run
            directory, file = os.path.split(os.path.abspath(path))
            found = os.environ.get("PYTHONPATH")
            if directory not in (found or "").split(os.pathsep):
                os.environ["PYTHONPATH"] = f"{directory}{os.pathsep}{found}" if found else directory
            return f"{os.path.splitext(file)[0]}:{attribute}"
    for name, module in list(sys.modules.items()):
        if name != "__main__" and module is not None and (attribute := _attribute(module, app)):
            return f"{name}:{attribute}"
    return None


def _attribute(module: Any, app: FastQ) -> str | None:
    return next((name for name, value in list(vars(module).items()) if value is app), None)


def _command() -> Any:
    # lazy: the command line stands above applications; only a script that is a command needs it
    return importlib.import_module("fastq.cli").main
