"""Several beats on one schedule, killed at random; and what they have sent, tick by tick."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from fastq import _core
from fastq.transports import TransportOptions, open_inspector
from tests.workers import DEADLINE_S, eventually

__all__ = ["Beat", "Crowd", "missing_and_double", "sent"]

MODULE = """
from fastq import FastQ
app = FastQ("chaos", broker={url!r}, beat_lease={lease_s!r}, task_default_queue="ticks")

@app.task(name="tick")
def tick(name): pass

app.conf.beat_schedule = {{
    f"entry {{i}}": {{"task": "tick", "schedule": {every_s!r}, "args": (i,), "missed": "all"}} for i in range({entries})
}}
"""


class Beat:
    """``fastq beat`` in a process of its own; everything it says is in ``log``."""

    def __init__(self, directory: Path, *arguments: str, app: str = "tasks", level: str = "INFO") -> None:
        self.path = directory / f"beat-{time.monotonic_ns()}.log"
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        command = [sys.executable, "-m", "fastq", "-A", app, "beat", "-l", level, *arguments]
        with self.path.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self.pid = self.process.pid

    @property
    def log(self) -> str:
        return self.path.read_text(errors="replace")

    def wait_log(self, text: str) -> None:
        def said() -> bool:
            if text in self.log:
                return True
            assert self.process.poll() is None, f"the beat ended with {self.process.returncode}:\n{self.log}"
            return False

        eventually(said, lambda: f"{text!r} in the log of a beat:\n{self.log}")

    def end(self, signum: int = signal.SIGTERM) -> int:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signum)
        return self.process.wait(DEADLINE_S)

    def __enter__(self) -> Beat:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            self.end(signal.SIGKILL)


class Crowd:
    """Beats of one application, of which all but one may be dead at any time."""

    def __init__(
        self, directory: Path, url: str, *, lease_s: float, entries: int = 5, every_s: float = 1.0, beats: int = 3
    ) -> None:
        (directory / "tasks.py").write_text(MODULE.format(url=url, lease_s=lease_s, entries=entries, every_s=every_s))
        self._directory = directory
        self.beats = [Beat(directory) for _ in range(beats)]
        self.ended: list[Beat] = []
        self.kills = self.terms = 0

    def trouble(self, duration_s: float, chance: random.Random, pause_s: tuple[float, float]) -> None:
        """Kill all beats but one, start them again, and so on; now and then end one in good order."""
        until = time.monotonic() + duration_s
        while time.monotonic() < until:
            time.sleep(chance.uniform(*pause_s))
            for index in chance.sample(range(len(self.beats)), len(self.beats) - 1):
                beat = self.beats[index]
                # before its first line it is still importing: a signal just ends it
                if chance.random() < 0.2 and "beat: Starting..." in beat.log:
                    self.terms += 1
                    assert beat.end() == 0, beat.log
                else:
                    self.kills += 1
                    beat.end(signal.SIGKILL)
                self.ended.append(beat)
            time.sleep(chance.uniform(*pause_s))
            self.beats = [beat if beat.process.poll() is None else Beat(self._directory) for beat in self.beats]

    def close(self) -> None:
        for beat in self.beats:
            if beat.process.poll() is None:
                beat.end(signal.SIGKILL)


def sent(url: str, queue: str = "ticks") -> dict[str, list[int]]:
    """Return the due times, ms, of all messages of a queue by entry, in the order in which they were sent."""
    inspector = open_inspector(url, TransportOptions())
    try:
        found: dict[str, list[int]] = {}
        for message in inspector.peek(queue, 1_000_000):
            delivery = _core.peek(message)
            options = delivery.options
            assert options is not None
            due_ms = int(delivery.id.replace("-", "")[:12], 16)
            found.setdefault(options["headers"]["periodic_task_name"], []).append(due_ms)
        return found
    finally:
        inspector.close()


def missing_and_double(dues_ms: list[int], every_ms: int) -> tuple[int, int]:
    """Return how many ticks between the first and the last are not there, and how many are there more than once."""
    expected = (max(dues_ms) - min(dues_ms)) // every_ms + 1
    distinct = len(set(dues_ms))
    return expected - distinct, len(dues_ms) - distinct
