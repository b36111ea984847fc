"""Ten thousand periodic entries: what they cost a beat, and how late their ticks are.

    python benchmarks/beat_load.py [--entries 10000] [--every 3600 100] [--seconds 30] [--broker redis://...]

For each interval one beat runs on its own timetable. CPU is that of the beat's process (user and system) over the measured time,
without its start; lateness is the time from when a tick is due to when the broker's clock stood when its message was made.
Without --broker it starts a Redis server of its own. Needs the tests' directory beside it.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from fastq import _core
from fastq.transports import TransportOptions, open_inspector
from tests.chaos.beats import Beat
from tests.servers import RedisServer

MODULE = """
import random
from fastq import FastQ
from fastq.beat.book import Schedules
app = FastQ("load{every}", broker={url!r}, task_default_queue="load{every}")

@app.task(name="tick")
def tick(name): pass
"""

FILL = """
import os, random, sys
sys.path.insert(0, {directory!r})
from load import app
from fastq.beat.definition import Definition, packed
from fastq.beat.shared import timetable_of
from fastq.transports.timetable import Edit
timetable = timetable_of(app)
now = timetable.now_ms()
chance = random.Random(1)
timetable.edit([
    Edit(f"entry {{i}}", packed(app, Definition("tick", {{"type": "interval", "every_s": {every}}}, (f"entry {{i}}",))),
         now + 5000 + int(chance.random() * {every} * 1000), False, 0)
    for i in range({entries})
])
"""


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(url: str, entries: int, every_s: int, seconds: float) -> None:
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "load.py").write_text(MODULE.format(url=url, every=every_s))
        fill = Path(directory) / "fill.py"
        fill.write_text(FILL.format(directory=directory, every=every_s, entries=entries))
        assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, str(fill)]) == 0
        with Beat(Path(directory), app="load", level="WARNING") as beat:
            time.sleep(8)
            began, used = time.time(), cpu_s(beat.pid)
            time.sleep(seconds)
            took, used = time.time() - began, cpu_s(beat.pid) - used
            rss = next(line for line in Path(f"/proc/{beat.pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
            assert beat.end() == 0, beat.log
        inspector = open_inspector(url, TransportOptions())
        late: list[int] = []
        for message in inspector.peek(f"load{every_s}", 1_000_000):
            delivery = _core.peek(message)
            due_ms = int(delivery.id.replace("-", "")[:12], 16)
            if began * 1000 <= due_ms <= (began + took) * 1000:
                late.append(delivery.enqueued_ms - due_ms)
        inspector.close()
    late.sort()
    shown = {name: late[min(int(len(late) * part), len(late) - 1)] for name, part in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))}
    print(
        f"{entries} entries, each every {every_s} s: {len(late)} ticks in {took:.0f} s, CPU {100 * used / took:.2f}% of a core, "
        f"late by {', '.join(f'{name} {value} ms' for name, value in shown.items())}, {rss.split(':')[1].strip()}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=10_000)
    parser.add_argument("--every", type=int, nargs="+", default=[3600, 100])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--broker")
    given = parser.parse_args()
    server = None if given.broker else RedisServer()
    try:
        for every_s in given.every:
            measure(given.broker or server.url, given.entries, every_s, given.seconds)  # type: ignore[union-attr]
    finally:
        if server is not None:
            server.stop()


if __name__ == "__main__":
    main()
