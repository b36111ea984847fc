"""How processes end: killed, waited for, and described."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

__all__ = ["deaths", "describe", "explain", "kill"]

_C_CODE = "a crash in C code: PYTHONFAULTHANDLER=1 shows where"
#: what is behind a signal that ends a process, most of the time
_CAUSES: dict[int, str] = {
    signal.SIGKILL: "killed: the system may have been out of memory",
    signal.SIGSEGV: _C_CODE,
    signal.SIGBUS: _C_CODE,
    signal.SIGILL: _C_CODE,
    signal.SIGFPE: _C_CODE,
    signal.SIGABRT: "aborted by C code of its own",
    signal.SIGXCPU: "over its limit of CPU time",
}


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


def explain(status: int) -> str:
    """Say how a process ended, and what that means most of the time."""
    if not os.WIFSIGNALED(status):
        return f"{describe(status)}, ended from within: by os._exit or a fatal error (see the worker's log)"
    cause = _CAUSES.get(os.WTERMSIG(status))
    return f"{describe(status)}, {cause}" if cause else describe(status)


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
