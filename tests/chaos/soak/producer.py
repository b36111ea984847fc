"""The process that sends, killed and started again like everything else. Its ledger says what its calls had returned.

Each call leaves two lines in ``ledger/<incarnation>``: before it what is sent, after it the ids. A call without the second line
may or may not have been kept. Several threads send, as one that waits for each answer would leave the workers idle; unit numbers
begin with the incarnation and the thread, so no number is used twice.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fastq.exceptions import FastQError
from tests.chaos.soak.kinds import KINDS
from tests.chaos.soak.workload import app

__all__ = ["PACE", "Sender"]

THREADS = 4
#: bits of a unit number below the thread, and below the incarnation
THREAD_SHIFT, INCARNATION_SHIFT = 28, 32
#: unfinished tasks, how many there may be, 1: stop sending
PACE = struct.Struct("<III")
#: kind -> (calls, units of each) in one round, about 1,900 tasks
ROUND = {
    "noop": (3, 500), "ignored": (1, 200), "urgent": (1, 20), "nap": (1, 30), "anap": (1, 20), "crunch": (1, 15),
    "later": (1, 8), "chain": (1, 4), "group": (1, 2), "chord": (1, 3), "nested": (1, 2), "broken": (1, 1),
    "again": (1, 5), "flaky": (1, 5), "failing": (1, 2), "expired": (1, 2), "large": (1, 1), "aside": (1, 20),
}  # fmt: skip
#: kind -> (seconds between, units): what has a rate of its own
TIMED = {"limited": (0.5, 10), "revoked": (2.5, 4), "poison": (8.0, 1), "doomed": (1.5, 2)}
#: how running tasks are ended, most often as is usual
SIGNALS = ("SIGTERM", "SIGTERM", "SIGTERM", "SIGUSR1", "SIGKILL")
#: times that ending them is tried: else they run to their end
TRIES = 10


class Sender:
    """One thread of the producer."""

    def __init__(self, folder: Path, incarnation: int, thread: int, seed: int, timed: dict[str, tuple[float, int]]) -> None:
        self._chance = random.Random(f"{seed}-{incarnation}-{thread}")
        self._unit = incarnation << INCARNATION_SHIFT | thread << THREAD_SHIFT
        path = folder / "ledger" / str(incarnation)
        self._fd = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        with (folder / "pace").open("rb") as file:
            self._pace = mmap.mmap(file.fileno(), PACE.size, access=mmap.ACCESS_READ)
        now = time.monotonic()
        self._timed = {kind: [now + self._chance.random() * every_s, every_s, n] for kind, (every_s, n) in timed.items()}

    def run(self) -> None:
        while True:
            for kind, n in self._round():
                while True:
                    unfinished, most, stop = PACE.unpack(self._pace)
                    if stop:
                        return
                    if unfinished < most:
                        break
                    time.sleep(0.005)
                self._send(kind, n)

    def _round(self) -> Iterator[tuple[str, int]]:
        calls = [(kind, n) for kind, (times, n) in ROUND.items() for _ in range(times)]
        self._chance.shuffle(calls)
        for call in calls:
            yield call
            for kind, due in self._timed.items():
                if time.monotonic() >= due[0]:
                    due[0] = time.monotonic() + due[1]
                    yield kind, int(due[2])

    def _send(self, kind: str, n: int) -> None:
        unit, self._unit = self._unit, self._unit + n
        began = time.time()
        self._write("+", kind, unit, n, began)
        try:
            ids = KINDS[kind].send(unit, n)
        except FastQError as exc:  # the broker is in trouble: whether it was kept is unknown
            self._write("?", kind, unit, n, f"{type(exc).__name__}: {exc}"[:200])
            return
        self._write("=", kind, unit, ids, time.time())
        if kind == "revoked":
            self._revoke(kind, unit, n, began, [id for (id,) in ids])
        elif kind == "doomed":
            time.sleep(self._chance.uniform(0, 1))  # some have not begun
            signal = self._chance.choice(SIGNALS)
            for _ in range(TRIES):
                if self._revoke(kind, unit, n, began, [id for (id,) in ids], terminate=True, signal=signal):
                    break
                time.sleep(0.5)

    def _revoke(self, kind: str, unit: int, n: int, sent: float, ids: list[str], **how: Any) -> bool:
        try:
            app.control.revoke(ids, **how)
        except FastQError as exc:
            self._write("?", "revoke", unit, n, f"{type(exc).__name__}: {exc}"[:200])
            return False
        self._write("-", kind, unit, n, time.time() - sent, time.time())
        return True

    def _write(self, *entry: Any) -> None:
        os.write(self._fd, json.dumps(entry, separators=(",", ":")).encode() + b"\n")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.soak.producer", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--incarnation", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--poison-every", type=float, default=TIMED["poison"][0], help="seconds; 0: never")
    parser.add_argument("--no-doom", action="store_true", help="send nothing that is to be ended while it runs")
    arguments = parser.parse_args()
    timed = dict(TIMED)
    if arguments.no_doom:
        del timed["doomed"]
    timed["poison"] = (arguments.poison_every, 1)
    if not arguments.poison_every:
        del timed["poison"]
    folder, incarnation, seed = arguments.folder, arguments.incarnation, arguments.seed
    senders = [Sender(folder, incarnation, thread, seed, {} if thread else timed) for thread in range(THREADS)]
    with ThreadPoolExecutor(THREADS) as threads:
        for ended in [threads.submit(sender.run) for sender in senders]:
            ended.result()


if __name__ == "__main__":
    main()
