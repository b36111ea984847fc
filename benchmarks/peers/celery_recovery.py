#!/usr/bin/env python3
"""Kill parts of a Celery worker on Redis, as ``recovery.py`` does with fastq. Run with an interpreter that has celery[redis]:

    <venv>/bin/python benchmarks/peers/celery_recovery.py [--kills 5] [--visibility 10] [--long 130]

Two workers (prefork, one child each), ``acks_late`` and ``reject_on_worker_lost``, and a visibility timeout of so many seconds
instead of the default hour. Prints how long it took until the killed task ran again, and whether a task that runs for longer than
that timeout, under a worker that lives, ran twice.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from celery import Celery

URL = os.environ.get("PEER_URL", "redis://127.0.0.1:0")
FOLDER = os.environ.get("PEER_FOLDER", "")

app = Celery("celery_recovery", broker=URL + "/0", backend=URL + "/1")
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    broker_connection_retry_on_startup=True,
    broker_transport_options={"visibility_timeout": float(os.environ.get("PEER_VISIBILITY", "3600"))},
)


@app.task(name="hold")
def hold(key: str, first_s: float) -> str:
    """Stay for so long in the first run, and return at once in any other."""
    again = os.path.exists(os.path.join(FOLDER, key))
    fd = os.open(os.path.join(FOLDER, key), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{os.getpid()} {os.getppid()} {time.monotonic()}\n".encode())
    os.close(fd)
    if not again:
        time.sleep(first_s)
    return key


def runs(key: str) -> list[tuple[int, int, float]]:
    try:
        lines = Path(FOLDER, key).read_text().splitlines()
    except FileNotFoundError:
        return []
    return [(int(pid), int(parent), float(at_s)) for pid, parent, at_s in map(str.split, lines)]


def wait_runs(key: str, count: int, within_s: float) -> list[tuple[int, int, float]]:
    deadline_s = time.monotonic() + within_s
    while len(found := runs(key)) < count and time.monotonic() < deadline_s:
        time.sleep(0.01)
    return found


def start_worker(name: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "celery", "-A", "celery_recovery", "worker", "-c", "1", "-n", f"{name}@%h", "-l", "INFO"]
    with open(os.path.join(FOLDER, f"{name}.log"), "wb") as log:
        process = subprocess.Popen(command, cwd=Path(__file__).parent, stdout=log, stderr=log, start_new_session=True)
    deadline_s = time.monotonic() + 60
    while " ready." not in Path(FOLDER, f"{name}.log").read_text(errors="replace"):
        if time.monotonic() > deadline_s or process.poll() is not None:
            raise SystemExit(f"{name} did not start:\n{Path(FOLDER, f'{name}.log').read_text(errors='replace')[-2000:]}")
        time.sleep(0.05)
    return process


def kill_group(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def measure(kills: int, visibility_s: float, long_s: float) -> None:
    workers = {process.pid: process for process in (start_worker("a"), start_worker("b"))}
    names = 2
    within_s = 3 * visibility_s + 150
    for what in ("a child", "a worker") if kills else ():
        times: list[float] = []
        for number in range(kills):
            key = f"{what[2:]}-{number}"
            hold.delay(key, 3600)
            pid, parent, _ = wait_runs(key, 1, 60)[0]
            at_s = time.monotonic()
            if what == "a child":
                os.kill(pid, signal.SIGKILL)
            else:
                kill_group(workers.pop(parent))
            found = wait_runs(key, 2, within_s)
            if len(found) > 1:
                times.append(found[1][2] - at_s)
            if what == "a worker":
                names += 1
                process = start_worker(f"w{names}")
                workers[process.pid] = process
        numbers = f"min {min(times):.2f}  median {statistics.median(times):.2f}  max {max(times):.2f} s" if times else "never"
        print(f"{what} killed: ran again after {numbers}; {len(times)} of {kills} within {within_s:g} s", flush=True)
    result = hold.delay("long", long_s)
    wait_runs("long", 1, 60)
    result.get(timeout=within_s + long_s)
    print(f"a task of {long_s:g} s, nothing killed: {len(wait_runs('long', 1, 1))} runs", flush=True)
    for process in workers.values():
        kill_group(process)


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--kills", type=int, default=5)
    ap.add_argument("--visibility", type=float, default=10.0, metavar="SECONDS")
    ap.add_argument("--long", type=float, default=130.0, metavar="SECONDS", help="of the task that nobody kills")
    ns = ap.parse_args()
    if FOLDER:
        measure(ns.kills, ns.visibility, ns.long)
        return
    server = shutil.which("redis-server") or shutil.which("valkey-server")
    if server is None:
        raise SystemExit("no redis-server on PATH")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="celery-recovery-") as folder:
        redis = subprocess.Popen([server, "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", ""],
                                 stdout=subprocess.DEVNULL)  # fmt: skip
        try:
            time.sleep(0.5)
            env = {"PEER_URL": f"redis://127.0.0.1:{port}", "PEER_FOLDER": folder, "PEER_VISIBILITY": str(ns.visibility)}
            done = subprocess.run([sys.executable, *sys.argv], env={**os.environ, **env})
        finally:
            redis.kill()
            redis.wait()
    raise SystemExit(done.returncode)


if __name__ == "__main__":
    main()
