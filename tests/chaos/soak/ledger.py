"""What was sent and what ran, read from files that survive the death of whoever wrote them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tests.chaos.soak.kinds import INDEX_BITS, KINDS, Kind
from tests.chaos.soak.workload import RECORD

__all__ = ["Accepted", "Ledger", "Run", "runs", "runs_so_far"]


class Accepted(NamedTuple):
    """A unit whose call has returned."""

    kind: str
    unit: int
    #: that of its end first
    ids: tuple[str, ...]
    at: float


class Run(NamedTuple):
    token: int
    #: Unix seconds
    at: float
    retries: int
    #: deaths charged to it before
    deliveries: int
    phase: int
    #: who ran it, see ``workload.birth``
    node: str
    process: str

    @property
    def unit(self) -> int:
        return self.token >> INDEX_BITS

    @property
    def place(self) -> int:
        return self.token & (1 << INDEX_BITS) - 1


@dataclass
class Ledger:
    """The ledgers of all incarnations of the producer; ``read`` takes in what has been written since."""

    folder: Path
    #: unit -> (kind, how many): calls that were begun, by the first unit of each
    begun: dict[int, tuple[str, int]] = field(default_factory=dict)
    #: first units of calls that were answered
    answered: set[int] = field(default_factory=set)
    #: unit -> seconds from its sending to the return of ``revoke``
    revoked: dict[int, float] = field(default_factory=dict)
    #: unit -> Unix seconds of that return
    revoked_at: dict[int, float] = field(default_factory=dict)
    #: what calls that failed said
    troubles: list[str] = field(default_factory=list)
    accepted_tasks: int = 0
    _at: dict[str, int] = field(default_factory=dict)

    def read(self) -> Iterator[Accepted]:
        """Yield the units accepted since the last time."""
        for path in sorted((self.folder / "ledger").iterdir()):
            at = self._at.get(path.name, 0)
            with path.open("rb") as file:
                file.seek(at)
                whole = file.read().rpartition(b"\n")[0]
            if not whole:
                continue
            self._at[path.name] = at + len(whole) + 1
            for line in whole.splitlines():
                yield from self._take(*json.loads(line))

    def _take(self, sort: str, kind: str, unit: int, what: object, *more: object) -> Iterator[Accepted]:
        if sort == "+":
            assert isinstance(what, int)
            self.begun[unit] = (kind, what)
        elif sort == "=":
            assert isinstance(what, list)
            self.answered.add(unit)
            self.accepted_tasks += KINDS[kind].tasks * len(what)
            for i, ids in enumerate(what):
                yield Accepted(kind, unit + i, tuple(ids), float(str(more[0])))
        elif sort == "-":
            assert isinstance(what, int)
            for i in range(what):
                self.revoked[unit + i] = float(str(more[0]))
                self.revoked_at[unit + i] = float(str(more[1]))
        else:
            self.troubles.append(f"{kind}: {more[0] if more else ''}")

    def unanswered(self) -> dict[int, Kind]:
        """Return the units of calls that never returned, or failed: each may or may not have been kept."""
        return {
            unit + i: KINDS[kind]
            for unit, (kind, n) in self.begun.items()
            if unit not in self.answered
            for i in range(n)
        }


def runs(folder: Path, what: str = "runs") -> Iterator[Run]:
    """Yield every run of every process. ``what``: "ticks" are those of periodic tasks."""
    for path in (folder / what).iterdir():
        data = path.read_bytes()
        for token, at_us, retries, deliveries, phase in RECORD.iter_unpack(data[: len(data) // RECORD.size * RECORD.size]):
            yield Run(token, at_us / 1e6, retries, deliveries, phase, *path.name.split(".", 1))


def runs_so_far(folder: Path) -> int:
    return sum(path.stat().st_size for path in (folder / "runs").iterdir()) // RECORD.size
