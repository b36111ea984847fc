"""``fastq shell``: an interactive Python with the application in it."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any, NoReturn

import click

import fastq
from fastq.cli.context import Settings, Started, app_options, load_app
from fastq.pools import check_installed

__all__ = ["command"]

#: in this order where none is asked for
SHELLS = ("IPython", "bpython")
_PATCH = {
    "gevent": "from gevent import monkey; monkey.patch_all()",
    "eventlet": "import eventlet; eventlet.monkey_patch()",
}


@click.command("shell", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-I", "--ipython", is_flag=True, help="Use IPython.")
@click.option("-B", "--bpython", is_flag=True, help="Use bpython.")
@click.option("--python", is_flag=True, help="Use the plain interpreter.")
@click.option("-T", "--without-tasks", is_flag=True, help="Leave the tasks out of the namespace.")
@click.option("--eventlet", is_flag=True, help="Patch with eventlet first.")
@click.option("--gevent", is_flag=True, help="Patch with gevent first.")
@app_options
def command(
    settings: Settings, /, ipython: bool, bpython: bool, python: bool, without_tasks: bool, eventlet: bool, gevent: bool
) -> None:
    """Start an interactive Python with the application as app, its tasks by their names, and chain, group, chord and their like.

    IPython or bpython are used where they are installed.
    """
    if ipython + bpython + python > 1:
        raise click.UsageError("--ipython, --bpython and --python exclude each other: give one of them.")
    if eventlet and gevent:
        raise click.UsageError("--eventlet and --gevent exclude each other: give one of them.")
    if eventlet or gevent:
        _start_patched("gevent" if gevent else "eventlet")
    app = load_app(settings)
    app.finalize()
    names = _namespace(app, tasks=not without_tasks)
    asked = "IPython" if ipython else "bpython" if bpython else "python" if python else None
    if not sys.stdin.isatty() and asked is None:
        exec(compile(sys.stdin.read(), "<stdin>", "exec"), names)
        return
    _start(asked, names, app)


def _start_patched(library: str) -> NoReturn:
    """Begin again in an interpreter that patches before it imports anything else."""
    check_installed(library)
    started: Started = click.get_current_context().find_root().meta["fastq.started"]
    words = [word for word in started.arguments if word != f"--{library}"]
    os.chdir(started.directory)
    os.execv(sys.executable, [sys.executable, "-c", f"{_PATCH[library]}; from fastq.__main__ import main; main()", *words])


def _namespace(app: Any, *, tasks: bool) -> dict[str, Any]:
    words = ("Task", "chain", "chord", "chunks", "group", "signature", "xmap", "xstarmap")
    names: dict[str, Any] = {word: getattr(fastq, word) for word in words}
    names |= {"app": app, "fastq": fastq}
    if tasks:
        names |= {task.__name__: task for task in app.tasks.regular() if task.__name__.isidentifier()}
    return names


def _start(asked: str | None, names: dict[str, Any], app: Any) -> None:
    banner = f"fastq {fastq.__version__}: app is {app.name} on {_display(app)}"
    for shell in SHELLS if asked is None else (asked,):
        if shell == "python":
            break
        try:
            module = importlib.import_module(shell)
        except ImportError:
            if asked is not None:
                raise click.ClickException(f"{shell} is not installed: pip install {shell.lower()}, or use --python.") from None
            continue
        if shell == "IPython":
            click.echo(banner)
            module.start_ipython(argv=[], user_ns=names)
        else:
            module.embed(names, banner=banner)
        return
    # lazy: the last resort
    import code

    code.interact(banner, local=names)


def _display(app: Any) -> str:
    # lazy: came with the application
    from fastq.transports import display_url

    return display_url(app.broker_url)
