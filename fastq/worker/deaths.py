"""How processes end: killed, waited for, and described."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

__all__ = ["deaths", "describe", "kill"]


def deaths() -> Iterator[tuple[int, int]]:
    """Yield (pid, wait status) of every child that has died, without waiting; more than one may stand behind one signal."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, status


def describe(status: int) -> str:
    """Say how a process ended, from its wait status."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            return f"signal {number} ({signal.Signals(number).name})"
        except ValueError:
            return f"signal {number}"
    return f"exit code {os.WEXITSTATUS(status)}"


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
