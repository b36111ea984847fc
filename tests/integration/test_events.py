"""Events as a monitor sees them: real workers on every pool, from before the first task until after the last."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fastq import _core
from fastq.exceptions import FastQError
from tests.integration.conftest import TASKS
from tests.workers import POOLS, Worker, eventually, load_module, write_module

MORE = """

@app.task(bind=True, max_retries=1)
def again(self):
    if self.request.retries:
        return "done"
    raise self.retry(countdown=0.05, exc=KeyError("first"))


@app.task
def reject(requeue):
    from fastq.exceptions import Reject
    raise Reject("why", requeue=requeue)


@app.task(bind=True)
def tell(self, name):
    self.send_event("task-progress", percent=50)
    await_file(name)


@app.task(send_events=False)
def secret():
    return 1
"""

COMMON = {"type", "timestamp", "hostname", "utcoffset", "pid", "clock", "local_received"}
CALL = {"uuid", "name", "args", "kwargs", "retries", "eta", "expires", "root_id", "parent_id"}
WORKER = {"freq", "active", "processed", "loadavg", "sw_ident", "sw_ver", "sw_sys"}
#: the fields of each event beside those that all have, as Celery has them
FIELDS = {
    "task-received": CALL,
    "task-started": {"uuid"},
    "task-succeeded": {"uuid", "result", "runtime"},
    "task-failed": {"uuid", "exception", "traceback"},
    "task-retried": {"uuid", "exception", "traceback"},
    "task-revoked": {"uuid", "terminated", "signum", "expired"},
    "task-rejected": {"uuid", "requeue"},
    "task-progress": {"uuid", "percent"},
    "worker-online": WORKER,
    "worker-heartbeat": WORKER,
    "worker-offline": WORKER,
}


class Monitor:
    """A receiver in a thread."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.events: list[dict[str, Any]] = []
        self.state = app.events.State()
        self.receiver = app.events.Receiver(app.connection(), handlers={"*": self.take})
        self.thread = threading.Thread(target=self.receiver.capture)
        self.thread.start()

    def take(self, event: dict[str, Any]) -> None:
        self.events.append(event)
        self.state.event(event)

    def of(self, uuid: str) -> list[str]:
        return [event["type"] for event in self.events if event.get("uuid") == uuid]

    def one(self, type: str, uuid: str) -> dict[str, Any]:
        return next(event for event in self.events if event["type"] == type and event.get("uuid") == uuid)

    def wait(self, condition: Callable[[], object], what: str) -> None:
        eventually(condition, lambda: f"{what}; heard:\n" + "\n".join(map(str, self.events[-30:])))

    def close(self) -> None:
        self.receiver.should_stop = True
        self.thread.join(30)


@pytest.fixture
def tasks(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.setenv("TEST_BROKER", redis_url)
    monkeypatch.setenv("TEST_FOLDER", str(tmp_path))
    module: ModuleType = load_module(write_module(tmp_path, "tasks", TASKS + MORE), monkeypatch)
    yield module
    module.app.close()


@pytest.fixture
def monitor(tasks: ModuleType) -> Iterator[Monitor]:
    found = Monitor(tasks.app)
    yield found
    found.close()


def told(app: Any) -> list[bool]:
    """Return, for each node, whether it says that events are on."""
    channel = app.events.open_channel()
    try:
        return [_core.unpackb(record.info)["events"] for record in channel.nodes().values()]
    finally:
        channel.close()


@pytest.mark.parametrize("pool", POOLS)
def test_a_monitor_hears_the_whole_life_of_every_task(pool: str, tasks: ModuleType, monitor: Monitor, tmp_path: Path) -> None:
    slots = () if pool == "solo" else ("-c", "1" if pool == "prefork" else "4")
    with Worker(tmp_path, "-P", pool, *slots, "-E", "-n", "w1@%h") as worker:
        worker.wait_ready()
        assert "task events: ON" in worker.log
        monitor.wait(lambda: any(event["type"] == "worker-online" for event in monitor.events), "worker-online")
        good = [tasks.add.delay(i, y=2).id for i in range(3)]
        bad, again = tasks.fail.delay("no").id, tasks.again.delay().id
        rejected = tasks.reject.delay(False).id
        late = tasks.add.apply_async((1, 1), expires=-1).id
        silent = tasks.secret.delay().id
        lasting = tasks.tell.delay("lasting").id
        # a task that runs is told of while it runs, not only when it has ended
        monitor.wait(lambda: "task-started" in monitor.of(lasting), "a long task has started")
        assert "task-succeeded" not in monitor.of(lasting)
        behind = tasks.tell.delay("behind").id
        (tmp_path / "lasting").touch()
        monitor.wait(lambda: "task-started" in monitor.of(behind), "a long task has started behind another, perhaps in its record")
        assert "task-succeeded" not in monitor.of(behind)
        (tmp_path / "behind").touch()
        for id in good:
            monitor.wait(lambda id=id: len(monitor.of(id)) == 3, "the life of a task")  # type: ignore[misc]
            assert monitor.of(id) == ["task-received", "task-started", "task-succeeded"]
            times = [event["timestamp"] for event in monitor.events if event.get("uuid") == id]
            assert times == sorted(times)
        first = monitor.one("task-received", good[0])
        assert (first["name"], first["args"], first["kwargs"], first["retries"]) == ("tasks.add", "(0,)", "{'y': 2}", 0)
        assert monitor.one("task-succeeded", good[1])["result"] == "3"
        monitor.wait(lambda: len(monitor.of(bad)) == 3, "a failure")
        assert monitor.of(bad)[-1] == "task-failed"
        failed = monitor.one("task-failed", bad)
        assert failed["exception"] == "ValueError('no')"
        assert "raise ValueError(text)\nValueError: no" in failed["traceback"]
        life = ["task-received", "task-started", "task-retried", "task-received", "task-started", "task-succeeded"]
        monitor.wait(lambda: len(monitor.of(again)) == 6, "a retry")
        assert monitor.of(again) == life
        assert monitor.one("task-retried", again)["exception"] == "KeyError('first')"
        monitor.wait(lambda: len(monitor.of(rejected)) == 3, "a rejection")
        assert monitor.of(rejected) == ["task-received", "task-started", "task-rejected"]
        assert monitor.one("task-rejected", rejected)["requeue"] is False
        monitor.wait(lambda: len(monitor.of(late)) == 2, "an expired task")
        assert monitor.of(late) == ["task-received", "task-revoked"]
        revoked = monitor.one("task-revoked", late)
        assert (revoked["expired"], revoked["terminated"], revoked["signum"]) == (True, False, None)
        monitor.wait(lambda: len(monitor.of(lasting)) == 4, "the end of a long task")
        assert sorted(monitor.of(lasting)) == ["task-progress", "task-received", "task-started", "task-succeeded"]
        assert monitor.one("task-progress", lasting)["percent"] == 50
        assert monitor.one("task-started", lasting)["pid"] in ([*worker.pool_pids(), worker.pid])
        if pool == "prefork":  # twice it goes back to its queue, the third death is its end
            lost = tasks.die.delay("x").id
            monitor.wait(lambda: "task-failed" in monitor.of(lost), "the end of a task that kills its processes")
            assert "WorkerLostError: " in monitor.one("task-failed", lost)["exception"]
        assert worker.terminate() == 0
    monitor.wait(lambda: monitor.events[-1]["type"] == "worker-offline", "worker-offline")
    assert monitor.of(silent) == []
    for event in monitor.events:
        assert set(event) == COMMON | FIELDS[event["type"]], event
    assert {event["hostname"] for event in monitor.events if event["type"] != "task-progress"} == {worker_name(monitor)}
    assert monitor.state.tasks[good[0]].state == "SUCCESS"
    assert [task.state for _, task in monitor.state.tasks_by_type("tasks.fail")] == ["FAILURE"]


def worker_name(monitor: Monitor) -> str:
    return next(str(event["hostname"]) for event in monitor.events if event["type"] == "worker-online")


def test_events_begin_and_end_with_who_listens_and_with_commands(
    tasks: ModuleType, redis_url: str, redis_server: Any, tmp_path: Path
) -> None:
    app = tasks.app
    with Worker(tmp_path, "-P", "prefork", "-c", "1", env={"TEST_LEASE": "3"}) as worker:
        worker.wait_ready()
        eventually(lambda: told(app) == [False], "the node says that its events are off")
        dump = subprocess.Popen(
            [sys.executable, "-m", "fastq", "-A", "tasks", "events", "--json"], cwd=tmp_path, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )  # fmt: skip
        assert dump.stdout is not None and dump.stderr is not None
        try:
            assert json.loads(dump.stdout.readline())["type"] == "worker-online"
            assert "start it with -E, or run fastq control enable_events" in dump.stderr.readline()
            for said in ("task events enabled", "task events already enabled"):
                assert app.control.enable_events(reply=True, timeout=30)[0].popitem()[1] == {"ok": said}
            ids = []

            def heard() -> bool:
                # what runs before the order has come to the process is not told
                ids.append(tasks.add.delay(1, 1).get(timeout=30) and "")
                return any(json.loads(line)["type"] == "task-succeeded" for line in _lines(dump, 0.5))

            eventually(heard, "a task is told of")
            dump.send_signal(signal.SIGINT)
            assert dump.wait(30) == 0
        finally:
            dump.kill()
            dump.communicate()
        # who listened has said that it does not any more: the next heartbeat ends what is told
        stream = _stream_length(app, redis_url)

        def silent() -> bool:
            nonlocal stream
            before, stream = stream, _told_of(tasks, redis_url)
            return stream == before

        eventually(silent, "nothing is told any more", every_s=0.5)
        assert app.control.disable_events(reply=True, timeout=30)[0].popitem()[1] == {"ok": "task events disabled"}
        eventually(lambda: told(app) == [False], "the node says that its events are off")
        assert worker.terminate() == 0


def _lines(process: subprocess.Popen[str], within_s: float) -> Iterator[str]:
    import select

    assert process.stdout is not None
    deadline = time.monotonic() + within_s
    while (left_s := deadline - time.monotonic()) > 0:
        if select.select([process.stdout], [], [], left_s)[0] and (line := process.stdout.readline()):
            yield line


def _stream_length(app: Any, redis_url: str) -> int:
    import redis

    with redis.Redis.from_url(redis_url) as client:
        (key,) = client.keys("*events") or [b"none"]
        return int(client.xlen(key))  # type: ignore[arg-type]


def _told_of(tasks: ModuleType, redis_url: str) -> int:
    tasks.add.delay(1, 1).get(timeout=30)
    time.sleep(0.3)  # three flushes
    return _stream_length(tasks.app, redis_url)


def test_a_reader_that_is_slow_does_not_slow_the_worker_and_the_cap_holds(
    tasks: ModuleType, redis_url: str, tmp_path: Path
) -> None:
    app = tasks.app
    receiver = app.events.Receiver(handlers={"*": lambda event: gate.wait(60)})
    gate = threading.Event()
    thread = threading.Thread(target=receiver.capture)
    thread.start()
    try:
        with Worker(tmp_path, "-P", "threads", "-c", "4", "-E", "event_stream_max=10", "event_rate_max=1000") as worker:
            worker.wait_ready()
            channel = app.events.open_channel()
            eventually(lambda: channel.listened(), "somebody listens")
            for _ in range(10):
                # no result waits for the reader, which has not come beyond its first event
                assert app.tasks["tasks.add"].delay_many([(i, 1) for i in range(500)]).get(timeout=60)[-1] == 500
                time.sleep(0.1)
            eventually(lambda: _stream_length(app, redis_url) > 1, "batches come")
            # Redis trims whole nodes of a stream: "about"
            assert _stream_length(app, redis_url) <= 110
            channel.close()
            assert worker.terminate() == 0
        assert "Traceback" not in worker.log
    finally:
        receiver.should_stop = True
        gate.set()
        thread.join(60)


def test_wrong_options_are_refused(tasks: ModuleType, tmp_path: Path) -> None:
    for arguments, code, text in (
        (("--camera", "nowhere.Camera"), 2, "no camera 'nowhere.Camera'"),
        (("--camera", "fastq.events.snapshot.Polaroid", "-r", "often"), 2, "is no rate"),
        (("--camera", "x.Y", "--dump"), 2, "give one of them"),
    ):
        done = Worker.command(tmp_path, "events", *arguments)
        assert (done.returncode, text in done.stderr) == (code, True), done


def test_events_of_a_broker_that_does_not_answer_are_dropped_not_waited_for() -> None:
    from fastq import FastQ

    app = FastQ("unreachable", broker="redis://127.0.0.1:1/0", set_as_current=False)
    began = time.monotonic()
    with app.events.default_dispatcher() as dispatcher:
        for _ in range(100):
            dispatcher.send("task-x")
    assert time.monotonic() - began < 5
    with pytest.raises(FastQError):
        app.events.Receiver().capture(timeout=1)
    app.close()
