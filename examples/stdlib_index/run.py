"""Index the standard library of this Python with fastq, then compare the pools. This is what ``make demo`` runs.

One task per source file, sent in one go, to a worker started from the command line. Without a server: the broker is a file in a
temporary folder, removed at the end. Against Redis: FASTQ_BROKER_URL=redis://localhost python examples/stdlib_index/run.py
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from tasks import Report

HERE = Path(__file__).parent
CPUS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
#: pool -> what -c gets in the comparison
POOLS = {"prefork": CPUS, "threads": 8, "gevent": 50, "eventlet": 50, "asyncio": 50, "solo": 1}
#: files of the comparison
SAMPLE = 300
#: rows of each list in the report
TOP = 6
#: a task or a start that takes longer than that means that something is broken
PATIENCE_S = 60.0


def source_files() -> list[str]:
    """Return the standard library's .py files, without installed packages."""
    root = Path(sysconfig.get_path("stdlib"))
    foreign = {"site-packages", "dist-packages"}
    return sorted(str(path) for path in root.rglob("*.py") if not foreign.intersection(path.relative_to(root).parts))


class Worker:
    """A ``fastq worker`` in processes of its own, its log in a file, the memory of its process tree watched."""

    def __init__(self, pool: str, concurrency: int, folder: Path) -> None:
        self.log = folder / f"{pool}.log"
        #: greatest sum of PSS (shared pages counted once, split among those that share them), bytes; 0: not known here
        self.peak_pss = 0
        command = [sys.executable, "-m", "fastq", "worker", "-A", "tasks", "-P", pool, "-c", str(concurrency), "-l", "INFO"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=HERE, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        self._stopped = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def _watch(self) -> None:
        while not self._stopped.wait(0.1):
            self.peak_pss = max(self.peak_pss, sum(pss(pid) for pid in tree(self.process.pid)))

    def check(self) -> None:
        """Raise with the end of the worker's log if it has died."""
        if self.process.poll() is not None:
            raise SystemExit(f"the worker ended with {self.process.returncode}; its log:\n{self.tail()}")

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])

    def stop(self) -> None:
        """Stop it as an operator would: SIGTERM, then wait."""
        self._stopped.set()
        self._watcher.join()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise SystemExit(f"the worker did not stop on SIGTERM; its log:\n{self.tail()}") from None


def tree(pid: int) -> list[int]:
    """Return a process and all below it (Linux)."""
    found, left = [], [pid]
    while left:
        found.append(current := left.pop())
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{current}/task").iterdir():
                left += map(int, (task / "children").read_text().split())
    return found


def pss(pid: int) -> int:
    """Return a process' proportional set size in bytes, 0 where /proc does not tell."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


@contextlib.contextmanager
def worker(pool: str, concurrency: int, folder: Path) -> Iterator[Worker]:
    """Start a worker, wait until it has answered a task, stop it at the end."""
    import tasks  # lazy: only after main() has chosen the broker

    started = Worker(pool, concurrency, folder)
    try:
        wait(tasks.ping.delay(), started)
        yield started
    finally:
        started.stop()


def wait(result, worker: Worker):  # type: ignore[no-untyped-def]
    """Return a task's result; end the demo with the worker's log if the worker has died."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return result.get(timeout=1)
        except TimeoutError:
            worker.check()
            if time.monotonic() > deadline:
                raise SystemExit(f"no result within {PATIENCE_S:.0f} s; the worker's log:\n{worker.tail()}") from None


def fan_out(files: Sequence[str], worker: Worker, progress: Progress, title: str) -> tuple[list[Report], float]:
    """Send one task per file in one call and gather the reports; return them and the seconds it took."""
    import tasks  # lazy: only after main() has chosen the broker

    bar = progress.add_task(title, total=len(files))
    begun = time.perf_counter()
    reports = []
    for result in tasks.index.delay_many([(path,) for path in files]):
        reports.append(wait(result, worker))
        progress.advance(bar)
    return reports, time.perf_counter() - begun


def show_index(console: Console, reports: Sequence[Report], seconds: float) -> None:
    root = Path(sysconfig.get_path("stdlib"))

    def short(path: str) -> str:
        return str(Path(path).relative_to(root))

    broken = [report for report in reports if "error" in report]
    total = Table(title=f"The standard library of Python {sys.version.split()[0]}", title_justify="left")
    for heading in ("files", "lines", "functions", "classes", "do not parse", "seconds", "files/s"):
        total.add_column(heading, justify="right")
    total.add_row(
        f"{len(reports):,}",
        f"{sum(report['lines'] for report in reports):,}",
        f"{sum(report['functions'] for report in reports):,}",
        f"{sum(report['classes'] for report in reports):,}",
        f"{len(broken)}",
        f"{seconds:.1f}",
        f"{len(reports) / seconds:,.0f}",
    )
    console.print(total)

    definitions = collections.Counter({short(r["path"]): r["functions"] + r["classes"] for r in reports})
    longest = collections.Counter({f"{r['longest'][0]} ({short(r['path'])})": r["longest"][1] for r in reports if r["longest"]})
    imported = collections.Counter(name for report in reports for name in report["imports"])
    for title, unit, counts in (
        ("Most definitions", "functions and classes", definitions),
        ("Longest functions", "lines", longest),
        ("Most imported modules", "files", imported),
    ):
        top = Table(title=title, title_justify="left", show_header=False)
        top.add_column(min_width=44)
        top.add_column(justify="right")
        for name, count in counts.most_common(TOP):
            top.add_row(name, f"{count} {unit}")
        console.print(top)


def show_pools(console: Console, rows: Sequence[tuple[str, str, str, str, str]], files: int) -> None:
    title = f"The same over {files} files on each pool"
    table = Table(title=title, title_justify="left")
    for heading in ("pool", "slots", "files/s", "seconds", "peak memory"):
        table.add_column(heading, justify="left" if heading == "pool" else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(
        "prefork: so many processes of one slot; the others: one process with so many slots. Parsing is work for the CPU, so one "
        "process does it at the speed of one core; --processes adds cores. Peak memory: greatest sum of PSS over the worker's "
        "process tree. The start of the worker is not counted in the seconds."
    )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--files", type=int, help="index only so many files")
    arguments.add_argument("--sample", type=int, default=SAMPLE, help=f"files of the pool comparison (default {SAMPLE})")
    arguments.add_argument("--pools", default=",".join(POOLS), help="pools of the comparison, separated by commas")
    options = arguments.parse_args()
    if unknown := set(filter(None, options.pools.split(","))) - set(POOLS):
        arguments.error(f"unknown pools {sorted(unknown)}; known: {', '.join(POOLS)}")

    console = Console()
    files = source_files()
    # evenly over the whole library, so that the sample looks like it
    files = files[:: max(1, len(files) // options.files)][: options.files] if options.files else files
    sample = files[:: max(1, len(files) // options.sample)][: options.sample]

    with tempfile.TemporaryDirectory(prefix="fastq-demo-") as temporary:
        folder = Path(temporary)
        if os.environ.get("FASTQ_BROKER_URL"):
            os.environ.setdefault("FASTQ_RESULT_BACKEND", os.environ["FASTQ_BROKER_URL"])
            console.print("Broker: the one that FASTQ_BROKER_URL names.")
        else:
            os.environ["FASTQ_BROKER_URL"] = f"sqlite:///{folder / 'demo.db'}"
            console.print(f"Broker: the embedded one, {folder / 'demo.db'}, removed at the end. (FASTQ_BROKER_URL names another.)")
        sys.path.insert(0, str(HERE))
        columns = (TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console) as progress, worker("prefork", CPUS, folder) as running:
            reports, seconds = fan_out(files, running, progress, f"index, prefork {CPUS}")
        show_index(console, reports, seconds)

        rows = []
        with Progress(*columns, console=console) as progress:
            for pool in filter(None, options.pools.split(",")):
                with worker(pool, POOLS[pool], folder) as running:
                    again, took = fan_out(sample, running, progress, f"{pool} {POOLS[pool]}")
                assert {report["path"] for report in again} == set(sample)
                memory = f"{running.peak_pss / 2**20:.0f} MiB" if running.peak_pss else "unknown"
                rows.append((pool, str(POOLS[pool]), f"{len(sample) / took:,.0f}", f"{took:.2f}", memory))
        if rows:
            show_pools(console, rows, len(sample))


if __name__ == "__main__":
    main()
