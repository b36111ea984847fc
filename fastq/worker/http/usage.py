"""What processes use of the machine, as Linux tells it."""

from __future__ import annotations

import os
from typing import NamedTuple

__all__ = ["Usage", "usage_of"]


class Usage(NamedTuple):
    cpu_s: float
    rss_bytes: int


def usage_of(pid: int) -> Usage | None:
    """Return what a process has used; None if it is gone, or the system does not say."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # behind the program's name, which may have spaces and brackets
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    # proc(5) counts from 1 and has the name second: utime is its 14th, rss its 24th
    return Usage((int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), int(fields[21]) * os.sysconf("SC_PAGE_SIZE"))
