"""Real workers for tests: started from the command line in a directory of their own, ended by pid."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

__all__ = ["POOLS", "Worker", "children", "eventually", "load_module", "write_module"]

POOLS = ("prefork", "threads", "gevent", "eventlet", "solo", "asyncio")

#: generous: these machines are slow and shared
DEADLINE_S = 60.0


def eventually(
    condition: Callable[[], object], what: str | Callable[[], str], deadline_s: float = DEADLINE_S, every_s: float = 0.01
) -> None:
    """Wait until ``condition()`` is true; AssertionError naming ``what`` if it does not come true in time.

    ``what`` that shows a state (a log, what was counted) is a callable: of interest is how it was at the end.
    While the whole machine stands still (a container that is frozen for a snapshot) nobody could have done anything, so of a
    longer gap between two looks one second counts.
    """
    waited_s, looked_s = 0.0, time.monotonic()
    while not condition():
        if waited_s > deadline_s:
            raise AssertionError(f"not within {deadline_s:g} s: {what() if callable(what) else what}")
        time.sleep(every_s)
        now_s = time.monotonic()
        waited_s += min(now_s - looked_s, 1.0 + every_s)
        looked_s = now_s


def children(pid: int) -> list[int]:
    """Return the live (not defunct) descendants of a process, nearest first."""
    by_parent: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError, IndexError):
                fields = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
                if fields[0] != "Z":
                    by_parent.setdefault(int(fields[1]), []).append(int(entry))
    found: list[int] = []
    queue = [pid]
    while queue:
        for child in by_parent.get(queue.pop(0), []):
            found.append(child)
            queue.append(child)
    return found


class Worker:
    """``fastq worker`` on a module in ``directory``; everything it says is in ``log``."""

    def __init__(self, directory: Path, *arguments: str, app: str = "tasks", env: dict[str, str] | None = None) -> None:
        self.directory = directory
        self.path = directory / f"worker-{time.monotonic_ns()}.log"
        command = [sys.executable, "-m", "fastq", "-A", app, "worker", *arguments]
        self.solo = "solo" in arguments
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), **(env or {})}
        with self.path.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self.pid = self.process.pid

    @staticmethod
    def command(directory: Path, *arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run another ``fastq`` command there to its end."""
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), **(env or {})}
        command = [sys.executable, "-m", "fastq", "-A", "tasks", *arguments]
        return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=120)

    @property
    def log(self) -> str:
        return self.path.read_text(errors="replace")

    def wait_ready(self) -> Worker:
        def ready() -> bool:
            assert self.process.poll() is None, f"the worker ended with {self.process.returncode}:\n{self.log}"
            return " ready." in self.log

        eventually(ready, lambda: f"worker ready; its log:\n{self.log}")
        return self

    def wait_log(self, text: str) -> None:
        eventually(lambda: text in self.log, lambda: f"{text!r} in the worker's log:\n{self.log}")

    def pool_pids(self) -> list[int]:
        """Return the pids of the processes that run tasks just now (solo: the worker itself); [] while there is none."""
        return [self.pid] if self.solo else [pid for pid in children(self.pid) if "PoolWorker" in _comm(pid)]

    def terminate(self, number: int = signal.SIGTERM) -> int:
        """Send a signal to the worker and return its exit code."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)
        return self.process.wait(DEADLINE_S)

    def kill_all(self) -> None:
        """SIGKILL the whole worker at once, as a host that dies would."""
        for pid in [self.pid, *children(self.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(DEADLINE_S)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            pids = children(self.pid)
            with contextlib.suppress(subprocess.TimeoutExpired):
                os.kill(self.pid, signal.SIGTERM)
                self.process.wait(10)
            for pid in [self.pid, *pids]:
                if pid == self.pid and self.process.poll() is not None:
                    continue
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait(DEADLINE_S)


def _comm(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path("/proc", str(pid), "comm").read_text()
    return ""


def load_module(path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a module here as a producer would, for as long as the test lasts."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, path.stem, module)
    spec.loader.exec_module(module)
    return module


def write_module(directory: Path, name: str, lines: Sequence[str] | str) -> Path:
    path = directory / f"{name}.py"
    path.write_text(lines if isinstance(lines, str) else "\n".join(lines))
    return path
