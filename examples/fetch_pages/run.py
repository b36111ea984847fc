"""Fetch 2,000 pages from a server that takes 50 ms for each, with 500 slots: on gevent, eventlet, asyncio and threads.

The server is a process of its own on this machine and says how many requests it had in hand at once. Without FASTQ_BROKER_URL the
broker is a file in a temporary folder.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
LATENCY_S = 0.05
POOLS = ("gevent", "eventlet", "asyncio", "threads")
PATIENCE_S = 60.0


@contextlib.contextmanager
def process(*command: str, log: Path | None = None) -> Iterator[subprocess.Popen[str]]:
    """Run a command beside this one and terminate it at the end."""
    with contextlib.ExitStack() as stack:
        errors = stack.enter_context(log.open("w")) if log else None
        started = subprocess.Popen(
            [sys.executable, *command],
            cwd=HERE,
            stdin=subprocess.DEVNULL,
            stdout=errors or subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            yield started
        finally:
            if started.poll() is None:
                started.send_signal(signal.SIGTERM)
            try:
                started.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                started.kill()
                started.wait()
                raise SystemExit(f"{' '.join(command)} did not stop on SIGTERM") from None
            finally:
                if started.stdout is not None:
                    started.stdout.close()


def ask(base: str, path: str) -> dict[str, int]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(base + path, timeout=10) as response:
        counts: dict[str, int] = json.load(response)
    return counts


def fetch_all(pool: str, slots: int, pages: int, base: str, folder: Path) -> tuple[str, ...]:
    """Start a worker, fetch every page once, return the pool's row of the table."""
    import tasks  # lazy: only after main() has chosen the broker

    log = folder / f"{pool}.log"
    command = ("-m", "fastq", "worker", "-A", "tasks", "-P", pool, "-c", str(slots), "-l", "INFO")
    try:
        with process(*command, log=log) as worker:
            up = tasks.most_busy.delay()
            deadline = time.monotonic() + PATIENCE_S
            while not up.ready():
                if worker.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"the {pool} worker is not up")
                time.sleep(0.02)
            ask(base, "/reset")
            task = tasks.fetch_async if pool == "asyncio" else tasks.fetch
            begun = time.perf_counter()
            sizes = [result.get(timeout=PATIENCE_S) for result in task.delay_many([(f"{base}/page/{n}",) for n in range(pages)])]
            took = time.perf_counter() - begun
            most_busy = tasks.most_busy.delay().get(timeout=PATIENCE_S)
            counts = ask(base, "/stats")
    except BaseException:
        sys.stderr.write("".join(log.read_text(errors="replace").splitlines(keepends=True)[-20:]))
        raise
    assert len(sizes) == pages and all(sizes), "a page came back empty"
    assert counts["answered"] == pages, f"the server answered {counts['answered']} pages, not {pages}"
    return pool, f"{took:.2f}", f"{pages / took:,.0f}", f"{most_busy}", f"{counts['most_in_flight']}"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--pages", type=int, default=2000)
    arguments.add_argument("--slots", type=int, default=500)
    arguments.add_argument("--pools", default=",".join(POOLS))
    options = arguments.parse_args()

    console = Console()
    with tempfile.TemporaryDirectory(prefix="fastq-fetch-") as temporary:
        folder = Path(temporary)
        if os.environ.get("FASTQ_BROKER_URL"):
            os.environ.setdefault("FASTQ_RESULT_BACKEND", os.environ["FASTQ_BROKER_URL"])
        else:
            os.environ["FASTQ_BROKER_URL"] = f"sqlite:///{folder / 'fetch.db'}"
        sys.path.insert(0, str(HERE))
        with process("server.py") as server:
            assert server.stdout is not None
            base = f"http://127.0.0.1:{int(server.stdout.readline())}"
            rows = [fetch_all(pool, options.slots, options.pages, base, folder) for pool in options.pools.split(",")]

    title = f"{options.pages:,} pages of {LATENCY_S * 1000:.0f} ms, {options.slots} slots in one process"
    table = Table(title=title, title_justify="left")
    table.add_column("pool")
    for heading in ("seconds", "pages/s", "slots busy at once", "at the server at once"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    ideal_s = -(-options.pages // options.slots) * LATENCY_S
    one_s = options.pages * LATENCY_S
    console.print(
        f"One after the other, the waiting alone takes {one_s:.0f} s; {options.slots} at once, {ideal_s:.2f} s is the ideal. "
        "What lies above that is the CPU time of client and server on this machine."
    )


if __name__ == "__main__":
    main()
