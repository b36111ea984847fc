"""What became of the periodic tasks: no tick is missing between the first and the last, none was sent twice, each had its id.

What should have run is what the timetable says: its last tick and how many there were, an interval apart. What did run has left
a record each (see ``workload.tick``), under the due time that is in its id.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from typing import Any

from fastq.beat.shared import scope_of
from fastq.exceptions import OperationalError
from fastq.transports import open_timetable
from fastq.transports.timetable import Planned
from tests.chaos.soak.excuses import Excuses
from tests.chaos.soak.fleet import Fleet
from tests.chaos.soak.ledger import Run, runs
from tests.chaos.soak.workload import DUE_BITS, TICKS, WRONG_ID, app

__all__ = ["all_sent", "judge"]

#: dues that are told of one entry and law
TOLD = 5


def _plans(fleet: Fleet) -> dict[str, Planned]:
    """Return the entries of the timetable, as one sees them whom no fault cuts off."""
    with contextlib.closing(open_timetable(fleet.url, app.transport_options(), scope_of(app))) as timetable:
        return {plan.name: plan for plan in timetable.entries().plans}


def all_sent(fleet: Fleet, until: float) -> bool:
    """Say whether every tick that was due until then (Unix s) has been sent."""
    with contextlib.suppress(OperationalError):
        plans = _plans(fleet)
        return plans.keys() == TICKS.keys() and all(plan.due_ms > until * 1000 for plan in plans.values())
    return False


def judge(fleet: Fleet, excuses: Excuses, until: float) -> tuple[dict[str, Any], list[str]]:
    """Return what came of the ticks in numbers, and what must not have come of them. When all beats and nodes have stopped."""
    plans = _plans(fleet)
    by_due: dict[int, dict[int, list[Run]]] = defaultdict(lambda: defaultdict(list))
    wrong: list[str] = []
    for run in runs(fleet.folder, "ticks"):
        index, due_ms = run.token >> DUE_BITS, run.token & (1 << DUE_BITS) - 1
        by_due[index][due_ms].append(run)
        if run.phase == WRONG_ID:
            wrong.append(f"the tick {due_ms} of entry {index} ran under an id that is not its own")
    numbers: dict[str, Any] = {"sent": 0, "ran": 0, "second_runs": 0, "latest_s": 0.0, "leads": 0, "starts": 0}
    for index, (name, every_s) in enumerate(TICKS.items()):
        plan, ran = plans.get(name), by_due.get(index, {})
        if plan is None or not plan.runs:
            wrong.append(f"{name!r} was never sent, by the timetable: {plan}")
            continue
        every_ms = round(every_s * 1000)
        counted = {plan.last_due_ms - i * every_ms for i in range(plan.runs)}
        numbers["sent"] += plan.runs
        numbers["ran"] += len(ran)
        # the first tick is due an interval after the entry was added; its edit has the time of that, on a clock seen from nearer
        if min(counted) > plan.edit + 1.5 * every_ms:
            wrong.append(f"{name!r}: added {_clock(plan.edit)}, and its first tick was that of {_clock(min(counted))}")
        if plan.due_ms != plan.last_due_ms + every_ms or plan.due_ms <= until * 1000:
            wrong.append(f"{name!r}: the last tick was {_clock(plan.last_due_ms)}, the next is said to be {_clock(plan.due_ms)}")
        wrong += _told(f"{name!r}: sent, by the timetable, and never ran", sorted(counted - ran.keys()))
        wrong += _told(f"{name!r}: ran, and the timetable does not count it", sorted(ran.keys() - counted))
        for due_ms, same in ran.items():
            numbers["second_runs"] += len(same) - 1
            numbers["latest_s"] = max(numbers["latest_s"], min(run.at for run in same) - due_ms / 1000)
            if len(same) > 1 and sum(not excuses.of(run) for run in same) > 1:
                told = "; ".join(f"{_clock(run.at * 1000)} on {run.node} {run.process} ({run.deliveries})" for run in same)
                wrong.append(f"{name!r}: the tick {_clock(due_ms)} ran {len(same)} times: {told}")
    if fleet.beats is not None:
        numbers |= {"leads": fleet.beats.leads, "starts": fleet.beats.starts}
    return numbers, wrong


def _told(what: str, dues_ms: list[int]) -> list[str]:
    if not dues_ms:
        return []
    more = f" and {len(dues_ms) - TOLD} more" if len(dues_ms) > TOLD else ""
    return [f"{what}: {', '.join(map(_clock, dues_ms[:TOLD]))}{more}"]


def _clock(ms: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(ms / 1000)) + f".{int(ms % 1000):03d}"
