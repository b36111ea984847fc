"""Dead letters from end to end: real workers, the real command, real kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

from fastq import _core, chord
from fastq.records import DEAD, Fetch, Publication, Settlement
from fastq.transports import open_inspector
from tests.integration.conftest import ran
from tests.workers import Worker, eventually

#: what the workers run at first, behind the tasks of all tests; and once it is repaired
BROKEN = """
@app.task
def charge(customer, amount):
    return 100 // amount

@app.task
def poison():
    os.kill(os.getpid(), 9)

@app.task(time_limit=0.5)
def slow():
    time.sleep(60)

@app.task
def summed(values):
    return sum(v or 0 for v in values)
"""
REPAIRED = """
@app.task
def charge(customer, amount):
    return 100 // (amount or 1)

@app.task
def poison():
    return "cured"

@app.task(time_limit=30)
def slow():
    return "quick"

@app.task
def unheard_of(x):
    return x

@app.task
def summed(values):
    return sum(v or 0 for v in values)
"""


def rewrite(directory: Path, addition: str) -> None:
    path = directory / "tasks.py"
    text = path.read_text().partition("# --- added ---")[0]
    path.write_text(f"{text}# --- added ---\n{addition}")


def dead(directory: Path, *arguments: str) -> list[dict[str, object]]:
    done = Worker.command(directory, "dead", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_what_died_of_a_bug_runs_once_it_is_repaired(tasks: ModuleType, tmp_path: Path) -> None:
    app = tasks.app
    rewrite(tmp_path, BROKEN)
    sent = {
        "failed": app.send_task("tasks.charge", ("anna",), {"amount": 0}),
        "worker-lost": app.send_task("tasks.poison"),
        "unregistered": app.send_task("tasks.unheard_of", (1,)),
        "time-limit": app.send_task("tasks.slow"),
    }
    with Worker(tmp_path, "-c", "2").wait_ready() as worker:
        eventually(lambda: app.dead_letters.count() == 4, "four dead letters")
        node = "fastq@"
        assert worker.terminate() == 0

    listed = {str(line["reason"]): line for line in dead(tmp_path)}
    assert {reason: line["id"] for reason, line in listed.items()} == {reason: result.id for reason, result in sent.items()}
    assert listed["worker-lost"]["deliveries"] == 3
    shown = {str(line["reason"]): line for line in dead(tmp_path, "show", *[result.id for result in sent.values()])}
    assert (shown["failed"]["args"], shown["failed"]["kwargs"]) == (["anna"], {"amount": 0})
    assert "return 100 // amount" in str(shown["failed"]["traceback"]) and str(shown["failed"]["process"]).startswith(node)
    assert str(shown["failed"]["error"]).startswith("ZeroDivisionError:")
    assert "its process died 3 times, the last was fastq@" in str(shown["worker-lost"]["history"])
    assert "0.5 s" in str(shown["time-limit"]["error"]) and str(shown["time-limit"]["process"]).startswith(node)
    assert "tasks.unheard_of" in str(shown["unregistered"]["error"])
    assert all(app.AsyncResult(result.id).state == "FAILURE" for result in sent.values())

    rewrite(tmp_path, REPAIRED)
    done = Worker.command(tmp_path, "dead", "retry", *[result.id for result in sent.values()])
    assert (done.returncode, done.stdout) == (0, "Put back 4 dead letters.\n")
    assert {app.AsyncResult(result.id).state for result in sent.values()} == {"PENDING"}
    with Worker(tmp_path, "-c", "2").wait_ready() as worker:
        values = {reason: app.AsyncResult(result.id).get(timeout=60) for reason, result in sent.items()}
        assert values == {"failed": 100, "worker-lost": "cured", "unregistered": 1, "time-limit": "quick"}
        assert worker.terminate() == 0
    assert Worker.command(tmp_path, "dead").stdout == "No dead letters.\n"


def test_what_was_to_follow_a_retried_task_follows_and_its_chord_hears_nothing(
    tasks: ModuleType, folder: Path, tmp_path: Path
) -> None:
    app = tasks.app
    rewrite(tmp_path, BROKEN)
    charge = app.signature("tasks.charge", args=("x", 0))
    chained = (charge | tasks.mark.si("followed")).apply_async()
    body = chord([tasks.add.s(1, 1), charge.clone()], app.signature("tasks.summed")).apply_async()
    with Worker(tmp_path, "-c", "2").wait_ready() as worker:
        # the two that failed; the body of the chord is none of them
        eventually(lambda: app.dead_letters.count() == 2, "two dead letters")
        eventually(lambda: body.state == "FAILURE" and chained.state == "FAILURE", "what comes behind them has failed")
        assert worker.terminate() == 0
    rewrite(tmp_path, REPAIRED)
    assert app.dead_letters.retry(task="tasks.charge").number == 2
    assert app.AsyncResult(chained.id).state == "PENDING"
    with Worker(tmp_path, "-c", "2").wait_ready() as worker:
        assert app.AsyncResult(chained.id).get(timeout=60) == "followed"
        eventually(lambda: app.dead_letters.count() == 0 and not depth(app)["ready"] + depth(app)["leased"], "all has run")
        assert worker.terminate() == 0
    assert ran(folder, "followed") == ["followed"]
    assert app.AsyncResult(body.id).state == "FAILURE"


def test_a_body_that_died_has_its_values_when_it_is_retried(tasks: ModuleType, tmp_path: Path) -> None:
    app = tasks.app
    rewrite(tmp_path, BROKEN.replace("return sum(", "raise ValueError("))
    body = chord([tasks.add.s(1, 1), tasks.add.s(2, 2)], app.signature("tasks.summed")).apply_async()
    with Worker(tmp_path, "-c", "2").wait_ready() as worker:
        eventually(lambda: app.dead_letters.count() == 1, "one dead letter")
        assert worker.terminate() == 0
    rewrite(tmp_path, REPAIRED)
    assert app.dead_letters.retry(body.id).number == 1
    with Worker(tmp_path, "-c", "2").wait_ready() as worker:
        assert app.AsyncResult(body.id).get(timeout=60) == 6
        assert worker.terminate() == 0


def depth(app: object) -> dict[str, int]:
    inspector = open_inspector(app.broker_url, app.transport_options())  # type: ignore[attr-defined]
    try:
        return inspector.depth("default")
    finally:
        inspector.close()


def call_of_add(id: str) -> bytes:
    return _core.encode(id, "tasks.add", "application/x-msgpack", b"\x92\x92\x01\x02\x80", 1, None, 0, None, None)


def bury(tasks: ModuleType, n: int) -> list[str]:
    """Make dead letters with a stored failure each, as a worker does."""
    broker = tasks.app.open_broker()
    try:
        broker.renew(["default"], ["grave.0.digger"], 60_000)
        ids = _core.new_ids(broker.now_ms(), n)
        record = _core.encode_result("FAILURE", "application/x-msgpack", b"\xc0", None, 1, None)
        for number, start in enumerate(range(0, n, 500), 1):
            some = ids[start : start + 500]
            broker.publish("producer", number, [Publication("default", call_of_add(id)) for id in some])
            (leased,) = broker.fetch(Fetch("grave.0.digger", number, ("default",), 500)).leased
            assert len(leased.tags) == 500
            broker.settle(
                "grave.0.digger",
                [
                    Settlement("default", tag, id, DEAD, reason="failed", result=record)
                    for tag, id in zip(leased.tags, some, strict=True)
                ],
                results=True,
            )
        return ids
    finally:
        broker.close()


def test_a_retry_that_is_killed_loses_nothing_and_doubles_nothing(tasks: ModuleType, tmp_path: Path) -> None:
    app = tasks.app
    ids = bury(tasks, 5_000)
    inspector = open_inspector(app.broker_url, app.transport_options())
    backend = app.open_backend()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "fastq", "-A", "tasks", "dead", "retry", "--all", "-f"]
    kills = 0
    try:
        for _ in range(3):
            before = inspector.depth("default")["dead"]
            process = subprocess.Popen(
                command, cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
            eventually(
                lambda: process.poll() is not None or inspector.depth("default")["dead"] < before,  # noqa: B023
                "some letters are put back",
                every_s=0,
            )
            process.send_signal(signal.SIGKILL)
            _, said = process.communicate(timeout=60)
            kills += process.returncode == -signal.SIGKILL
            assert process.returncode in (0, -signal.SIGKILL), said
            waiting = [_core.task_id(message) for message in inspector.peek("default", 10_000)]
            lie = [letter.id for letter in app.dead_letters.walk()]
            assert len(waiting) + len(lie) == 5_000 and {*waiting, *lie} == {*ids}
            # a failure goes in the same step as its letter
            failed = [id for id, record in zip(ids, backend.get(ids), strict=True) if record is not None]
            assert set(failed) == set(lie)
        assert kills, "none of the commands could be killed before it had ended"
        done = Worker.command(tmp_path, "dead", "retry", "--all", "-f")
        assert done.returncode == 0, done.stderr
        assert sorted(_core.task_id(message) for message in inspector.peek("default", 10_000)) == ids
        assert inspector.depth("default")["dead"] == 0
    finally:
        inspector.close()
        backend.close()
