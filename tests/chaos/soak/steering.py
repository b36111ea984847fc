"""The process that steers and watches the fleet while it is broken: commands, pauses, questions, a listener to events, scrapes.

Each action leaves a line in ``steered/<incarnation>``: when it began and ended, its name, what it was about, what came of it. It is
killed now and then as everything else; what it had paused then, the next one resumes. At the end it sets all of it right again.
``--look`` only asks: who answers, and what is paused.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastq.doctor import LEFTOVERS, examine
from fastq.exceptions import FastQError
from tests.chaos.soak.workload import SIDE, app

__all__ = ["ENOUGH", "Steerer"]

#: this file in the folder of the soak ends it
ENOUGH = "enough-steering"
#: seconds that nodes have to answer
ANSWER_S = 1.0
PACKAGE = "tests.chaos.soak.workload."
#: what is paused, limited and asked for
QUEUES = ("default", SIDE)
TASKS = tuple(PACKAGE + name for name in ("noop", "urgent", "nap", "anap", "step", "limited", "body"))
#: what comes too often for it gets a turn later on, and keeps that when the limit is lifted: so not what comes most often
RATED = tuple(PACKAGE + name for name in ("urgent", "nap", "anap", "step"))
QUESTIONS = ("active", "reserved", "scheduled", "revoked", "registered", "stats", "conf", "report", "active_queues")


class Steerer:
    def __init__(self, folder: Path, incarnation: int, seed: int, nodes: list[str], doors: list[str], every_s: float) -> None:
        self._chance = random.Random(f"steer-{seed}-{incarnation}")
        self._folder = folder
        self._nodes = nodes
        self._doors = doors
        self._every_s = every_s
        self._fd = os.open(folder / "steered" / str(incarnation), os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        #: what is to be undone: (when, how)
        self._undo: list[tuple[float, Callable[[], Any]]] = []
        self._actions: list[Callable[[], tuple[str, str, Any]]] = [
            self._resize, self._resize, self._autoscale, self._consumers, self._rate, self._limits, self._events, self._pause_queue,
            self._pause_task, self._pause_task, self._restart, self._ask, self._ask, self._ping, self._examine,
        ]  # fmt: skip

    def run(self) -> None:
        self.set_right()
        for watch in (self._listen, self._scrape):
            threading.Thread(target=watch, daemon=True).start()
        while not self._enough():
            action = self._chance.choice(self._actions)
            self._do(action)
            until = time.monotonic() + self._chance.uniform(0.2, 1.8) * self._every_s
            while time.monotonic() < until and not self._enough():
                for one in [one for one in self._undo if one[0] <= time.monotonic()]:
                    self._undo.remove(one)
                    if not self._do(lambda undo=one[1]: ("undo", "", undo())):  # type: ignore[misc]
                        self._later(one[1], 0.2, 0.5)
                time.sleep(0.02)
        self.set_right()

    def set_right(self) -> None:
        """Undo all of it, whoever did it: until it has worked."""
        control = app.control
        until = time.monotonic() + 60
        while True:
            with contextlib.suppress(FastQError):
                paused = control.paused()
                if paused.queues:
                    control.resume_queue(*paused.queues)
                # also one that was lifted by a steerer that died before it had put everything back
                control.resume_task(*{*TASKS, *paused.tasks})
                for name in TASKS:
                    control.rate_limit(name, 0 if name != PACKAGE + "limited" else "40/s")
                    control.time_limit(name)
                for queue in QUEUES:
                    control.add_consumer(queue)
                paused = control.paused()
                if not (paused.queues or paused.tasks):
                    self._write(time.time(), "set right", "", "")
                    return
            if time.monotonic() > until:
                raise SystemExit("what is paused cannot be resumed")
            time.sleep(0.2)

    def _enough(self) -> bool:
        return (self._folder / ENOUGH).exists()

    def _do(self, action: Callable[[], tuple[str, str, Any]]) -> bool:
        """Do it and write it down; False: the broker was in trouble."""
        began = time.time()
        try:
            name, target, came = action()
        except FastQError as exc:
            self._write(began, "trouble", getattr(action, "__name__", ""), f"{type(exc).__name__}: {exc}"[:200])
            return False
        self._write(began, name, target, came)
        return True

    def _write(self, began: float, name: str, target: str, came: Any) -> None:
        text = json.dumps([began, time.time(), name, target, came], default=str, separators=(",", ":"))
        os.write(self._fd, text.encode() + b"\n")

    # --- who ---

    def _some(self) -> tuple[dict[str, Any], str]:
        """One node, some by pattern, or all."""
        die = self._chance.random()
        if die < 0.5:
            node = self._chance.choice(self._nodes)
            return {"destination": [node]}, node
        if die < 0.7:
            letter = self._chance.choice(self._nodes)[0]
            return {"pattern": f"{letter}*"}, f"{letter}*"
        return {}, "all"

    def _later(self, undo: Callable[[], Any], least_s: float = 0.5, most_s: float = 3.0) -> None:
        self._undo.append((time.monotonic() + self._chance.uniform(least_s, most_s), undo))

    # --- commands ---

    def _resize(self) -> tuple[str, str, Any]:
        whom, target = self._some()
        n = self._chance.choice((1, 1, 2))
        first, second = app.control.pool_grow, app.control.pool_shrink
        if self._chance.random() < 0.5:
            first, second = second, first
        self._later(lambda: second(n, **whom))
        return first.__name__, target, first(n, reply=True, timeout=ANSWER_S, **whom)

    def _autoscale(self) -> tuple[str, str, Any]:
        whom, target = self._some()
        fewest = self._chance.choice((1, 2))
        return (
            "autoscale",
            target,
            app.control.autoscale(fewest + self._chance.choice((0, 1, 2)), fewest, reply=True, timeout=ANSWER_S, **whom),
        )

    def _consumers(self) -> tuple[str, str, Any]:
        whom, target = self._some()
        queue = self._chance.choice(QUEUES)
        self._later(lambda: app.control.add_consumer(queue, **whom))
        return "cancel_consumer", f"{queue} {target}", app.control.cancel_consumer(queue, reply=True, timeout=ANSWER_S, **whom)

    def _rate(self) -> tuple[str, str, Any]:
        whom, target = self._some()
        name = self._chance.choice(RATED)
        self._later(lambda: app.control.rate_limit(name, 0, **whom))
        return (
            "rate_limit",
            f"{name} {target}",
            app.control.rate_limit(name, self._chance.choice(("100/s", "6000/m", 200)), reply=True, **whom),
        )

    def _limits(self) -> tuple[str, str, Any]:
        whom, target = self._some()
        name = self._chance.choice(TASKS)
        self._later(lambda: app.control.time_limit(name, **whom))
        return "time_limit", f"{name} {target}", app.control.time_limit(name, 100, 200, reply=True, **whom)

    def _events(self) -> tuple[str, str, Any]:
        whom, target = self._some()
        command = self._chance.choice((app.control.enable_events, app.control.enable_events, app.control.disable_events))
        return command.__name__, target, command(reply=True, timeout=ANSWER_S, **whom)

    def _restart(self) -> tuple[str, str, Any]:
        node = self._chance.choice(self._nodes)
        return "pool_restart", node, app.control.pool_restart(destination=[node], reply=True, timeout=ANSWER_S)

    # --- pauses ---

    def _pause_queue(self) -> tuple[str, str, Any]:
        queue = self._chance.choice(QUEUES)
        self._later(lambda: app.control.resume_queue(queue), 0.1, 2.0)
        return "pause_queue", queue, list(app.control.pause_queue(queue).queues)

    def _pause_task(self) -> tuple[str, str, Any]:
        name = self._chance.choice(TASKS)
        self._later(lambda: app.control.resume_task(name), 0.1, 3.0)
        return "pause_task", name, list(app.control.pause_task(name).tasks)

    # --- questions ---

    def _ping(self) -> tuple[str, str, Any]:
        return "ping", "all", sorted(node for reply in app.control.ping() for node in reply)

    def _ask(self) -> tuple[str, str, Any]:
        question = self._chance.choice((*QUESTIONS, "query_task"))
        inspect = app.control.inspect(timeout=ANSWER_S)
        answers = inspect.query_task("no-such-task") if question == "query_task" else getattr(inspect, question)()
        wrong = [f"{node}: {a['error']}" for node, a in (answers or {}).items() if isinstance(a, dict) and "error" in a]
        return "inspect", question, wrong or sorted(answers or ())

    def _examine(self) -> tuple[str, str, Any]:
        return "examine", "", alarms()

    # --- watching ---

    def _listen(self) -> None:
        """Listen for some seconds, leave, come back; sometimes without a word, as one that was killed."""
        chance = random.Random(self._chance.random())
        while not self._enough():
            began, until = time.time(), time.monotonic() + chance.uniform(1, 6)
            kinds: Counter[str] = Counter()
            state = app.events.State()
            with contextlib.suppress(FastQError, TimeoutError):
                receiver = app.events.Receiver(handlers={"*": state.event})
                for event in receiver.itercapture(timeout=3):
                    kinds[event["type"]] += 1
                    if time.monotonic() > until:
                        break
            self._write(began, "listened", "", dict(kinds))
            time.sleep(chance.uniform(0.1, 4))

    def _scrape(self) -> None:
        """Scrape one node after the other, as Prometheus does, only more often."""
        chance = random.Random(self._chance.random())
        while self._doors and not self._enough():
            door, path = chance.choice(self._doors), chance.choice(("/metrics", "/metrics", "/ready", "/live"))
            began = time.time()
            try:
                with contextlib.closing(_Door(door)) as connection:
                    connection.request("GET", path)
                    answer = connection.getresponse()
                    size = len(answer.read())
                self._write(began, "scrape", path, [answer.status, size])
            except (OSError, http.client.HTTPException) as exc:  # it is down, or frozen
                self._write(began, "no scrape", path, type(exc).__name__)
            time.sleep(chance.uniform(0.05, 0.4))


class _Door(http.client.HTTPConnection):
    """A connection to a socket in the file system."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=3)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def alarms() -> list[str]:
    """Return what doctor says has no owner, or is not as it must be: nothing of that comes from faults or from steering."""
    return [str(finding) for finding in examine(app) if finding.code in LEFTOVERS - {"stuck-lease", "stranded-messages"}]


def look(nodes: list[str], deadline_s: float = 20.0) -> dict[str, Any]:
    """Return who answers and what is paused; wait until all of ``nodes`` answer, or the deadline."""
    until = time.monotonic() + deadline_s
    while True:
        stats = app.control.inspect(timeout=ANSWER_S).stats() or {}
        there = app.control.nodes()
        if min(set(stats), set(there)) >= set(nodes) or time.monotonic() > until:
            break
        time.sleep(0.2)
    active = {node: runs for node, runs in (app.control.inspect(timeout=ANSWER_S).active() or {}).items() if runs}
    paused = app.control.paused()
    return {
        "alarms": alarms(),
        "answered": sorted(stats), "online": sorted(there), "active": active, "paused": [*paused.queues, *paused.tasks],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.soak.steering", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--incarnation", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=float, default=0.5, help="seconds from action to action, on the average")
    parser.add_argument("--nodes", nargs="+", required=True)
    parser.add_argument("--doors", nargs="*", default=())
    parser.add_argument("--look", action="store_true", help="only ask who answers and what is paused")
    arguments = parser.parse_args()
    if arguments.look:
        print(json.dumps(look(arguments.nodes)))
        return
    Steerer(arguments.folder, arguments.incarnation, arguments.seed, arguments.nodes, list(arguments.doors), arguments.every).run()


if __name__ == "__main__":
    main()
