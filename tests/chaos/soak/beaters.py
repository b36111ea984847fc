"""The beats of a soak: they share one timetable, and are started again when they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["STARTING", "Beater", "Beats", "environment"]

ROOT = Path(__file__).parents[3]
#: how one ends that is asked to before it can hear of it
STARTING = -signal.SIGTERM


@dataclass
class Beater:
    """One ``fastq beat``."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    #: exit codes that are in order, by what has been done to it
    expected: tuple[int, ...] = ()

    @property
    def pid(self) -> int:
        return self.process.pid


@dataclass
class Beats:
    """All of them. ``watch`` is called by one thread; faults may pick victims in another."""

    folder: Path
    env: dict[str, str]
    number: int
    surprises: list[str]
    running: dict[int, Beater] = field(default_factory=dict)
    starts: int = 0

    def start(self) -> None:
        for index in range(self.number):
            self._start(index)

    def _start(self, index: int) -> None:
        self.starts += 1
        log = self.folder / "logs" / f"beat{index}-{self.starts}.log"
        command = [sys.executable, "-m", "fastq", "-A", "tests.chaos.soak.workload", "beat", "-l", "INFO"]
        command += ["-n", f"beat{index}@soak"]
        with log.open("wb") as file:
            process = subprocess.Popen(
                command, cwd=self.folder, env=self.env, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
            )
        self.running[index] = Beater(f"beat{index}", process, log)

    def watch(self) -> None:
        """Start again what has ended."""
        for index, beater in list(self.running.items()):
            code = beater.process.poll()
            if code is not None:
                self._judge(beater, code, beater.expected)
                self._start(index)

    def _judge(self, beater: Beater, code: int, expected: tuple[int, ...]) -> None:
        if code not in expected:
            self.surprises.append(f"{time.strftime('%H:%M:%S')} {beater.name} ended with {code}: {beater.log.name}")

    def stop(self, deadline_s: float) -> None:
        """End them in good order."""
        running, self.running = list(self.running.values()), {}
        for beater in running:
            beater.process.send_signal(signal.SIGTERM)
        end = time.monotonic() + deadline_s
        for beater in running:
            try:
                # a fault may have been faster, and one that has just been started has not come to its signals yet
                self._judge(beater, beater.process.wait(max(0.1, end - time.monotonic())), (0, STARTING, *beater.expected))
            except subprocess.TimeoutExpired:
                self.surprises.append(f"{beater.name} did not end within {deadline_s:g} s of TERM: {beater.log.name}")
                beater.process.kill()
                beater.process.wait()

    def close(self) -> None:
        for beater in self.running.values():
            beater.process.kill()
            beater.process.wait(60)

    @property
    def leads(self) -> int:
        """Return how often one has taken the lead, by their logs."""
        logs = (self.folder / "logs").glob("beat*.log")
        return sum(path.read_text(errors="replace").count("beat: leading") for path in logs)


def environment(folder: Path, url: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "SOAK_BROKER": url, "SOAK_BACKEND": url, "SOAK_FOLDER": str(folder)}
