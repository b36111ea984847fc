#!/usr/bin/env python3
"""Measure what it costs a worker to be watched: counting, a scrape of /metrics each second, events that are told and read.

    python benchmarks/watching_cost.py                                  # 7 rounds of 300,000 no-ops, each way in turns
    python benchmarks/watching_cost.py --only "off;watched" --rounds 15 --rate 0
    python benchmarks/watching_cost.py --json benchmarks/results/watching_cost.json
    git archive COMMIT --prefix=before/ | tar x -C /tmp && (cd /tmp/before && python setup.py -q build_ext --inplace)
    python benchmarks/watching_cost.py --before /tmp/before --only "before;off" --rounds 20 --quiet 0.3    # against that commit

One prefork process drains; a round takes every way once, and shares are of the same round's first way, so what else the machine
does meets all. CPU is that of the processes themselves (/proc/<pid>/task/*/schedstat), from the first task to the last. "Told":
somebody has said that they listen, and reads nothing: a monitor on another machine costs this one the same. A reader is a process
here that makes every event (``app.events.Receiver`` into ``State``); "niced" (19) it takes what others leave of the machine, and
so comes nearer to one elsewhere where there are few cores. "others": cores that all other processes used meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from places import RedisPlace, command_line, commit

from fastq.bench import marks
from fastq.bench.machine import machine, versions
from fastq.bench.node import START_S, Node
from fastq.bench.proctree import running_s
from fastq.bench.shapes import Shape
from fastq.bench.stats import median
from fastq.transports import open_channel
from fastq.transports.base import TransportOptions


class Way(NamedTuple):
    """How a worker is watched."""

    #: events are on
    on: bool = False
    #: who listens: "", "told", "niced" or "here"
    reader: str = ""
    scraped: bool = False
    #: the worker is of the tree given as ``--before``
    before: bool = False


WAYS = {
    "before": Way(before=True),
    "off": Way(),
    "off again": Way(),
    "scraped": Way(scraped=True),
    "on, no reader": Way(on=True),
    "told": Way(on=True, reader="told"),
    "told, scraped": Way(on=True, reader="told", scraped=True),
    "read, niced": Way(on=True, reader="niced"),
    "watched, niced": Way(on=True, reader="niced", scraped=True),
    "watched": Way(on=True, reader="here", scraped=True),
}
#: what is measured of each drain: title, unit
KINDS = {"per_s": "tasks/s", "worker_us": "worker", "supervisor_us": "supervisor", "redis_us": "Redis", "reader_us": "reader"}

READER = """
import json, os, sys, threading, time
from fastq import FastQ
os.nice(int(sys.argv[2]))
app = FastQ("reader", broker=sys.argv[1])
state = app.events.State()
heard = [0.0]
def take(event):
    heard[0] = time.monotonic()
    state.event(event)
receiver = app.events.Receiver(handlers={"*": take})
def until_told():
    sys.stdin.read()
    while time.monotonic() - heard[0] < 1:  # it may be behind
        time.sleep(0.1)
    receiver.should_stop = True
threading.Thread(target=until_told, daemon=True).start()
def ready():
    channel = app.events.open_channel()
    while not channel.listened():
        time.sleep(0.01)
    print("ready", flush=True)
threading.Thread(target=ready, daemon=True).start()
receiver.capture()
print(json.dumps({"events": state.event_count, "tasks": state.task_count, "left_out": receiver.left_out}), flush=True)
"""


class Reader:
    """A process that reads events and keeps their state."""

    def __init__(self, url: str, nice: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", READER, url, str(nice)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        )  # fmt: skip
        self.pid = self._process.pid
        assert self._process.stdout is not None
        self._process.stdout.readline()

    def end(self) -> dict[str, int]:
        """Let it read what there is; return what it has seen."""
        said, _ = self._process.communicate(timeout=120)
        seen: dict[str, int] = json.loads(said)
        return seen


@contextlib.contextmanager
def scraping(address: str) -> Iterator[list[float]]:
    """Fetch /metrics each second; the list is what each took."""
    over, took = threading.Event(), []

    def scrape() -> None:
        while not over.wait(1.0):
            began = time.perf_counter()
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
                answer.read()
                took.append(time.perf_counter() - began)

    thread = threading.Thread(target=scrape)
    if address:
        thread.start()
    try:
        yield took
    finally:
        over.set()
        if address:
            thread.join()


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def one(place: RedisPlace, n: int, way: Way, given: argparse.Namespace) -> dict[str, float]:
    """Drain ``n`` no-ops once."""
    address = free_address() if way.scraped else ""
    conf: dict[str, Any] = {} if way.before else {"worker_send_task_events": way.on}
    if address:
        conf["worker_http"] = address
    if given.rate is not None and way.on:
        conf["event_rate_max"] = given.rate
    place.conf = conf
    place.fill("noop", [(i,) for i in range(n)])
    reader = Reader(place.broker_url, 19 if way.reader == "niced" else 0) if way.reader in ("niced", "here") else None
    if way.reader == "told":
        channel = open_channel(place.broker_url, TransportOptions())
        channel.listen("bench", 600)
        channel.close()
    source = given.before if way.before else None
    with marks.Board(n) as board, Node(place, Shape("prefork", 1), board, source=source) as node, scraping(address) as took:
        node.wait_for(board.finished, "the first task", START_S)
        who = {
            "supervisor_us": [node.pid],
            "worker_us": [pid for pid in node.tree() if pid != node.pid],
            "redis_us": [place.pid],
            "reader_us": [] if reader is None else [reader.pid],
        }
        used = {name: -running_s(pids) for name, pids in who.items()}
        others_s = -others(who)
        first, began = board.finished(), time.perf_counter()
        node.wait_for(lambda: board.finished() >= n, f"{n} tasks", 120, every_s=0.005)
        seconds = time.perf_counter() - began
        node.wait_for(lambda: not place.pending(), "an empty queue", 30)
        others_s += others(who)
        elapsed = time.perf_counter() - began
        found = {name: (used[name] + running_s(pids)) / (n - first) * 1e6 for name, pids in who.items()}
        lost, repeated = board.lost_and_repeated()
    found |= {"per_s": (n - first) / seconds, "others": others_s / elapsed}
    found |= {"lost": lost, "repeated": repeated, "scrapes": len(took)}
    if took:
        found["scrape_ms"] = 1000 * median(took)
    return found if reader is None else found | reader.end()


def others(who: dict[str, list[int]]) -> float:
    """Return the CPU seconds that the machine has spent on anybody else."""
    ticks = Path("/proc/stat").read_text().split(maxsplit=11)[1:9]  # of all cores: user nice system idle iowait irq softirq steal
    busy = sum(int(ticks[i]) for i in (0, 1, 2, 5, 6, 7))
    return busy / os.sysconf("SC_CLK_TCK") - running_s([os.getpid(), *(pid for pids in who.values() for pid in pids)])


def show(found: dict[str, list[dict[str, float]]]) -> None:
    """Print medians, and the shares of the rounds' own pairs, as a Markdown table."""
    base = next(iter(found))
    print(f"\n| | {' | '.join(KINDS.values())} | tasks/s, of {base!r} | CPU of the worker and its supervisor, of {base!r} |")
    print(f"|---|{'---|' * (len(KINDS) + 2)}")
    for way, runs in found.items():
        cells = [f"{median(run['per_s'] for run in runs):,.0f}"]
        cells += [f"{median(run[kind] for run in runs):.2f} us" for kind in KINDS if kind != "per_s"]
        pairs = list(zip(runs, found[base], strict=True))
        for values in (
            [run["per_s"] / first["per_s"] for run, first in pairs],
            [own_us(run) / own_us(first) for run, first in pairs],
        ):
            low, high = quartiles(values)
            cells.append(f"{median(values):.1%} ({low:.1%} to {high:.1%})")
        print(f"| {way} | {' | '.join(cells)} |")


def own_us(run: dict[str, float]) -> float:
    return run["worker_us"] + run["supervisor_us"]


def quartiles(values: list[float]) -> tuple[float, float]:
    ordered = sorted(values)
    return ordered[len(ordered) // 4], ordered[-1 - len(ordered) // 4]


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--tasks", type=int, default=300_000)
    ap.add_argument("--rounds", type=int, default=7)
    ap.add_argument("--only", metavar="A;B", help=f"of: {'; '.join(WAYS)}; the first is what the others are held against")
    ap.add_argument("--rate", type=int, help="event_rate_max (0: every task is told; default: the setting's)")
    ap.add_argument("--quiet", type=float, metavar="CORES", help="leave rounds out in which others used more than that many")
    ap.add_argument("--before", type=Path, help="a built tree of the commit to compare with")
    ap.add_argument("--json", type=Path, metavar="FILE")
    ns = ap.parse_args()
    names = [name.strip() for name in ns.only.split(";")] if ns.only else [n for n in WAYS if ns.before or not WAYS[n].before]
    if unknown := [name for name in names if name not in WAYS]:
        ap.error(f"unknown ways {unknown}, expected some of: {'; '.join(WAYS)}")
    if "before" in names and ns.before is None:
        ap.error("'before' needs --before TREE")
    place = RedisPlace()
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    try:
        place.start()
        server = place.version
        for turn in range(ns.rounds):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                found[name].append(last := one(place, ns.tasks, WAYS[name], ns))
                print(f"{turn + 1} {name:16} " + " ".join(f"{kind}={value:,.6g}" for kind, value in last.items()), flush=True)
    finally:
        place.close()
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    most = float("inf") if ns.quiet is None else ns.quiet
    quiet = [all(runs[turn]["others"] <= most for runs in found.values()) for turn in range(ns.rounds)]
    print(f"\n{ns.tasks:,} no-ops, prefork 1, Redis {server}, {sum(quiet)} of {ns.rounds} rounds, load {load};")
    print("medians, shares of the rounds' own pairs with their quartiles, CPU per task")
    if any(quiet):
        show({name: [run for run, kept in zip(runs, quiet, strict=True) if kept] for name, runs in found.items()})
    if ns.json:
        record = {
            "kind": "fastq watching cost", "when": datetime.now(UTC).isoformat(timespec="seconds"), "command": command_line(),
            "commit": commit(), "machine": machine(), "load": os.getloadavg(), "versions": versions() | {"redis server": server},
            "runs": found,
        }  # fmt: skip
        ns.json.parent.mkdir(parents=True, exist_ok=True)
        ns.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
