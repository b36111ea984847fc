"""A soak from start to end: nodes up, send and break, drain, stop, count."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastq.exceptions import OperationalError
from fastq.transports import open_backend, open_inspector
from tests.chaos.soak import report, ticks
from tests.chaos.soak.audit import audit
from tests.chaos.soak.checker import Checker
from tests.chaos.soak.faults import Faults
from tests.chaos.soak.fleet import Fleet
from tests.chaos.soak.ledger import Ledger, runs_so_far
from tests.chaos.soak.leftovers import left_on_redis, left_on_sqlite
from tests.chaos.soak.memory import Memory
from tests.chaos.soak.steered import Steered
from tests.chaos.soak.workload import app
from tests.workers import eventually

__all__ = ["Plan", "soak"]

LEASE_S = 2.0
#: seconds: a frozen connection may take its 30 s to be given up, and a node that died young some 15
DRAIN_S = 120.0
STOP_S = 60.0
#: seconds from the last fault until every tick that was due has been sent: a connection may be half-open
TICKS_S = 45.0


@dataclass(frozen=True)
class Plan:
    folder: Path
    seconds: float
    seed: int
    pools: tuple[str, ...]
    broker: str = "redis"
    every_s: float = 5.0
    unfinished: int = 20_000
    poison_every_s: float = 8.0
    #: names of faults; (): all
    only: tuple[str, ...] = ()
    #: 0: nobody steers
    steer_every_s: float = 0.0
    #: how many share the timetable; 0: no periodic tasks
    beats: int = 0


def soak(plan: Plan, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Run one; return all that was found, as JSON has it. ``broken`` in it are the laws that did not hold."""
    fleet = Fleet(plan.folder, plan.pools, plan.broker, plan.seed, plan.poison_every_s, plan.steer_every_s, plan.beats)
    say(f"seed {plan.seed}, {plan.broker}, {' '.join(plan.pools)}, a fault every {plan.every_s:g} s, logs in {plan.folder}")
    try:
        fleet.start()
        return _Soak(plan, fleet, say).run()
    finally:
        fleet.close()


class _Soak:
    def __init__(self, plan: Plan, fleet: Fleet, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._fleet = fleet
        self._say = say
        self._ledger = Ledger(plan.folder)
        self._options = app.transport_options()
        self._checker = Checker(self._ledger, open_backend(fleet.url, self._options))
        self._faults = Faults(fleet, random.Random(plan.seed), plan.every_s, LEASE_S, say, plan.only)
        self._memory = Memory()
        self._samples: list[tuple[float, int]] = []

    def run(self) -> dict[str, Any]:
        fleet, plan = self._fleet, self._plan
        eventually(lambda: all(node.up for node in fleet.nodes), "all nodes ready")
        fleet.pace(0, plan.unfinished)
        fleet.start_producer()
        fleet.start_steerer()
        began = time.time()
        self._faults.start()
        try:
            self._turn_until(lambda: time.time() - began >= plan.seconds or self._faults.failure is not None)
        finally:
            self._faults.stop()
        if self._faults.failure is not None:
            raise self._faults.failure
        fleet.pace(0, plan.unfinished, stop=True)
        ended = time.time()
        # a producer that waits for an answer of a broker it was cut off from takes its socket timeout
        fleet.stop_producer(60)
        fleet.stop_steerer(90)
        ticked = self._stop_beats(ended)
        drained = self._turn_until(self._drained, DRAIN_S)
        drained_s = time.time() - ended
        self._say(f"drained after {drained_s:.1f} s, stopping all nodes" if drained else f"NOT drained within {DRAIN_S:g} s")
        depth = {} if drained else self._depth()
        steered = Steered.read(plan.folder)
        wrong = steered.wrong(fleet) if plan.steer_every_s and drained else []
        fleet.stop_nodes(STOP_S)
        self._checker.turn()
        count = audit(fleet, self._ledger, self._checker, self._faults.happened, began, ended)
        count.broken += ticked
        count.add("steering", wrong)
        if depth:
            count.broken.insert(0, f"not drained within {DRAIN_S:g} s: {depth}")
        left, strays = left_on_redis(fleet) if fleet.server else left_on_sqlite(fleet)
        count.add("left behind", strays)
        growths = self._memory.growths(began, ended)
        # a short soak is all warm-up
        if ended - began >= 240:
            grown = [g for g in growths if not g.flat]
            count.add("memory grows", [f"{g.lineage}: {g.before / 2**20:.1f} -> {g.after / 2**20:.1f} MiB" for g in grown])
        result: dict[str, Any] = {
            "seed": plan.seed,
            "broker": plan.broker,
            "pools": list(plan.pools),
            "seconds": ended - began,
            "drained_s": drained_s,
            "every_s": plan.every_s,
            "lease_s": LEASE_S,
            "faults_total": len(self._faults.happened),
            "faults": dict(Counter(one.name for one in self._faults.happened)),
            "steered": dict(steered.actions),
            "events_heard": dict(steered.events),
            "ticks": count.ticks,
            "troubles_of_the_producer": len(self._ledger.troubles),
            "slowest_s": self._checker.slowest_s,
            "count": {name: dict(value) if isinstance(value, Counter) else value for name, value in vars(count).items()},
            "left": left,
            "memory": [{**dataclasses.asdict(g), "flat": g.flat} for g in growths],
            "broken": count.broken,
            "log": [str(one) for one in self._faults.happened],
        }
        self._say(report.summary(result))
        return result

    def _stop_beats(self, ended: float) -> list[str]:
        """End the beats when they have sent all that was due while things were breaking; return what is wrong if they do not."""
        beats = self._fleet.beats
        if beats is None:
            return []
        sent = self._turn_until(lambda: ticks.all_sent(self._fleet, ended), TICKS_S)
        beats.stop(STOP_S)
        return [] if sent else [f"ticks: not all that were due had been sent {TICKS_S:g} s after the last fault"]

    def _turn_until(self, done: Callable[[], bool], deadline_s: float = float("inf")) -> bool:
        """Check, pace, look after the fleet, until it is done; False at the deadline."""
        end = time.monotonic() + deadline_s
        told = sampled = looked = 0.0
        while time.monotonic() < end:
            now = time.monotonic()
            unfinished = self._checker.turn()
            if self._fleet.producer is not None:
                self._fleet.pace(unfinished, self._plan.unfinished)
            if now - looked >= 0.2:
                looked = now
                self._fleet.watch()
                if done():
                    return True
            if now - sampled >= 2:
                sampled = now
                self._memory.sample(self._fleet)
            if now - told >= 10:
                told = now
                self._tell(unfinished)
            time.sleep(0.03)
        return False

    def _tell(self, unfinished: int) -> None:
        now, runs = time.time(), runs_so_far(self._plan.folder)
        self._samples.append((now, runs))
        if len(self._samples) > 1:
            (before, had), (first, _) = self._samples[-2], self._samples[0]
            nodes, up = len(self._fleet.nodes), sum(node.up for node in self._fleet.nodes)
            per_s = (runs - had) / (now - before)
            sent, faults = self._ledger.accepted_tasks, len(self._faults.happened)
            self._say(report.live_line(now - first, per_s, unfinished, sent, faults, up, nodes))

    def _drained(self) -> bool:
        if self._checker.unfinished or not all(node.up for node in self._fleet.nodes):
            return False
        depth = self._depth()
        return bool(depth) and not (depth["ready"] or depth["delayed"] or depth["leased"])

    def _depth(self) -> dict[str, int]:
        total: Counter[str] = Counter()
        with contextlib.suppress(OperationalError), contextlib.closing(open_inspector(self._fleet.url, self._options)) as inspector:
            for queue in inspector.queues():
                total.update(inspector.depth(queue))
            return {kind: total[kind] for kind in ("ready", "delayed", "leased", "dead")}
        return {}
