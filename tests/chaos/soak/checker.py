"""Ask for the results of what was accepted, while the soak runs: what has ended as it must is forgotten, the rest is unfinished."""

from __future__ import annotations

import contextlib
import heapq
import time
from collections import Counter
from typing import Any

from fastq import _core
from fastq.exceptions import OperationalError
from tests.chaos.soak.kinds import KINDS
from tests.chaos.soak.ledger import Accepted, Ledger

__all__ = ["FINAL", "Checker"]

FINAL = frozenset({"SUCCESS", "FAILURE", "REVOKED"})
#: results asked for in one call
MANY = 1000
#: seconds until a unit that has not ended is asked for again: a share of its age, within these
SOONEST_S, LATEST_S = 0.2, 2.0


class Checker:
    """Owned by one thread."""

    def __init__(self, ledger: Ledger, backend: Any) -> None:
        self._ledger = ledger
        #: a result store with a connection of its own, which no fault touches but the broker's death
        self._backend = backend
        #: (when to ask, unit, what): a heap
        self._open: list[tuple[float, int, Accepted]] = []
        #: without a result: the count at the end looks at their runs
        self.unstored: list[Accepted] = []
        self.unfinished = 0
        self.ended: Counter[str] = Counter()
        #: units that ended otherwise than they must, told at once
        self.wrong: list[str] = []
        self.slowest_s = 0.0

    def turn(self) -> int:
        """Take in what was accepted, ask for what is due; return how many tasks are unfinished."""
        now = time.time()
        for unit in self._ledger.read():
            kind = KINDS[unit.kind]
            if kind.stored:
                heapq.heappush(self._open, (now + SOONEST_S, unit.unit, unit))
                self.unfinished += kind.tasks
            else:
                self.unstored.append(unit)
        while self._open and self._open[0][0] <= now:
            due: list[Accepted] = []
            size = 0
            while self._open and self._open[0][0] <= now and size < MANY:
                due.append(heapq.heappop(self._open)[2])
                size += len(due[-1].ids)
            try:
                self._ask(due, now)
            except OperationalError:  # a fault of the broker's: later
                for unit in due:
                    heapq.heappush(self._open, (now + 0.5, unit.unit, unit))
                break
        return self.unfinished

    def open_units(self) -> list[Accepted]:
        return [unit for _, _, unit in self._open]

    def _ask(self, due: list[Accepted], now: float) -> None:
        # the end of a unit first: while it has none, its other tasks need not be asked for
        records = self._backend.get([unit.ids[0] for unit in due])
        ended = [unit for unit, record in zip(due, records, strict=True) if _final(record)]
        others = [id for unit in ended for id in unit.ids[1:]]
        states = dict(zip(others, self._backend.get(others), strict=True)) if others else {}
        # from here on nothing fails: a unit is put back by this or by its caller, never by both
        known = {unit.unit for unit in ended}
        for unit in due:
            if unit.unit not in known:
                self._later(unit, now)
        found = {unit.unit: record for unit, record in zip(due, records, strict=True)}
        done: list[str] = []
        for unit in ended:
            if not all(_final(states[id]) for id in unit.ids[1:]):
                self._later(unit, now)  # a group's end is no task's; a broken chord ends before its members
                continue
            self._judge(unit, found[unit.unit], [states[id] for id in unit.ids[1:]])
            self.unfinished -= KINDS[unit.kind].tasks
            self.slowest_s = max(self.slowest_s, now - unit.at)
            done.extend(unit.ids)
        if done:
            # they have been judged: asked for once more, those that the call did forget would be missing
            with contextlib.suppress(OperationalError):
                self._backend.forget(done)

    def _later(self, unit: Accepted, now: float) -> None:
        wait_s = min(LATEST_S, max(SOONEST_S, (now - unit.at) / 4))
        heapq.heappush(self._open, (now + wait_s, unit.unit, unit))

    def _judge(self, unit: Accepted, record: bytes, others: list[bytes]) -> None:
        kind = KINDS[unit.kind]
        state, _content_type, body, *_ = _core.decode_result(record)
        self.ended[f"{unit.kind} {state}"] += 1
        wrong = ""
        value = kind.value(unit.unit) if kind.value is not None and state == "SUCCESS" else None
        if state != kind.state:
            if unit.kind in ("revoked", "expired", "doomed") and state == "SUCCESS":
                return  # whether it may have run is seen from its record
            wrong = f"state {state} instead of {kind.state} ({body[:300]!r})"
        elif value is not None and _core.unpackb(body) != value:
            wrong = f"value {_core.unpackb(body)!r} instead of {value!r}"
        elif unit.kind == "poison" and b"WorkerLostError" not in body:
            wrong = f"failed with {body[:300]!r} instead of WorkerLostError"
        failures = sum(_core.decode_result(other)[0] != "SUCCESS" for other in others)
        if failures != (unit.kind == "broken"):
            bad = [_core.decode_result(other)[:3] for other in others if _core.decode_result(other)[0] != "SUCCESS"]
            wrong = wrong or f"{failures} of its other tasks did not succeed: {bad!r:.400}"
        if wrong:
            self.wrong.append(f"{unit.kind} {unit.ids[0]} (unit {unit.unit}): {wrong}")


def _final(record: bytes | None) -> bool:
    return record is not None and _core.decode_result(record)[0] in FINAL
