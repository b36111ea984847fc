#!/usr/bin/env python3
"""Ping ten nodes and measure how long it takes until all of them have answered.

    python benchmarks/control.py                        # ten `fastq worker -P solo` on one private Redis, 50 pings
    python benchmarks/control.py --nodes 3 --pings 200
    python benchmarks/control.py --broker sqlite

A ping is a whole `app.control.ping()`: it opens its connections, asks, and returns when every node has answered. The nodes are real
ones, idle, on this machine. Target: less than 100 ms with ten nodes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from fastq import FastQ
from fastq.bench.machine import machine
from fastq.bench.stats import median, percentile
from tests.servers import RedisServer

TARGET_MS = 100.0
#: seconds until all nodes must be there
START_S = 120.0

MODULE = """
from fastq import FastQ
app = FastQ("pinged", broker={url!r})
"""


@contextlib.contextmanager
def broker(kind: str, directory: Path) -> Iterator[str]:
    if kind == "sqlite":
        yield f"sqlite:///{directory}/pinged.db"
        return
    with RedisServer(directory / "redis") as server:
        yield server.url


@contextlib.contextmanager
def nodes(count: int, directory: Path, url: str) -> Iterator[None]:
    """Run real nodes; end them by their own process ids."""
    (directory / "pinged.py").write_text(MODULE.format(url=url))
    command = [sys.executable, "-m", "fastq", "-A", "pinged", "worker", "-P", "solo"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    started: list[subprocess.Popen[bytes]] = []
    with (directory / "nodes.log").open("wb") as log:
        try:
            for number in range(count):
                one = [*command, "-n", f"node{number}@bench"]
                started.append(subprocess.Popen(one, cwd=directory, env=environment, stdout=log, stderr=log))
            yield
        finally:
            for process in started:
                process.send_signal(signal.SIGTERM)
            for process in started:
                process.wait(60)


def run(count: int, pings: int, kind: str) -> list[float]:
    """Return the milliseconds of each ping."""
    with tempfile.TemporaryDirectory(prefix="fastq-control-") as name:
        directory = Path(name)
        with broker(kind, directory) as url, nodes(count, directory, url):
            app = FastQ("pinged", broker=url, set_as_current=False)
            deadline_s = time.monotonic() + START_S
            while len(app.control.ping(timeout=5)) < count:
                if time.monotonic() > deadline_s:
                    raise SystemExit(f"not all nodes answered within {START_S:g} s:\n{(directory / 'nodes.log').read_text()}")
                time.sleep(0.1)
            took_ms: list[float] = []
            for _ in range(pings):
                began_s = time.perf_counter()
                answers = app.control.ping(timeout=5)
                took_ms.append(1000 * (time.perf_counter() - began_s))
                if len(answers) != count:
                    raise SystemExit(f"{len(answers)} of {count} nodes answered")
            app.close()
            return took_ms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=10)
    parser.add_argument("--pings", type=int, default=50)
    parser.add_argument("--broker", choices=["redis", "sqlite"], default="redis")
    given = parser.parse_args()
    took_ms = sorted(run(given.nodes, given.pings, given.broker))
    seen = machine()
    print(f"{given.pings} pings of {given.nodes} nodes (solo, idle) on {given.broker}; {seen['cpu']}, {seen['cpus']} cores")
    print(f"median {median(took_ms):.1f} ms, 90% {percentile(took_ms, 0.9):.1f} ms, max {took_ms[-1]:.1f} ms")
    verdict = "reached" if took_ms[-1] < TARGET_MS else "reached by the median" if median(took_ms) < TARGET_MS else "MISSED"
    print(f"target: less than {TARGET_MS:g} ms with ten nodes: {verdict}")


if __name__ == "__main__":
    main()
