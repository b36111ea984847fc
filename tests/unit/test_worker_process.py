"""A worker process as a whole: it ends when it is told to, and at once when its own part of the work fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastq import _core, states
from fastq._core import Delivery, Entry, Registry
from fastq.exceptions import OperationalError
from fastq.records import StoredResult
from fastq.worker.assembly import Clock, log_success
from fastq.worker.started import Started
from tests.unit.worker_rig import DEADLINE_S, message

ROOT = Path(__file__).parents[2]

PROGRAM = """
import os, signal, sys, threading, time
from fastq import FastQ
from fastq.worker import consumer as consumers
from fastq.worker.board import Board
from fastq.worker.link import Link
from fastq.worker.options import WorkerOptions
from fastq.worker.process import run_process

pool, scenario = sys.argv[1:3]
app = FastQ("x", broker="memory://", backend="memory://", worker_lease=1)
running = threading.Event()
stopped = threading.Event()

@app.task(name="hang")
def hang():
    print("hanging", flush=True)
    running.set()
    if scenario == "term":
        os.kill(os.getpid(), signal.SIGTERM)
        return
    while True:
        time.sleep(0.01)

app.finalize()
hang.delay()
if scenario == "bug":
    settle = consumers.Consumer._sleep
    def fail(self):
        if running.is_set():
            raise RuntimeError("a bug in the consumer")
        settle(self)
    consumers.Consumer._sleep = fail
    consumers.LINGER_S = 0.0

board = Board()
slots = 1 if pool == "prefork" else 3
board.region(0, slots)
ours, theirs = Link.pair()

def supervise():
    while not ours.closed:
        for told in ours.wait(1.0):
            print(sorted(told), flush=True)
            if "stopped" in told:
                stopped.set()
            if "ready" in told:
                app.open_broker().renew(("default",), ["p1"], 60_000)
                ours.send({"start": {"process": "p1"}})
    os._exit(9)

threading.Thread(target=supervise, daemon=True).start()
if scenario == "bug":
    def poke():
        running.wait()
        while True:
            time.sleep(0.01)
            hang.delay()  # wakes the consumer
    threading.Thread(target=poke, daemon=True).start()
code = run_process(app, pool=pool, slots=slots, queues=("default",), options=WorkerOptions(), index=0, board_fd=board.fd,
                   link=Link(theirs), node="n")
if scenario == "term":
    stopped.wait(30)  # the word is on its way to the other thread
print("code", code, flush=True)
os._exit(code)
"""


def run(pool: str, scenario: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, pool, scenario],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_process_whose_consumer_fails_ends_at_once_whatever_its_slots_do(pool: str) -> None:
    done = run(pool, "bug")
    assert done.returncode == 1, done
    assert "hanging" in done.stdout and "RuntimeError: a bug in the consumer" in done.stderr


def test_a_term_sent_to_the_process_alone_stops_it_warm() -> None:
    done = run("prefork", "term")
    assert done.returncode == 0, done
    assert "stopped" in done.stdout and "code" in done.stdout


class Store:
    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.stored: list[tuple[StoredResult, bool]] = []

    def store(self, results: list[StoredResult], *, final: bool = True) -> None:
        if self.error is not None:
            raise self.error
        self.stored += [(result, final) for result in results]


def delivery(*, tracked: bool = True, ignored: bool = False) -> Delivery:
    registry = Registry([Entry("t", print, track_started=tracked, ignore_result=ignored)])
    return _core.deliveries("q", ["0:1:0"], [message("t", id="x")], registry)[0]


def test_started_is_reported_for_the_tasks_that_ask_for_it() -> None:
    store = Store()
    started = Started(store, "node", Clock())  # type: ignore[arg-type]
    for d in (delivery(), delivery(tracked=False), delivery(ignored=True)):
        started.note(d)
    assert [(result.id, _core.decode_result(result.record)[0], final) for result, final in store.stored] == [
        ("x", states.STARTED, False)
    ]


def test_a_report_that_cannot_be_stored_does_not_fail_the_task(caplog: pytest.LogCaptureFixture) -> None:
    Started(Store(OperationalError("away")), "node", Clock()).note(delivery())  # type: ignore[arg-type]
    assert "Could not report t[x] as started: away" in caplog.text


class Nasty:
    def __repr__(self) -> str:
        raise RuntimeError


def test_any_result_can_be_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "fastq.worker.trace"):
        log_success(delivery(), "x" * 5_000, 1_500_000_000)
        log_success(delivery(), Nasty(), 1)
    assert caplog.messages[0].startswith("Task t[x] succeeded in 1.500000s: 'xxx") and len(caplog.messages[0]) < 1_200
    assert caplog.messages[1].endswith("<Nasty>")
