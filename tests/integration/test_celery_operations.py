"""Programs as people run them beside Celery (exporter, health check, autoscaler, admin script), changed in the import alone."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastq import FastQ
from fastq.signals import heartbeat_sent, worker_ready
from fastq.worker.control import Panel
from tests.servers import RedisServer
from tests.workers import Worker, eventually

MODULE = """
import os, time
from fastq import FastQ
from fastq.signals import heartbeat_sent, worker_ready
from fastq.worker.control import Panel, control_command, inspect_command

app = FastQ("operated", broker={url!r}, backend={url!r})
app.conf.update(task_send_sent_event=True, worker_send_task_events=True, worker_lease=3)
maintenance = {{"on": False}}


@app.task
def add(x, y):
    return x + y


@app.task
def fail(text):
    raise LookupError(text)


@app.task
def nap(seconds):
    time.sleep(seconds)


@worker_ready.connect
def noted(sender, **kwargs):
    with open("ready", "a") as file:
        file.write(sender.hostname + "\\n")


@heartbeat_sent.connect
def alive(sender, **kwargs):
    pass


@control_command(args=[("on", int)], signature="[ON=1]")
def set_maintenance(state, on=1):
    maintenance["on"] = bool(on)
    return {{"ok": "maintenance " + ("on" if on else "off")}}


@inspect_command(alias="in_maintenance")
def get_maintenance(state, **kwargs):
    return {{"maintenance": maintenance["on"], "app": state.app.main, "host": state.hostname}}


@Panel.register(type="inspect")
def env(state, name="HOME"):
    return os.environ.get(name)
"""

MAIN = """
from operated import app

if __name__ == "__main__":
    app.worker_main(["worker", "-P", "solo", "-n", "w2@h", "-Q", "slow", "--loglevel=INFO"])
"""


class Exporter:
    """What counts for Prometheus: a receiver in a thread, with the state of the cluster."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.state = app.events.State()
        self.tasks: Counter[tuple[str, str]] = Counter()
        self.runtimes: dict[str, float] = {}
        self.heard_of: dict[str, dict[str, Any]] = {}
        self.all: list[dict[str, Any]] = []
        self.receiver: Any = None
        self.listening = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self) -> None:
        with self.app.connection() as connection:
            self.receiver = self.app.events.Receiver(
                connection,
                handlers={
                    "task-sent": self.on_task,
                    "task-received": self.on_task,
                    "task-started": self.on_task,
                    "task-succeeded": self.on_task,
                    "task-failed": self.on_task,
                    "task-revoked": self.on_task,
                    "worker-heartbeat": self.on_worker,
                    "worker-online": self.on_worker,
                    "worker-offline": self.on_worker,
                    "*": self.state.event,
                },
            )
            self.receiver.capture(limit=None, timeout=None, wakeup=True)

    def on_task(self, event: dict[str, Any]) -> None:
        self.all.append(event)
        self.state.event(event)
        task = self.state.tasks.get(event["uuid"])
        self.tasks[task.name, event["type"]] += 1
        if event["type"] == "task-succeeded":
            self.runtimes[event["uuid"]] = task.runtime
            assert task.worker.hostname == event["hostname"]

    def on_worker(self, event: dict[str, Any]) -> None:
        self.state.event(event)
        self.heard_of[event["hostname"]] = event
        self.listening.set()

    def close(self) -> None:
        self.receiver.should_stop = True
        self.thread.join(30)
        assert not self.thread.is_alive()


class Script(Worker):
    """A worker that a script of the application starts, by ``app.worker_main``."""

    def __init__(self, directory: Path, script: str, *words: str) -> None:
        self.directory, self.solo = directory, True
        self.path = directory / f"{'-'.join([script, *words])}.log"
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        with self.path.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, script, *words], cwd=directory, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        self.pid = self.process.pid


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    directory = tmp_path_factory.mktemp("operated")
    panel = (dict(Panel.data), dict(Panel.meta))
    with RedisServer(directory / "redis") as server:
        (directory / "operated.py").write_text(MODULE.format(url=server.url))
        (directory / "main.py").write_text(MAIN)
        sys.path.insert(0, str(directory))
        module: Any = importlib.import_module("operated")
        # its receivers are for the workers, not for the tests that come later in this process
        worker_ready.disconnect(module.noted)
        heartbeat_sent.disconnect(module.alive)
        workers = [Worker(directory, "-n", "w1@h", "-c", "2", app="operated"), Script(directory, "main.py")]
        try:
            for worker in workers:
                worker.wait_ready()
            eventually(lambda: set(module.app.control.nodes()) == {"w1@h", "w2@h"}, "both nodes are known")
            module.workers, module.directory = workers, directory
            yield module
        finally:
            module.app.close()
            for worker in workers:
                worker.__exit__()
            sys.path.remove(str(directory))
            sys.modules.pop("operated", None)
            for known, before in zip((Panel.data, Panel.meta), panel, strict=True):
                known.clear()
                known.update(before)  # type: ignore[arg-type]


@pytest.fixture
def app(tasks: Any) -> FastQ:
    found: FastQ = tasks.app
    return found


def test_an_exporter_counts_tasks_and_workers(tasks: Any, app: Any) -> None:
    exporter = Exporter(app)
    try:
        assert exporter.listening.wait(30)
        eventually(lambda: set(exporter.heard_of) == {"w1@h", "w2@h"}, "both workers say that they are there")
        added = [tasks.add.delay(i, i).id for i in range(5)]
        failed = tasks.fail.delay("no").id
        slow = tasks.add.apply_async((1, 1), queue="slow").id
        counted = exporter.tasks

        def told() -> str:
            frame = sys._current_frames().get(exporter.thread.ident or 0)
            where = "".join(traceback.format_stack(frame)) if frame is not None else "it has ended"
            heard = "\n".join(map(str, exporter.all))
            return "\n".join([f"{counted}", heard, f"the exporter: {where}", *(worker.log for worker in tasks.workers)])

        for type, count in {"task-sent": 6, "task-received": 6, "task-started": 6, "task-succeeded": 6, "task-failed": 0}.items():
            eventually(lambda: counted["operated.add", type] == count, told)  # noqa: B023
        eventually(lambda: counted["operated.fail", "task-failed"] == 1, told)
        state = exporter.state
        assert set(exporter.runtimes) == {*added, slow} and all(0 <= s < 60 for s in exporter.runtimes.values())
        task = state.tasks.get(failed)
        assert (task.name, task.state, task.exception) == ("operated.fail", "FAILURE", "LookupError('no')")
        assert "LookupError: no" in task.traceback
        assert state.tasks.get(slow).worker.hostname == "w2@h" and state.tasks.get("never") is None
        assert set(state.workers) == {"w1@h", "w2@h"} and all(worker.alive for worker in state.workers.values())
        assert {worker.hostname for worker in state.alive_workers()} == {"w1@h", "w2@h"}
        assert state.workers["w1@h"].sw_ident == "fastq" and len(state.workers["w1@h"].loadavg) == 3
        assert sorted(state.task_types()) == ["operated.add", "operated.fail"]
        assert state.task_count == 7 and {uuid for uuid, _ in state.tasks_by_type("operated.fail")} == {failed}
        eventually(lambda: (exporter.heard_of["w1@h"].get("processed") or 0) >= 6, "a heartbeat with the count")
    finally:
        exporter.close()


def test_a_health_check_asks_who_is_there(tasks: Any, app: Any) -> None:
    assert app.control.inspect(timeout=30).ping() == {"w1@h": {"ok": "pong"}, "w2@h": {"ok": "pong"}}
    replies = app.control.ping(timeout=30)
    assert sorted(node for reply in replies for node in reply) == ["w1@h", "w2@h"]
    assert app.control.ping(timeout=0.2, destination=["gone@h"]) == []
    assert app.control.inspect(destination=["gone@h"], timeout=0.2).ping() is None
    stats = app.control.inspect(destination=["w1@h"], timeout=30).stats()
    assert set(stats) == {"w1@h"}
    assert stats["w1@h"]["pool"]["max-concurrency"] == 2 and len(stats["w1@h"]["pool"]["processes"]) == 2
    assert stats["w1@h"]["pid"] == tasks.workers[0].pid and stats["w1@h"]["total"]["operated.add"] >= 5
    assert app.connection().info()["transport"] == stats["w1@h"]["broker"]["transport"] == "redis"
    inspect = app.control.inspect(timeout=30)
    assert inspect.registered_tasks() == inspect.registered()
    assert {queue["name"] for queue in inspect.active_queues()["w2@h"]} == {"slow"}
    assert set((tasks.directory / "ready").read_text().split()) == {"w1@h", "w2@h"}, "worker_ready"


def test_an_autoscaler_script_looks_at_the_load_and_grows_the_pool(tasks: Any, app: Any) -> None:
    running = [tasks.nap.delay(60).id for _ in range(2)]
    later = tasks.nap.apply_async((1,), countdown=3600).id
    inspect = app.control.inspect(["w1@h"], timeout=30)

    def load() -> dict[str, int]:
        asked = {"active": inspect.active(), "reserved": inspect.reserved(), "scheduled": inspect.scheduled()}
        return {name: len((answers or {}).get("w1@h", ())) for name, answers in asked.items()}

    eventually(lambda: load() == {"active": 2, "reserved": 0, "scheduled": 1}, "what the node has")
    assert app.control.pool_grow(1, destination=["w1@h"], reply=True, timeout=30) == [{"w1@h": {"ok": "pool will grow"}}]
    assert app.control.pool_grow(1, destination=["w2@h"], reply=True, timeout=30)[0]["w2@h"]["error"]
    eventually(lambda: len(inspect.stats()["w1@h"]["pool"]["processes"]) == 3, "three processes")
    assert tasks.add.delay(2, 2).get(timeout=30) == 4, "the third takes what the two cannot"
    replies = app.control.autoscale(4, 1, destination=["w1@h"], reply=True, timeout=30)
    assert replies == [{"w1@h": {"ok": "autoscale now max=4 min=1"}}]
    assert {task["id"] for task in inspect.active()["w1@h"]} == set(running)
    # and what an administrator does about tasks that hang
    app.control.revoke(running[0], terminate=True, signal="SIGKILL")
    app.control.terminate(running[1], signal="SIGTERM", reply=True, timeout=30)
    app.control.revoke([later])
    for id in (*running, later):
        eventually(lambda id=id: app.AsyncResult(id).state == "REVOKED", f"{id} is revoked")  # type: ignore[misc]
    eventually(lambda: load() == {"active": 0, "reserved": 0, "scheduled": 0}, "nothing is left")
    assert set(running) | {later} <= set(inspect.revoked()["w1@h"])
    app.control.pool_shrink(1, destination=["w1@h"])


def test_an_admin_script_steers_limits_and_queues(tasks: Any, app: Any) -> None:
    control = app.control
    both = {"w1@h", "w2@h"}
    replies = control.rate_limit("operated.add", "1000/s", reply=True, timeout=30)
    assert {node for reply in replies for node in reply} == both
    assert all(answer == {"ok": "new rate limit set successfully"} for reply in replies for answer in reply.values())
    assert control.rate_limit("operated.add", 0) is None
    assert control.time_limit("operated.add", soft=60, hard=120, reply=True, timeout=30, destination=["w1@h"]) == [
        {"w1@h": {"ok": "time limits set successfully"}}
    ]
    replies = control.add_consumer("reports", reply=True, timeout=30, destination=["w1@h"])
    assert replies == [{"w1@h": {"ok": "add consumer reports"}}]
    assert tasks.add.apply_async((1, 2), queue="reports").get(timeout=30) == 3
    names = {queue["name"] for queue in control.inspect(["w1@h"], timeout=30).active_queues()["w1@h"]}
    assert names == {"default", "reports"}
    replies = control.cancel_consumer("reports", reply=True, timeout=30, destination=["w1@h"])
    assert replies == [{"w1@h": {"ok": "no longer consuming from reports"}}]
    assert {node for reply in control.broadcast("ping", reply=True, timeout=30) for node in reply} == both
    assert control.broadcast("ping", reply=True, timeout=30, limit=1, pattern="w1*") == [{"w1@h": {"ok": "pong"}}]
    heard: list[Any] = []
    control.broadcast("clock", reply=True, timeout=30, callback=heard.append)
    assert {node for reply in heard for node in reply} == both
    (reply,) = control.broadcast("no_such_command", reply=True, timeout=30, destination=["w1@h"])
    assert "error" in reply["w1@h"]
    assert control.broadcast("heartbeat") is None
    for change in (control.disable_events, control.enable_events):
        assert len(change(reply=True, timeout=30)) == 2
    tasks.add.apply_async((1, 1), queue="nobody")
    assert control.inspect(["w1@h"], timeout=30).query_task("never") == {"w1@h": {}}


def test_custom_commands_are_broadcast(tasks: Any, app: Any) -> None:
    replies = app.control.broadcast("set_maintenance", arguments={"on": 1}, reply=True, timeout=30)
    assert sorted(replies, key=str) == [{"w1@h": {"ok": "maintenance on"}}, {"w2@h": {"ok": "maintenance on"}}]
    replies = app.control.broadcast("in_maintenance", reply=True, timeout=30, destination=["w2@h"])
    assert replies == [{"w2@h": {"maintenance": True, "app": "operated", "host": "w2@h"}}]
    assert app.control.broadcast("env", {"name": "NO_SUCH"}, reply=True, timeout=30, destination=["w1@h"]) == [{"w1@h": None}]
    (reply,) = app.control.broadcast("set_maintenance", {"onn": 1}, reply=True, timeout=30, destination=["w1@h"])
    assert "onn" in reply["w1@h"]["error"]


def test_the_application_is_its_own_command_line(tasks: Any, app: Any, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        app.start(["inspect", "ping", "-t", "30", "-d", "w2@h"])
    assert ended.value.code in (0, None)
    assert capfd.readouterr().out.splitlines()[:2] == ["->  w2@h: OK", "    pong"]
    with pytest.raises(SystemExit) as ended:
        app.start(["control", "rate_limit"])
    assert ended.value.code == 2


LAUNCH = """
import sys
from operated import app

if __name__ == "__main__":
    if sys.argv[1] == "beat":
        runs = app.Beat(max_interval=1, loglevel="INFO", quiet=True)
        runs.run()
    else:
        runs = app.Worker(hostname="w3@h", pool="threads", concurrency=2, queues=["third"], include=["looking"], loglevel="INFO")
        runs.start()
    print("ended with", runs.exitcode, flush=True)
"""

LOOKING = """
from fastq.worker import state
from operated import app


@app.task
def look():
    (running,) = state.active_requests
    return [running.id, running.name, running.hostname, len(state.reserved_requests), state.total_count["looking.look"]]
"""


def test_a_program_starts_a_worker_and_a_beat(tasks: Any, app: Any) -> None:
    (tasks.directory / "launch.py").write_text(LAUNCH)
    (tasks.directory / "looking.py").write_text(LOOKING)
    with Script(tasks.directory, "launch.py", "worker") as worker, Script(tasks.directory, "launch.py", "beat") as beat:
        worker.wait_ready()
        # whoever chooses nodes by a pattern finds one that is ready at once
        assert app.control.ping(pattern="w3*", timeout=30) == [{"w3@h": {"ok": "pong"}}]
        result = app.send_task("looking.look", queue="third")
        assert result.get(timeout=30) == [result.id, "looking.look", "w3@h", 1, 1]
        with app.connection() as connection:
            channel = connection.default_channel
            app.send_task("looking.look", queue="unread")
            assert (channel.client.llen("unread"), channel.client.llen("third")) == (1, 0)
            assert channel.queue_declare(queue="third", passive=True) == ("third", 0, 1)
            assert channel.queue_purge("unread") == 1
        beat.wait_log("beat: Starting...")
        for script in (worker, beat):
            os.kill(script.pid, signal.SIGTERM)
            assert script.process.wait(60) == 0
            assert script.log.rstrip().endswith("ended with 0"), script.log


def test_a_node_is_shut_down_by_name(tasks: Any, app: Any) -> None:
    began_s = time.monotonic()
    app.control.shutdown(destination=["w2@h"])
    assert tasks.workers[1].process.wait(60) == 0
    eventually(lambda: set(app.control.nodes()) == {"w1@h"}, "the other one is left")
    assert app.control.broadcast("shutdown", destination=["w1@h"], reply=True, timeout=30) == [{"w1@h": {"ok": "shutting down"}}]
    assert tasks.workers[0].process.wait(60) == 0 and time.monotonic() - began_s < 60
    assert app.control.ping(timeout=0.2) == [] and app.control.inspect(timeout=0.2).active() is None
