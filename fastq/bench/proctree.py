"""The process tree of a worker: who is in it, its memory, its CPU time. From /proc; where there is none, nothing is known."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

__all__ = ["cpu_s", "name", "pss_mib", "running_s", "tree"]

_PROC = Path("/proc")


def tree(pid: int) -> list[int]:
    """Return a process and all below it that exist now."""
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir() if _PROC.is_dir() else ():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                # the command's name may hold anything, so count from its closing bracket
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found, left = [], [pid]
    while left:
        found.append(current := left.pop(0))
        left += children.get(current, [])
    return found


def name(pid: int) -> str:
    """Return what a process calls itself; its pid where that is not known."""
    try:
        return (_PROC / str(pid) / "comm").read_text().strip()
    except OSError:
        return str(pid)


def pss_mib(pids: list[int]) -> float | None:
    """Return the proportional set size of all of them together: shared pages are counted once."""
    total, known = 0, False
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total, known = total + int(line.split()[1]), True
    return total / 1024 if known else None


def cpu_s(pids: list[int]) -> float:
    """Return the CPU seconds they have used, with children they have waited for; in steps of a clock tick (10 ms) each."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            ticks += sum(map(int, (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def running_s(pids: list[int]) -> float:
    """Return the CPU seconds of their living threads, exact to nanoseconds: for the little that an idle worker uses."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for thread in (_PROC / str(pid) / "task").iterdir():
                with contextlib.suppress(OSError):
                    total += int((thread / "schedstat").read_text().split()[0])
    return total / 1e9
