"""Why a run may have been in vain: its process was hit, or says itself that it could not settle."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from tests.chaos.soak.faults import Happened
from tests.chaos.soak.fleet import Fleet, Hit
from tests.chaos.soak.ledger import Run

__all__ = ["Excuses"]

#: seconds between the end of a run and its settlement that need no explanation: a batch, a busy machine, a slow broker
PROMPT_S = 5.0
#: seconds that a process may live on after it was hit
LINGER_S = 3.0
#: seconds after which a connection that was half-open is certainly given up; outcomes may have to wait so long
SILENCE_S = 35.0


class Confession(NamedTuple):
    """What a process says when what it ran cannot be settled any more."""

    node: str
    pid: str
    at: float
    what: str


class Excuses:
    def __init__(self, fleet: Fleet, happened: list[Happened], poisoned: list[Run], doomed: list[Run]) -> None:
        self._hits: dict[str, list[Hit]] = defaultdict(list)
        for hit in fleet.hits:
            self._hits[hit.node].append(hit)
        for run in poisoned:
            self._hits[run.node].append(Hit(run.node, run.process, run.at, run.at + 0.5, "beside a poisonous task"))
        forking = {node.name for node in fleet.nodes if node.pool == "prefork"}
        for run in doomed:
            if run.node in forking:  # its process may be killed with it, and what that process ended just before is not settled
                self._hits[run.node].append(Hit(run.node, run.process, run.at, run.at + 0.5, "before a task that was ended"))
        self._confessions: dict[str, list[Confession]] = defaultdict(list)
        for confession in _confessions(fleet.folder):
            self._confessions[confession.node].append(confession)
        self._trouble = [(one.began, one.ended + SILENCE_S) for one in happened if one.broker]
        #: leases that were taken away from processes of nodes that nothing had hit
        self.unprompted = sum(
            not any(hit.began - LINGER_S <= confession.at <= hit.ended + SILENCE_S for hit in self._hits[node])
            for node, confessions in self._confessions.items()
            for confession in confessions
        )

    def of(self, run: Run, lasting_s: float = 0.0) -> str:
        """Return why a run may have been in vain, "" if there is no reason. ``lasting_s``: how long it may have run."""
        for hit in self._hits[run.node]:
            if hit.process in ("", run.process):
                waits = any(start <= hit.began <= end for start, end in self._trouble)
                if hit.began - (SILENCE_S if waits else PROMPT_S) - lasting_s <= run.at <= hit.ended + LINGER_S:
                    return hit.cause
        pid = run.process.partition("-")[0]
        for confession in self._confessions[run.node]:
            if confession.pid == pid and confession.at - SILENCE_S - lasting_s <= run.at <= confession.at + LINGER_S:
                return confession.what
        return ""


_SAID = re.compile(
    rb"^\[([-\d]+ [:\d]+),(\d+): \w+/(\d+)\] (?:(The lease of \S+ was taken away)|(Giving up on settling))", re.MULTILINE
)


def _confessions(folder: Path) -> list[Confession]:
    found = []
    for path in (folder / "logs").glob("*.log"):
        for moment, ms, pid, taken, _ in _SAID.findall(path.read_bytes()):
            at = time.mktime(time.strptime(moment.decode(), "%Y-%m-%d %H:%M:%S")) + int(ms) / 1000
            what = "its lease was taken away" if taken else "it gave up on settling"
            found.append(Confession(path.stem.rpartition("-")[0], pid.decode(), at, what))
    return found
