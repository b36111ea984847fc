"""``fastq worker --reload``: start the worker again when a Python file changes. For development.

This process only watches; the worker is a child that is started anew. A change stops it warm, and cold if it has not ended after
``PATIENCE_S``: what was running then runs again, with the new code. A worker that cannot start, for a syntax error, waits for the
next change.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import click

from fastq.exceptions import ImproperlyConfigured

__all__ = ["run_reloading"]

#: seconds that running tasks have to end after a change
PATIENCE_S = 5.0
#: milliseconds between two looks whether the worker has ended by itself
LOOK_MS = 200


def run_reloading(arguments: Sequence[str], directory: str) -> int:
    """Run ``fastq <arguments>``, from ``directory``, until it is stopped by a signal; return its exit code then.

    Python files below the working directory are watched. ImproperlyConfigured without the package watchfiles.
    """
    try:
        # lazy: only who asks for it needs the package
        from watchfiles import PythonFilter, watch
    except ImportError as exc:
        raise ImproperlyConfigured("--reload needs the Python package watchfiles: pip install 'fastq[reload]'") from exc
    child = _Child([sys.executable, "-m", "fastq", *(word for word in arguments if word != "--reload")], directory)
    child.start()
    for changes in watch(
        os.getcwd(),
        watch_filter=PythonFilter(),
        stop_event=child.ended,
        rust_timeout=LOOK_MS,
        yield_on_timeout=True,
        debounce=400,
        raise_interrupt=False,
    ):
        if changes and not child.stopping:
            names = sorted({os.path.relpath(path) for _, path in changes})
            click.echo(f"Reloading: {', '.join(names[:3])}{' ...' if len(names) > 3 else ''} changed", err=True)
            child.restart()
        child.look()
    return child.code


class _Child:
    """The worker, and the signals that are meant for it."""

    def __init__(self, command: Sequence[str], directory: str) -> None:
        self._command = command
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self._told = False
        #: a signal has asked to stop
        self.stopping = False
        #: set when it has stopped for good
        self.ended = threading.Event()
        self.code = 0
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(signum, self._pass_on)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        self._told = False
        self._process = subprocess.Popen(self._command, cwd=self._directory)

    def restart(self) -> None:
        process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                click.echo(f"Reloading: tasks still run after {PATIENCE_S:g} s, stopping cold", err=True)
                process.send_signal(signal.SIGQUIT)
                process.wait()
        if not self.stopping:
            self.start()

    def look(self) -> None:
        """Say so when the worker has ended by itself; stop when it was asked to."""
        process = self._process
        if process is None or process.poll() is None:
            return
        self.code = process.returncode
        if self.stopping:
            self.ended.set()
        elif not self._told:
            self._told = True
            click.echo(f"The worker has ended (exit code {process.returncode}); waiting for a change", err=True)

    def _pass_on(self, signum: int, frame: FrameType | None) -> None:
        self.stopping = True
        process = self._process
        if process is None or process.poll() is not None:
            self.ended.set()
        elif signum == signal.SIGTERM or not _from_terminal():
            process.send_signal(signum)


def _from_terminal() -> bool:
    """Say whether ^C reaches the worker by itself: both are in the foreground of a terminal."""
    try:
        with Path("/dev/tty").open() as tty:
            return os.tcgetpgrp(tty.fileno()) == os.getpgrp()
    except OSError:
        return False
