"""Ten thousand periodic entries: what they cost a beat, and how late their ticks are.

    python benchmarks/beat_load.py [--entries 10000] [--every 3600 300 100] [--seconds 30] [--warm 8] [--level L] [--broker URL]

For each interval one beat runs on its own timetable. CPU is that of the beat's process (user and system) over the measured time,
without its start. Lateness is what the broker's clock said when it put a tick's message into the queue, less the tick's due time,
of the last tick of each entry. "waited" is how long the beat was ready to run and other processes had the processors: it makes
ticks late, and is the machine's. Without --broker it starts a Redis server of its own. Needs the tests' directory beside it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from fastq.transports import TransportOptions, open_timetable
from tests.chaos.beats import Beat
from tests.servers import RedisServer
from tests.workers import eventually

MODULE = """
from fastq import FastQ
app = FastQ("load{every}", broker={url!r}, task_default_queue="load{every}")

@app.task(name="tick")
def tick(name): pass
"""

FILL = """
import random, sys
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


def spent_s(pid: int) -> tuple[float, float]:
    """Return for how long a process has run, and for how long it has waited for a processor."""
    ran_ns, waited_ns, _ = Path(f"/proc/{pid}/schedstat").read_text().split()
    return int(ran_ns) / 1e9, int(waited_ns) / 1e9


def measure(url: str, entries: int, every_s: int, seconds: float, warm_s: float, level: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "load.py").write_text(MODULE.format(url=url, every=every_s))
        fill = Path(directory) / "fill.py"
        fill.write_text(FILL.format(directory=directory, every=every_s, entries=entries))
        subprocess.check_call([sys.executable, str(fill)])
        timetable = open_timetable(url, TransportOptions(), f"load{every_s}")
        with Beat(Path(directory), app="load", level=level) as beat:
            eventually(timetable.leader, "a beat that leads")
            time.sleep(warm_s)
            began_ms, began, (ran_s, waited_s) = timetable.now_ms(), time.time(), spent_s(beat.pid)
            time.sleep(seconds)
            took, ended_ms, (ran_after_s, waited_after_s) = time.time() - began, timetable.now_ms(), spent_s(beat.pid)
            rss = next(line for line in Path(f"/proc/{beat.pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
            assert beat.end() == 0, beat.log
        plans = timetable.entries().plans
        timetable.close()
    late = [plan.last_run_ms - plan.last_due_ms for plan in plans if began_ms <= plan.last_due_ms <= ended_ms - 1000]
    late.sort()
    shown = {name: late[min(int(len(late) * part), len(late) - 1)] for name, part in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))}
    print(
        f"{entries} entries, each every {every_s} s, -l {level}: {len(late)} ticks in {took:.0f} s, "
        f"CPU {100 * (ran_after_s - ran_s) / took:.2f}% of a core, "
        f"late by {', '.join(f'{name} {value} ms' for name, value in shown.items())}, {sum(one > 50 for one in late)} over 50 ms, "
        f"{rss.split(':')[1].strip()}; waited {1000 * (waited_after_s - waited_s) / took:.1f} ms/s, load {os.getloadavg()[0]:.1f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=10_000)
    parser.add_argument("--every", type=int, nargs="+", default=[3600, 300, 100])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--warm", type=float, default=8.0, help="s before it is measured; an entry's first tick costs more")
    parser.add_argument("--level", default="WARNING")
    parser.add_argument("--broker")
    given = parser.parse_args()
    server = None if given.broker else RedisServer()
    try:
        for every_s in given.every:
            measure(given.broker or server.url, given.entries, every_s, given.seconds, given.warm, given.level)  # type: ignore[union-attr]
    finally:
        if server is not None:
            server.stop()


if __name__ == "__main__":
    main()
