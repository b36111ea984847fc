"""The application of ``recovery.py``: tasks that write down when and where they start and end, by a clock that all processes share.

One line per event, appended in one write, so lines of killed processes are whole or absent.
"""

from __future__ import annotations

import asyncio
import json
import os
import time

from fastq import FastQ

#: broker, lease_s, folder; "survivor": this node holds nothing, so that victims can be given everything that is held
SITE = json.loads(os.environ["FASTQ_RECOVERY"])

app = FastQ("recovery", broker=SITE["broker"], backend=SITE["broker"])
app.conf.worker_lease = SITE["lease_s"]

_journal = os.open(os.path.join(SITE["folder"], "journal"), os.O_WRONLY | os.O_APPEND)


def note(event: str, key: str) -> None:
    # CLOCK_MONOTONIC is one clock for all processes of a machine
    os.write(_journal, f"{event} {key} {os.getpid()} {time.monotonic_ns()}\n".encode())


def begin(key: str) -> float:
    """Note a start; return how long this run is to take: the first one of a key waits for its process' death."""
    note("start", key)
    first = os.path.join(SITE["folder"], "first", key)
    if SITE.get("survivor"):
        # long enough for a victim to be faster with the next; what it takes over has run before
        return 0.0 if os.path.exists(first) else 0.3
    try:
        os.close(os.open(first, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return 0.0
    return 3600.0


def released() -> bool:
    return os.path.exists(os.path.join(SITE["folder"], "release"))


@app.task
def hold(key: str) -> str:
    left_s = begin(key)
    while left_s > 0 and not released():
        time.sleep(0.1)
        left_s -= 0.1
    note("end", key)
    return key


@app.task
async def hold_async(key: str) -> str:
    left_s = begin(key)
    while left_s > 0 and not released():
        await asyncio.sleep(0.1)
        left_s -= 0.1
    note("end", key)
    return key


@app.task
def short(key: str) -> str:
    note("start", key)
    time.sleep(0.02)
    note("end", key)
    return key
