"""How much memory this process holds, for the limit that ends processes which have grown (``worker_max_memory_per_child``).

Read by the process itself, right before it would ask for more work and only where a limit is set: that costs a few microseconds a
batch. A look from outside, now and then, would come too late for tasks of 10 ms that leave 100 MB behind each.
"""

from __future__ import annotations

import os
import sys

__all__ = ["Memory", "resident_kib"]

_STATM = "/proc/self/statm"


class Memory:
    """The limit of one process; opened in it, after the fork."""

    def __init__(self, limit_kib: int) -> None:
        self.limit_kib = limit_kib

    @classmethod
    def of(cls, limit_kib: int | None) -> Memory | None:
        return None if limit_kib is None else cls(limit_kib)

    def over(self) -> bool:
        """Say whether the process holds more than it may. Once it does it is to be replaced, whatever it lets go of later."""
        return resident_kib() > self.limit_kib


def resident_kib() -> int:
    """Return the resident set of this process in KiB, as ``ps`` shows it: pages shared with other processes count too.

    Where there is no /proc, the largest it ever was.
    """
    try:
        # by name, not a descriptor kept open: a task may close descriptors that it does not know
        with open(_STATM, "rb", buffering=0) as file:
            return int(file.read(128).split()[1]) * os.sysconf("SC_PAGESIZE") // 1024
    except FileNotFoundError:
        # lazy: other systems than Linux
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak // 1024 if sys.platform == "darwin" else peak
