"""Pausing with real workers and the command line."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

from fastq.records import RETURN, Fetch, Lease, Settlement
from fastq.transports import open_inspector
from tests.integration.conftest import ran
from tests.workers import Worker, eventually


def depth(module: ModuleType, queue: str = "default") -> dict[str, int]:
    inspector = open_inspector(module.app.broker_url, module.app.transport_options())
    try:
        return inspector.depth(queue)
    finally:
        inspector.close()


def test_a_paused_queue_and_a_paused_task_rest_and_the_others_run(tasks: ModuleType, tmp_path: Path, folder: Path) -> None:
    control = tasks.app.control
    assert control.pause_task("tasks.mark").tasks.keys() == {"tasks.mark"}, "no worker is needed"
    with Worker(tmp_path, "-P", "threads", "-c", "2", "-l", "INFO", "-Q", "default,other").wait_ready():
        marks = [tasks.mark.delay(f"m{i}") for i in range(5)]
        assert tasks.add.delay(1, 2).get(timeout=30) == 3, "other tasks of the queue run"
        eventually(lambda: depth(tasks)["delayed"] == 5, "the paused ones to be put aside")
        assert not ran(folder, "m")
        ((_, scheduled),) = control.inspect(timeout=30, limit=1).scheduled().items()
        assert scheduled == [], "they are not due at any time"
        ((_, found),) = control.inspect(timeout=30, limit=1).query_task(marks[0].id).items()
        assert found[marks[0].id][0] == "paused"
        urgent = tasks.mark.apply_async(("urgent",), priority=9)
        marks[3].revoke()
        control.pause_queue("other")
        late = tasks.add.apply_async((5, 5), queue="other")
        assert tasks.add.delay(2, 2).get(timeout=30) == 4
        assert late.state == "PENDING" and depth(tasks, "other")["ready"] == 1
        answer = Worker.command(tmp_path, "pause", "--list", "--json")
        assert answer.returncode == 0, answer.stderr
        shown = json.loads(answer.stdout)
        assert list(shown["queues"]) == ["other"] and list(shown["tasks"]) == ["tasks.mark"]
        assert late.state == "PENDING"
        control.resume_queue("other")
        assert late.get(timeout=30) == 10
        answer = Worker.command(tmp_path, "resume", "--all")
        assert answer.returncode == 0 and "Nothing is paused." in answer.stdout, answer.stderr
        assert urgent.get(timeout=30) == "urgent"
        assert [marks[i].get(timeout=30) for i in (0, 1, 2, 4)] == ["m0", "m1", "m2", "m4"]
        assert ran(folder, "m") == ["m0", "m1", "m2", "m4"]
        assert depth(tasks) == {"ready": 0, "delayed": 0, "leased": 0, "dead": 0}
        assert control.paused().number == 0


def test_a_busy_worker_puts_back_what_it_holds_of_a_paused_name(tasks: ModuleType, tmp_path: Path, folder: Path) -> None:
    with Worker(tmp_path, "-P", "prefork", "-c", "1", "-l", "INFO").wait_ready():
        for _ in range(3):
            assert [r.get(timeout=30) for r in [tasks.add.delay(i, 0) for i in range(50)]] == list(range(50))
        running = tasks.hold.delay("gate")
        eventually(lambda: ran(folder, "holding-gate"), "the task to start")
        behind = [tasks.add.delay(i, 1) for i in range(5)]
        tasks.app.control.pause_task("tasks.add")
        (folder / "gate").touch()
        assert running.get(timeout=30) == "gate"
        assert tasks.mark.delay("other").get(timeout=30) == "other"
        eventually(lambda: depth(tasks)["delayed"] == 5, "the paused ones to be put aside")
        tasks.app.control.resume_task("tasks.add")
        assert [result.get(timeout=30) for result in behind] == [1, 2, 3, 4, 5]


def test_the_commands_say_what_is_wrong(tasks: ModuleType, tmp_path: Path) -> None:
    for arguments, code, text in (
        (("pause",), 2, "Say what is to rest"),
        (("pause", "--list", "-Q", "a"), 2, "leave out -Q"),
        (("resume",), 2, "Say what is to go on"),
        (("resume", "-Q", "a"), 1, "queue 'a' was not paused"),
        (("pause", "-T", "tasks.addd"), 0, "Did you mean 'tasks.add'?"),
        (("pause", "-Q", "a,b"), 0, "queue b: paused since"),
        (("resume", "-Q", "aa"), 1, "Did you mean 'a'?"),
        (("pause", "--list"), 0, "task tasks.addd: paused since"),
        (("resume", "--all"), 0, "Nothing is paused."),
    ):
        answer = Worker.command(tmp_path, *arguments)
        assert answer.returncode == code, (arguments, answer.stdout, answer.stderr)
        assert text in answer.stdout + answer.stderr, (arguments, answer.stdout, answer.stderr)


#: a client that is killed in the middle of putting back
DIES = """
import os, signal
import tasks
broker = tasks.app.open_broker()
kind, before, steps = type(broker), type(broker).unpark, []
def unpark(self):
    more = before(self)
    steps.append(more)
    if len(steps) == 2:
        assert more, "it would have been done"
        os.kill(os.getpid(), signal.SIGKILL)
    return more
kind.unpark = unpark
tasks.app.control.resume_task("tasks.note")
"""

#: leaves its runs in one file, in their order
NOTE = """

@app.task(ignore_result=True)
def note(number):
    with open(os.path.join(FOLDER, "notes"), "a") as file:
        file.write(f"{number}\\n")
"""


def test_a_resume_whose_client_was_killed_is_finished_by_the_nodes_and_all_run_once_in_their_order(
    tasks: ModuleType, tmp_path: Path, folder: Path, broker_url: str
) -> None:
    (tmp_path / "tasks.py").write_text((tmp_path / "tasks.py").read_text() + NOTE)
    note = tasks.app.task(name="tasks.note", ignore_result=True)(lambda number: None)
    control, notes = tasks.app.control, folder / "notes"
    many = 1100 if broker_url.startswith("redis") else 2100  # more than two steps

    def put_aside(first: int, process: str) -> list[int]:
        control.pause_task("tasks.note")
        note.delay_many([(first + i,) for i in range(many)])
        broker = tasks.app.open_broker()  # as a worker does that meets a paused name
        broker.renew(["default"], [process], 2000)
        for number in range(1, 100):
            (leased,) = broker.fetch(Fetch(process, number, ("default",), 500)).leased or [None]
            if leased is None:
                break
            parked = [Settlement("default", tag, "", RETURN, reason="tasks.note") for tag in leased.tags]
            broker.settle(process, parked, results=False)
        broker.condemn([Lease("default", process, "")])
        broker.release("default", process, {})
        broker.close()
        assert depth(tasks)["delayed"] == many
        return list(range(first, first + many))

    def client_dies() -> None:
        ended = subprocess.run([sys.executable, "-c", DIES], cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert ended.returncode == -signal.SIGKILL, ended.stderr

    def all_run(expected: list[int], *, in_order: bool) -> None:
        eventually(lambda: notes.exists() and notes.read_text().count("\n") >= len(expected), lambda: f"{control.paused()}")
        eventually(lambda: depth(tasks) == {"ready": 0, "delayed": 0, "leased": 0, "dead": 0}, lambda: f"{depth(tasks)}")
        got = [int(line) for line in notes.read_text().split()]
        assert (got if in_order else sorted(got)) == expected
        assert control.paused().number == 0

    first = put_aside(0, "one")
    with Worker(tmp_path, "-P", "threads", "-c", "1", "-l", "INFO").wait_ready():
        client_dies()
        all_run(first, in_order=False)
    notes.unlink()
    second = put_aside(many, "two")
    client_dies()
    paused = control.paused()
    assert paused.resuming.keys() == {"tasks.note"} and paused.held == {"default"}
    listed = Worker.command(tmp_path, "pause", "--list")
    assert "task tasks.note: resumed" in listed.stdout and "goes back to default" in listed.stdout, listed
    note.delay(-1)
    # whoever holds nothing gives nothing back, which others might overtake
    with Worker(tmp_path, "-P", "threads", "-c", "1", "-l", "INFO", "--prefetch", "0").wait_ready():
        all_run([*second, -1], in_order=True)
