"""``fastq worker -B`` on every pool: its beat sends what the application and ``--include`` say, and ends with the worker."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.workers import POOLS, Worker, children, eventually, write_module

TASKS = """
from fastq import FastQ
app = FastQ("child", broker={url!r}, beat_lease=0.5, task_default_queue="ticks")

@app.task(name="tick")
def tick(name):
    with open(name, "a") as file:
        file.write(tick.request.id + "\\n")

app.conf.beat_schedule = {{"own": {{"task": "tick", "schedule": 0.2, "args": ("own",)}}}}
"""
#: what ``-I`` names: its tasks and its entries are there for the worker's processes and for its beat
MORE = """
from tasks import app

@app.task(name="more.tock")
def tock():
    open("more", "a").close()

app.add_periodic_task(0.2, tock.s(), name="more")
"""
LATER = """
from tasks import app, tick

@app.on_after_finalize.connect
def setup(sender, **kwargs):
    sender.add_periodic_task(0.2, tick.s("later"), name="later")
"""


def beats(pid: int) -> list[int]:
    return [child for child in children(pid) if is_beat(child)]


def is_beat(pid: int) -> bool:
    try:
        return b"--embedded" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


@pytest.mark.parametrize("pool", POOLS)
def test_the_beat_of_a_worker_sends_what_it_and_its_included_modules_say_and_ends_with_it(
    pool: str, redis_url: str, tmp_path: Path
) -> None:
    write_module(tmp_path, "tasks", TASKS.format(url=redis_url))
    write_module(tmp_path, "more", MORE)
    write_module(tmp_path, "later", LATER)
    with Worker(tmp_path, "-P", pool, "-B", "-I", "more,later", "-l", "INFO") as worker:
        for name in ("own", "more", "later"):
            eventually((tmp_path / name).exists, f"a run of {name!r}", 30)
        assert "beat: leading, with 3 entries" in worker.log
        (beat,) = beats(worker.pid)
        if pool in ("solo", "prefork"):  # with and without a supervisor
            os.kill(worker.pid, signal.SIGKILL)
            worker.process.wait(60)
        else:
            assert worker.terminate() == 0
        eventually(lambda: not is_beat(beat), "the beat to end with its worker")
    assert ("beat: Shutting down..." in worker.log) and "Traceback" not in worker.log, worker.log
    for name in ("own", "later"):
        ran = (tmp_path / name).read_text().split()
        assert len(ran) == len(set(ran)), "a tick ran twice"
