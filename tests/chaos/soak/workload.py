"""The application of the soak. Every run leaves one record, in one write: a process that is killed leaves all of it or nothing.

Settings come from the environment, as workers and the producer import this by its name.
"""

from __future__ import annotations

import asyncio
import os
import signal
import struct
import time
from typing import Any

from fastq import FastQ
from fastq.beat.making import tick_id
from fastq.beat.shared import scope_of
from fastq.running import current

__all__ = ["DOOMED_S", "DUE_BITS", "RECORD", "SIDE", "TICKS", "WRONG_ID", "app", "birth", "value_of"]

#: token, Unix us, retries before this run, deaths charged before this run, phase (0: about to return, 1: begun)
RECORD = struct.Struct("<QQBBB5x")
BEGUN = 1
#: phase of a tick whose id is not the one that its entry and due time make
WRONG_ID = 2
#: bits of the due time, Unix ms, in the token of a tick; the number of its entry is above them
DUE_BITS = 48
#: a second queue, that nodes are told to leave and to take again
SIDE = "side"
#: seconds that a task runs which nobody ends
DOOMED_S = 12.0

#: periodic entries -> seconds from tick to tick
TICKS = {"every 1 s": 1.0, "also every 1 s": 1.0, "every 2 s": 2.0, "every 3 s": 3.0, "every 5 s": 5.0}

FOLDER = os.environ.get("SOAK_FOLDER", ".")
NODE = os.environ.get("SOAK_NODE", "none")

app = FastQ("soak", broker=os.environ.get("SOAK_BROKER", "memory://"), backend=os.environ.get("SOAK_BACKEND", "memory://"))
app.conf.worker_lease = float(os.environ.get("SOAK_LEASE", "2"))
app.conf.worker_log_format = "[%(asctime)s: %(levelname)s/%(process)d] %(message)s"
app.conf.worker_task_log_format = app.conf.worker_log_format
app.conf.result_expires = 3600
app.conf.worker_revoke_expires = 600
#: they are counted at the end, so none may be dropped before
app.conf.dead_letter_max = 10_000_000
#: a producer that meets a broker that restarts waits for it
app.conf.task_publish_retry_policy = {"max_retries": 8, "interval_start": 0.05, "interval_step": 0.2, "interval_max": 1}

app.conf.beat_lease = 1
app.conf.beat_schedule = {
    name: {"task": "tests.chaos.soak.workload.tick", "schedule": every_s, "args": (index,), "missed": "all"}
    for index, (name, every_s) in enumerate(TICKS.items())
}

_open: tuple[int, int] = (0, -1)


def birth(pid: int | str = "self") -> str:
    """Return ``<pid>-<start time>``: what a process is called here, as pids come again."""
    with open(f"/proc/{pid}/stat") as file:
        number, _, rest = file.read().partition(" (")
    return f"{number}-{rest.rpartition(')')[2].split()[19]}"


def mark(token: int, phase: int = 0) -> None:
    """Leave the record of this run."""
    global _open
    pid, fd = _open
    if pid != os.getpid():
        path = os.path.join(FOLDER, "runs", f"{NODE}.{birth()}")
        fd = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_CLOEXEC, 0o644)
        _open = (os.getpid(), fd)
    d = current.get()
    assert d is not None
    os.write(fd, RECORD.pack(token, time.time_ns() // 1000, min(d.retries, 255), min(d.deliveries, 255), phase))


def value_of(token: int) -> int:
    return token % 1009


@app.task
def noop(token: int) -> int:
    mark(token)
    return value_of(token)


@app.task(priority=9)
def urgent(token: int) -> int:
    mark(token)
    return value_of(token)


@app.task(ignore_result=True)
def ignored(token: int) -> int:
    mark(token)
    return value_of(token)


@app.task
def nap(token: int) -> int:
    time.sleep(0.005)
    mark(token)
    return value_of(token)


@app.task
async def anap(token: int) -> int:
    await asyncio.sleep(0.005)
    mark(token)
    return value_of(token)


@app.task
def crunch(token: int) -> int:
    total = 0
    for i in range(30_000):
        total += i
    mark(token)
    return value_of(token)


@app.task
def large(token: int, blob: bytes) -> int:
    mark(token)
    return value_of(token) + len(blob)


@app.task(rate_limit="40/s")
def limited(token: int) -> int:
    mark(token)
    return value_of(token)


@app.task
def step(before: int, token: int) -> int:
    mark(token)
    return before + value_of(token)


@app.task
def member(token: int) -> int:
    mark(token)
    return value_of(token)


@app.task
def body(values: list[int], token: int) -> int:
    mark(token)
    return sum(values)


@app.task(bind=True, max_retries=2)
def again(self: Any, token: int) -> int:
    """Tried three times, by its own wish."""
    mark(token)
    if self.request.retries < 2:
        raise self.retry(countdown=0.05 * (token % 4))
    return value_of(token)


@app.task(bind=True, autoretry_for=(ConnectionError,), retry_backoff=0.05, retry_jitter=True, max_retries=3)
def flaky(self: Any, token: int) -> int:
    """Tried twice, because of what it raises."""
    mark(token)
    if self.request.retries < 1:
        raise ConnectionError("again")
    return value_of(token)


@app.task
def failing(token: int) -> int:
    mark(token)
    raise ValueError(f"no {token}")


@app.task
def never(token: int) -> int:
    """Revoked or expired before it is due."""
    mark(token)
    return value_of(token)


@app.task(priority=9, ignore_result=False)
def doomed(token: int) -> int:
    """Runs until somebody ends it."""
    mark(token, BEGUN)
    until = time.monotonic() + DOOMED_S
    while time.monotonic() < until:
        time.sleep(0.01)
    mark(token)
    return value_of(token)


@app.task(priority=9, ignore_result=True)
def tick(index: int) -> None:
    """Sent by a beat; leave the due time that is in the id."""
    d = current.get()
    assert d is not None
    due_ms = int(d.id.replace("-", "")[:12], 16)
    right = d.id == tick_id(f"{app.conf.key_prefix}\0{scope_of(app)}", list(TICKS)[index], due_ms)
    token, at_us = index << DUE_BITS | due_ms, time.time_ns() // 1000
    with open(os.path.join(FOLDER, "ticks", f"{NODE}.{birth()}"), "ab", buffering=0) as file:
        file.write(RECORD.pack(token, at_us, d.retries, min(d.deliveries, 255), 0 if right else WRONG_ID))


@app.task
def poison(token: int) -> None:
    """End the process, each time."""
    mark(token, BEGUN)
    if token & 256:
        os.kill(os.getpid(), signal.SIGSEGV)
    elif token & 512:
        os._exit(3)
    os.kill(os.getpid(), signal.SIGKILL)
