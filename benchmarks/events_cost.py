#!/usr/bin/env python3
"""Measure what events cost: no-ops drained by one prefork process, with events off, on without a listener, and on with one.

    python benchmarks/events_cost.py                            # 5 rounds of 100,000 tasks, each way in turns
    python benchmarks/events_cost.py --tasks 300000 --rounds 9 --rate 0
    python benchmarks/events_cost.py --json results/events_cost.json

The rounds are paired: what else the machine does meets all ways. "Told": somebody has said that they listen, and reads nothing. The
listener is a process of its own that expands every event
(``app.events.Receiver`` into ``State``), on the same machine: it takes CPU that a monitor elsewhere would not.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from places import RedisPlace, command_line, commit

from fastq.bench import marks
from fastq.bench.machine import machine, versions
from fastq.bench.node import Node
from fastq.bench.shapes import Shape
from fastq.bench.stats import median
from fastq.bench.trial import drain
from fastq.transports import open_channel
from fastq.transports.base import TransportOptions

#: way -> (events are on, who listens)
WAYS = {
    "off": (False, ""),
    "off again": (False, ""),
    "on, no listener": (True, ""),
    # all is told, and read by a machine that does not take its CPU from here
    "on, told": (True, "elsewhere"),
    "on, a listener": (True, "here"),
}

LISTENER = """
import json, os, sys, threading, time
from fastq import FastQ
app = FastQ("listener", broker=sys.argv[1])
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
cpu = time.process_time()
print(json.dumps({"events": state.event_count, "tasks": state.task_count, "left_out": receiver.left_out, "cpu_s": cpu}), flush=True)
"""


def listener(url: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", LISTENER, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    return process


def one(place: RedisPlace, n: int, way: str, rate: int | None) -> dict[str, Any]:
    """Drain ``n`` no-ops once."""
    on, listened = WAYS[way]
    place.conf = {"worker_send_task_events": on, **({} if rate is None else {"event_rate_max": rate})}
    place.fill("noop", [(i,) for i in range(n)])
    there = listener(place.broker_url) if listened == "here" else None
    if listened == "elsewhere":
        channel = open_channel(place.broker_url, TransportOptions())
        channel.listen("bench", 600)
        channel.close()
    heard: dict[str, Any] = {}
    with marks.Board(n) as board, Node(place, Shape("prefork", 1), board) as node:
        done = drain(place, node, board)
    if there is not None:
        assert there.stdin is not None and there.stdout is not None
        there.stdin.close()
        heard = json.loads(there.stdout.readline())
        there.wait(60)
    return {"per_s": done.per_s, "cpu_us": done.cpu_s / done.tasks * 1e6, "lost": done.lost, **heard}


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--tasks", type=int, default=100_000)
    ap.add_argument("--rounds", type=int, default=5)
    ap.add_argument("--rate", type=int, help="event_rate_max (0: every task is told; default: the setting's)")
    ap.add_argument("--json", type=Path, metavar="FILE")
    ns = ap.parse_args()
    place = RedisPlace()
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    try:
        place.start()
        server = place.version
        for turn in range(ns.rounds):
            ways = list(WAYS)
            for way in ways[turn % len(ways) :] + ways[: turn % len(ways)]:
                found[way].append(one(place, ns.tasks, way, ns.rate))
                last = found[way][-1]
                print(f"{turn + 1} {way:16} {last['per_s']:10,.0f}/s  {last['cpu_us']:.2f} us CPU a task  {last}", flush=True)
    finally:
        place.close()
    print(f"\n{ns.tasks:,} no-ops, prefork 1, Redis {server}, {ns.rounds} rounds; shares are medians of the rounds' own pairs")
    for way, runs in found.items():
        shares = [run["per_s"] / base["per_s"] for run, base in zip(runs, found["off"], strict=True)]
        cpu = [run["cpu_us"] - base["cpu_us"] for run, base in zip(runs, found["off"], strict=True)]
        print(
            f"{way:16} {median(run['per_s'] for run in runs):10,.0f}/s  {median(shares):6.1%} of off "
            f"({min(shares):.1%} to {max(shares):.1%})  {median(cpu):+.2f} us CPU of the worker a task"
        )
    if ns.json:
        record = {
            "kind": "fastq events cost", "when": datetime.now(UTC).isoformat(timespec="seconds"), "command": command_line(),
            "commit": commit(), "machine": machine(), "versions": versions() | {"redis server": server}, "runs": found,
        }  # fmt: skip
        ns.json.parent.mkdir(parents=True, exist_ok=True)
        ns.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
