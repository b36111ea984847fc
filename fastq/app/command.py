"""``app.start()``: a script that is the ``fastq`` command of its own application."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastq.app.application import FastQ

__all__ = ["start", "worker_main"]


def start(app: FastQ, argv: Sequence[str] | None = None) -> None:
    """Run the command line of ``argv`` (None: the script's own) for this application; exits as the command does."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    _command()(args=_with_app(app, arguments))


def worker_main(app: FastQ, argv: Sequence[str] | None = None) -> None:
    """Run ``fastq worker`` for this application."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "worker" not in arguments:
        arguments.insert(0, "worker")
    start(app, arguments)


def _with_app(app: FastQ, arguments: list[str]) -> list[str]:
    """Return the arguments with ``-A``, unless they name an application: processes of a worker import it by that name."""
    if any(argument in ("-A", "--app") or argument.startswith(("-A", "--app=")) for argument in arguments):
        return arguments
    name = _place(app)
    return ["-A", name, *arguments] if name else arguments


def _place(app: FastQ) -> str | None:
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
