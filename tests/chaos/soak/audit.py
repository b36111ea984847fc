"""The count at the end of a soak. Each law that does not hold is told as a sentence.

How often a task may run. One run (of each retry) needs no excuse. Any other must have an excuse of its own: its process was *hit*
at that time (killed, stopped cold, its lease taken away because it or its node was frozen or cut off, killed by a poisonous
task beside it), or it says itself that it could not settle. So the number of runs is at most 1 + the hits of processes that ran
it, and what merely had trouble with the broker, or stopped warm, runs nothing twice.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import chain, pairwise

from fastq import _core
from fastq.transports import open_inspector
from tests.chaos.soak import ticks
from tests.chaos.soak.checker import Checker
from tests.chaos.soak.excuses import Excuses
from tests.chaos.soak.faults import Happened
from tests.chaos.soak.fleet import Fleet
from tests.chaos.soak.kinds import INDEX_BITS, KINDS, REVOKED_AFTER_S, Kind
from tests.chaos.soak.ledger import Ledger, Run, runs
from tests.chaos.soak.workload import BEGUN, DOOMED_S, app

__all__ = ["Count", "audit"]

#: more runs of one task than any soak explains
TOO_MANY = 8
#: seconds within which a running task that was revoked with terminate has ended
ENDED_S = 6.0
#: stands for the retries of a run that has begun
ONLY_BEGUN = 255
#: sentences of one sort that are told
TOLD = 20

@dataclass
class Count:
    """What came of everything."""

    sent: int = 0
    done: int = 0
    dead: int = 0
    revoked: int = 0
    #: of these, tasks that were to be ended while they ran
    terminated: int = 0
    #: units of calls that never returned, and how many of these were kept
    unknown: int = 0
    unknown_kept: int = 0
    runs: int = 0
    duplicates: int = 0
    #: runs in excess -> tasks
    excess: Counter[int] = field(default_factory=Counter)
    #: cause -> runs that it made vain
    causes: Counter[str] = field(default_factory=Counter)
    takeovers: int = 0
    longest_gap_s: float = 0.0
    per_s: float = 0.0
    #: see ``ticks.judge``
    ticks: dict[str, float] = field(default_factory=dict)
    #: every law that does not hold
    broken: list[str] = field(default_factory=list)

    def add(self, sort: str, texts: list[str]) -> None:
        self.broken += [f"{sort}: {text}" for text in texts[:TOLD]]
        if len(texts) > TOLD:
            self.broken.append(f"{sort}: and {len(texts) - TOLD} more")


def audit(fleet: Fleet, ledger: Ledger, checker: Checker, happened: list[Happened], began: float, ended: float) -> Count:
    """Count, when everything has drained and all nodes have stopped. ``began``, ``ended``: the time in which was sent."""
    count = Count()
    kept = {
        first + i: KINDS[kind] for first, (kind, n) in ledger.begun.items() if first in ledger.answered for i in range(n)
    }
    unknown = ledger.unanswered()
    count.add("no end", [f"{u.kind} {u.ids[0]} (unit {u.unit}), accepted {_clock(u.at)}" for u in checker.open_units()])
    count.add("wrong end", checker.wrong)
    count.add("surprise", fleet.surprises)
    by_run, excuses = _count_runs(count, fleet, ledger, happened, kept, unknown, began, ended)
    _check_ran(count, ledger, kept, by_run)
    _check_unanswered(count, ledger, by_run)
    _check_dead(count, fleet, kept, unknown)
    if fleet.beats is not None:
        count.ticks, wrong = ticks.judge(fleet, excuses, ended)
        count.add("ticks", wrong)
    count.sent = sum(kind.tasks for kind in kept.values())
    for name, n in checker.ended.items():
        kind, state = name.split()
        if state == "REVOKED":
            count.revoked += n
            count.terminated += n if kind == "doomed" else 0
        else:
            failing = sum(KINDS[kind].dead.values()) if state == "FAILURE" else 0
            count.done += n * (KINDS[kind].tasks - failing)
            count.dead += n * failing
    count.done += len(checker.unstored)
    if count.done + count.dead + count.revoked != count.sent:
        count.broken.append(f"sent {count.sent} = done {count.done} + dead {count.dead} + revoked {count.revoked} does not hold")
    return count


def _clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at)) + f".{int(at % 1 * 1000):03d}"


# --- runs ---


def _count_runs(
    count: Count,
    fleet: Fleet,
    ledger: Ledger,
    happened: list[Happened],
    kept: dict[int, Kind],
    unknown: dict[int, Kind],
    began: float,
    ended: float,
) -> tuple[dict[int, int], Excuses]:
    """Return how often each (see ``_key``) ran; judge the runs beyond the first."""
    by_run: dict[int, int] = {}
    moments: list[float] = []
    poisoned: list[Run] = []
    doomed: list[Run] = []
    outlived: list[Run] = []
    last: dict[str, float] = {}
    foreign: list[str] = []
    for run in runs(fleet.folder):
        count.runs += 1
        last[run.process] = max(run.at, last.get(run.process, 0.0))
        if run.unit not in kept and run.unit not in unknown:
            foreign.append(f"{run}")
        kind = kept.get(run.unit) or unknown.get(run.unit)
        if kind is not None and kind.name == "doomed":
            if run.phase != BEGUN:
                outlived.append(run)
                continue
            doomed.append(run)
        elif run.phase == BEGUN:
            poisoned.append(run)
            continue
        key = _run_key(run)
        by_run[key] = by_run.get(key, 0) + 1
        moments.append(run.at)
    count.add("ran though never sent", foreign)
    moments.sort()
    within = [at for at in moments if began <= at <= ended]
    count.per_s = len(within) / max(0.001, ended - began)
    edges = [began, *within, ended]
    count.longest_gap_s = max(b - a for a, b in pairwise(edges))
    more = {key for key, n in by_run.items() if n > 1}
    count.duplicates = sum(by_run[key] - 1 for key in more)
    _check_poison(count, fleet, poisoned, kept, unknown)
    # a process that ran anything later was not killed with the task that was ended
    excuses = Excuses(fleet, happened, poisoned, [run for run in doomed if run.at == last[run.process]])
    count.add(
        "ran to its end though it was to be ended",
        [
            f"unit {run.unit}, ended {_clock(run.at)} on {run.node} {run.process}, revoke() had returned {_clock(at)}"
            for run in outlived
            if (at := ledger.revoked_at.get(run.unit)) is not None and at + ENDED_S < run.at and not excuses.of(run, DOOMED_S)
        ],
    )
    count.takeovers = excuses.unprompted
    vain: dict[int, list[Run]] = defaultdict(list)
    if more:
        for run in runs(fleet.folder):
            if (key := _run_key(run)) in more:
                vain[key].append(run)
    inexcusable: list[str] = []
    for same in vain.values():
        same.sort(key=lambda run: run.at)
        causes = [excuses.of(run, DOOMED_S if run.phase == BEGUN else 0.0) for run in same]
        count.excess[len(same) - 1] += 1
        count.causes.update(sorted(cause.split(" for ")[0] for cause in causes if cause)[: len(same) - 1])
        if sum(not cause for cause in causes) > 1 or len(same) > TOO_MANY:
            kind = (kept.get(same[0].unit) or unknown.get(same[0].unit) or KINDS["noop"]).name
            told = "; ".join(
                f"{_clock(r.at)} on {r.node} {r.process} (deliveries {r.deliveries}): {c or 'nothing hit it'}"
                for r, c in zip(same, causes, strict=True)
            )
            inexcusable.append(f"{kind} unit {same[0].unit} index {same[0].place} retries {same[0].retries}: {told}")
    count.add("ran more often than can be explained", inexcusable)
    return by_run, excuses


def _key(token: int, retries: int) -> int:
    """Return one number for a task and how often it was tried again before: millions of them are kept."""
    return token << 8 | retries


def _run_key(run: Run) -> int:
    return _key(run.token, ONLY_BEGUN if run.phase == BEGUN else run.retries)


def _check_poison(count: Count, fleet: Fleet, poisoned: list[Run], kept: dict[int, Kind], unknown: dict[int, Kind]) -> None:
    limit = int(app.conf.task_max_deliveries)
    times: Counter[int] = Counter(run.token for run in poisoned)
    free = sum(hit.cause.startswith("stopped by") for hit in fleet.hits)
    count.add(
        "a poisonous task ran too often",
        [
            f"unit {token >> INDEX_BITS}: {n} times, task_max_deliveries is {limit} ({free} cold stops charged nobody)"
            for token, n in times.items()
            if n > limit + free
        ],
    )


def _check_ran(count: Count, ledger: Ledger, kept: dict[int, Kind], by_run: dict[int, int]) -> None:
    missing: list[str] = []
    more: list[str] = []
    late: list[str] = []
    for unit, kind in kept.items():
        if kind.name == "poison":
            continue
        base = unit << INDEX_BITS
        for index in range(kind.tasks):
            token, wanted = base | index, kind.runs.get(index, 0)
            if kind.name == "revoked":
                # it must not run once revoke() has returned; one that came too late may have run
                after_s = ledger.revoked.get(unit)
                if _key(token, 0) in by_run and after_s is not None and after_s < REVOKED_AFTER_S:
                    before_s = REVOKED_AFTER_S - after_s
                    late.append(f"unit {unit} ran, though revoke() had returned {before_s:.1f} s before it was due")
                continue
            for retries in range(wanted):
                if _key(token, retries) not in by_run:
                    missing.append(f"{kind.name} unit {unit} index {index}: run {retries + 1} of {wanted} has left no record")
            if _key(token, wanted) in by_run:
                more.append(f"{kind.name} unit {unit} index {index}: ran with {wanted} retries, must run {wanted} times in all")
    count.add("never ran", missing)
    count.add("ran though it must not", more)
    count.add("ran though revoked", late)


def _check_unanswered(count: Count, ledger: Ledger, by_run: dict[int, int]) -> None:
    """What is sent in one step is kept whole or not at all, whether its caller heard of it or not."""
    halves: list[str] = []
    for first, (name, n) in ledger.begun.items():
        kind = KINDS[name]
        if first in ledger.answered:
            continue
        count.unknown += n
        each = [
            [_key((first + i) << INDEX_BITS | index, again) for index, times in kind.runs.items() for again in range(times)]
            for i in range(n)
        ]
        for keys in [list(chain.from_iterable(each))] if kind.batched else each:
            ran = sum(key in by_run for key in keys)
            count.unknown_kept += (n if kind.batched else 1) if ran else 0
            if ran not in (0, len(keys)) and name != "poison":
                halves.append(f"{name}, sent from unit {first} on: {ran} of {len(keys)} runs")
    count.add("a call was kept by halves", halves)


# --- dead letters ---


def _check_dead(count: Count, fleet: Fleet, kept: dict[int, Kind], unknown: dict[int, Kind]) -> None:
    found: dict[int, Counter[str]] = defaultdict(Counter)
    others: list[str] = []
    options = app.transport_options()
    with contextlib.closing(open_inspector(fleet.url, options)) as inspector:
        for queue in inspector.queues():
            offset = 0
            while letters := inspector.dead(queue, limit=1000, offset=offset):
                offset += len(letters)
                for letter in letters:
                    token = _token(letter.message)
                    kind = kept.get(token >> INDEX_BITS) or unknown.get(token >> INDEX_BITS)
                    if kind is None or letter.reason not in kind.dead:
                        what = f"{kind.name if kind else 'unknown'} unit {token >> INDEX_BITS} index {token & 255}"
                        others.append(f"{what}: {letter.reason} {_clock(letter.dead_ms / 1000)} {letter.detail!r:.300}")
                    found[token >> INDEX_BITS][letter.reason] += 1
    count.add("dead without reason", others)
    wrong = [
        f"{kind.name} unit {unit}: {dict(found.get(unit, {}))}, expected {kind.dead}"
        for unit, kind in kept.items()
        if kind.dead and dict(found.get(unit, {})) != kind.dead
    ]
    count.add("dead letters", wrong)


def _token(message: bytes) -> int:
    """Return the token among the arguments of a message: its greatest number."""
    args, kwargs = _core.unpackb(_core.peek(message).body)
    numbers = [value for value in (*args, *kwargs.values()) if isinstance(value, int)]
    return max(numbers, default=0)
