"""How much memory each process has, by lineage: a process and those that take its place."""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.soak.fleet import Fleet

__all__ = ["Growth", "Memory"]

PAGE = os.sysconf("SC_PAGE_SIZE")
#: seconds in which a new process imports, connects and fills its buffers
YOUNG_S = 10.0
#: samples in a third of the time that say something
ENOUGH = 8
#: bytes that are noise
SLACK = 1 << 20
#: a share more in the last third than in the second
MOST = 0.10


@dataclass(frozen=True)
class Growth:
    """What a lineage had in the second third of the time and in the last, medians in bytes."""

    lineage: str
    before: int
    after: int
    processes: int

    @property
    def flat(self) -> bool:
        return self.after <= self.before * (1 + MOST) + SLACK


@dataclass
class Memory:
    samples: dict[str, list[tuple[float, int, int]]] = field(default_factory=lambda: defaultdict(list))
    _seen: dict[int, tuple[str, float]] = field(default_factory=dict)

    def sample(self, fleet: Fleet) -> None:
        now = time.time()
        found = [(proc.pid, proc.lineage) for node in fleet.nodes for proc in node.procs()]
        if fleet.producer is not None:
            found.append((fleet.producer.pid, "producer"))
        if fleet.beats is not None:
            found += [(beater.pid, beater.name) for beater in fleet.beats.running.values()]
        for pid, lineage in found:
            name, since = self._seen.get(pid, ("", 0.0))
            if name != lineage:
                self._seen[pid] = (lineage, now)
            elif now - since >= YOUNG_S and not lineage.endswith("starting"):
                with contextlib.suppress(OSError, IndexError):
                    pages = int(Path("/proc", str(pid), "statm").read_text().split()[1])
                    self.samples[lineage].append((now, pid, pages * PAGE))

    def growths(self, began: float, ended: float) -> list[Growth]:
        """Compare the thirds; lineages with too few samples are left out."""
        third = (ended - began) / 3
        found = []
        for lineage, samples in sorted(self.samples.items()):
            before = [size for at, _, size in samples if began + third <= at < began + 2 * third]
            after = [size for at, _, size in samples if at >= began + 2 * third]
            if len(before) >= ENOUGH and len(after) >= ENOUGH:
                pids = {pid for _, pid, _ in samples}
                found.append(Growth(lineage, int(statistics.median(before)), int(statistics.median(after)), len(pids)))
        return found
