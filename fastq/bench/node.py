"""One ``fastq worker`` under measurement, started as anyone would start it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import fastq
from fastq.bench import marks, proctree, tasks
from fastq.bench.place import Place
from fastq.bench.shapes import Shape
from fastq.exceptions import FastQError

__all__ = ["BenchError", "Node"]

#: seconds a worker gets to run its first task
START_S = 30.0
#: seconds a worker gets to stop by itself
STOP_S = 15.0


class BenchError(FastQError):
    """Say which part of a measurement did not work."""


class Node:
    """A worker node; use as a context manager: it is stopped, and gone, afterwards."""

    def __init__(self, place: Place, shape: Shape, board: marks.Board | None = None, *, source: Path | None = None) -> None:
        """``source``: a built tree to run it from, None: the one that runs here."""
        self.shape = shape
        self._folder = tempfile.TemporaryDirectory(prefix="fastq-bench-worker-")
        self._log = Path(self._folder.name, "worker.log")
        env = {k: v for k, v in os.environ.items() if not k.startswith(("FASTQ_", "CELERY_"))}
        # an installed package has its modules compiled; a checkout gets there with the first worker
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        env[tasks.ENV] = json.dumps({"broker": place.broker_url, "backend": place.backend_url, "conf": place.conf})
        if board is not None:
            env[marks.ENV] = str(board.path)
        source = source or Path(fastq.__file__).parents[1]
        if source.name not in ("site-packages", "dist-packages"):
            # run from a checkout: the worker has another working directory
            env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(source), env.get("PYTHONPATH")]))
        command = [sys.executable, "-m", "fastq", "-q", "worker", "-A", "fastq.bench.worker_app", "-P", shape.pool]
        command += ["-c", str(shape.concurrency), "-Q", place.queue, "-l", "WARNING", "-n", f"bench-{os.getpid()}@%h"]
        if shape.processes is not None:
            command += ["--processes", str(shape.processes)]
        with self._log.open("wb") as log:
            self.spawned_at = time.perf_counter()
            self._process = subprocess.Popen(
                command, env=env, cwd=self._folder.name, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def check(self) -> None:
        """Raise with the end of the worker's log if it has ended."""
        if self._process.poll() is not None:
            raise BenchError(f"the {self.shape} worker ended with {self._process.returncode}; its log:\n{self.tail()}")

    def tail(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])

    def wait_for(self, reached: Callable[[], object], what: str, within_s: float, every_s: float = 0.001) -> float:
        """Wait until ``reached()`` is true; return the time (perf_counter). BenchError if the worker dies or it takes too long."""
        deadline = time.perf_counter() + within_s
        looks = 0
        while not reached():
            if time.perf_counter() > deadline:
                raise BenchError(f"{self.shape}: {what}: not within {within_s:g} s; the worker's log:\n{self.tail()}")
            looks += 1
            if looks % 64 == 0:
                self.check()
            time.sleep(every_s)
        return time.perf_counter()

    def tree(self) -> list[int]:
        return proctree.tree(self._process.pid)

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> None:
        """Stop it as an operator does; what does not go is killed by pid."""
        pids = self.tree()
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                pids = sorted({*pids, *self.tree()})
                for pid in pids:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                self._process.wait()
                raise BenchError(f"the {self.shape} worker did not stop within {STOP_S:g} s; its log:\n{self.tail()}") from None
        self._folder.cleanup()

    def __enter__(self) -> Node:
        return self

    def __exit__(self, kind: object, exc: object, trace: object) -> None:
        try:
            self.stop()
        except BenchError:
            # the first error tells more than that the worker did not stop either
            if exc is None:
                raise
