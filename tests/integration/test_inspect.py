"""What nodes answer, on every pool while they are busy: one worker a test, asked for everything."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import redis

from fastq import FastQ
from fastq.testing import start_worker
from fastq.worker.control import inspect_command
from tests.integration.conftest import ran
from tests.workers import POOLS, Worker, eventually

COMMANDS = '''\
from fastq.worker.control import control_command, inspect_command

@control_command(args=[("n", int)], signature="[N=1]")
def bump(state, n=1):
    """Count up."""
    state.app.bumped = getattr(state.app, "bumped", 0) + n
    return {"ok": state.app.bumped}

@inspect_command()
def where(state):
    return [state.hostname, "tasks.add" in state.tasks, (1, 2)]

@inspect_command()
def broken(state):
    raise LookupError("on purpose")
'''

TASK_FIELDS = {
    "id", "name", "type", "args", "kwargs", "hostname", "time_start", "acknowledged", "delivery_info", "worker_pid",
}  # fmt: skip


@pytest.fixture
def broker_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Redis, or the embedded broker where a test says so."""
    if getattr(request, "param", "redis") == "sqlite":
        return f"sqlite:///{tmp_path / 'fastq.db'}"
    return str(request.getfixturevalue("redis_url"))


@pytest.fixture
def ask(tasks: ModuleType) -> Callable[..., Any]:
    """Ask the one node there is."""

    def ask(command: str, **arguments: Any) -> Any:
        replies = tasks.app.control.broadcast(command, arguments=arguments, reply=True, timeout=15)
        assert len(replies) == 1, replies
        ((node, payload),) = replies[0].items()
        assert node.startswith("w1@")
        return payload

    return ask


@pytest.mark.parametrize(
    ("pool", "broker_url"), [*((pool, "redis") for pool in POOLS), ("solo", "sqlite")], indirect=["broker_url"]
)
def test_a_busy_node_answers_everything_exactly(
    pool: str, tasks: ModuleType, tmp_path: Path, folder: Path, ask: Callable[..., Any]
) -> None:
    (tmp_path / "commands.py").write_text(COMMANDS)
    # plain functions of asyncio run on its loop's own thread, one at a time
    busy = 1 if pool in ("solo", "asyncio") else 2
    with Worker(tmp_path, "-P", pool, "-c", str(busy), "-n", "w1", "-Q", "default,other", "-I", "commands", "-l", "INFO") as worker:
        worker.wait_ready()
        running = [tasks.wait_for.apply_async((f"gate-{i}",), priority=3) for i in range(busy)]
        due = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=1000)
        late = tasks.add.apply_async((1, 2), eta=due, queue="other")
        eventually(lambda: len(ran(folder, "waiting-")) == busy, "tasks run")
        gone = tasks.add.apply_async((1, 2), countdown=900)
        gone.revoke()
        pids = worker.pool_pids()

        # while the slots are busy, solo's main thread among them
        assert ask("ping") == {"ok": "pong"}
        active = ask("active")
        assert sorted(task["id"] for task in active) == sorted(result.id for result in running)
        for task in active:
            assert set(task) == TASK_FIELDS
            assert (task["name"], task["type"], task["kwargs"]) == ("tasks.wait_for", "tasks.wait_for", {})
            assert task["args"] == [f"gate-{[r.id for r in running].index(task['id'])}"]
            assert task["hostname"].startswith("w1@") and task["acknowledged"] is True and task["worker_pid"] in pids
            assert abs(task["time_start"] - datetime.datetime.now().timestamp()) < 60
            assert task["delivery_info"] == {"exchange": "", "routing_key": "default", "priority": 3, "redelivered": False}
        assert ask("reserved") == []
        (scheduled,) = ask("scheduled")
        assert scheduled["priority"] == 6
        assert abs(datetime.datetime.fromisoformat(scheduled["eta"]) - due) < datetime.timedelta(seconds=1)
        assert scheduled["request"] == {
            "id": late.id, "name": "tasks.add", "type": "tasks.add", "args": [1, 2], "kwargs": {}, "hostname": task["hostname"],
            "time_start": None, "acknowledged": False, "worker_pid": None,
            "delivery_info": {"exchange": "", "routing_key": "other", "priority": 0, "redelivered": False},
        }  # fmt: skip
        found = ask("query_task", ids=[running[0].id, late.id, "nosuch"])
        assert set(found) == {running[0].id, late.id}
        assert found[running[0].id][0] == "active" and found[running[0].id][1] in active
        assert found[late.id] == ["scheduled", scheduled["request"]]
        assert ask("revoked") == [gone.id]
        default, other = ask("active_queues")
        assert len(default) == 20 and (default["name"], other["name"], other["routing_key"]) == ("default", "other", "other")
        exchange = default["exchange"]
        assert len(exchange) == 8 and (exchange["name"], exchange["type"]) == ("default", "direct")
        stats = ask("stats")
        assert stats["pid"] == worker.pid and stats["total"] == {"tasks.wait_for": busy} and stats["uptime"] > 0
        assert stats["pool"]["max-concurrency"] == busy and stats["pool"]["processes"] == pids
        assert stats["broker"]["transport"] in ("redis", "sqlite") and stats["rusage"]["utime"] > 0
        assert ask("clock")["clock"] > 0 and ask("hello", from_node="x@y")["revoked"] == {}

        # what the application knows: its process answers, in a thread where its main thread is busy
        if pool != "asyncio":  # there the nursery answers as well, but so it does below
            assert "tasks.add" in ask("registered") and not [name for name in ask("registered") if name.startswith("fastq.")]
        assert "tasks.add [name=tasks.add]" in ask("registered", taskinfoitems=["name"])
        assert "fastq.chunks" in str(ask("registered", builtins=True))
        assert ask("conf")["worker_lease"] == 2.0 and "task_acks_late" not in ask("conf")
        assert ask("conf", with_defaults=True)["task_acks_late"] is True
        assert "fastq:" in ask("report")["ok"]
        assert [ask("bump"), ask("bump", n=4)] == [{"ok": 1}, {"ok": 5}]
        assert ask("where") == [task["hostname"], True, [1, 2]]
        assert ask("broken") == {"error": "LookupError: on purpose"}
        assert ask("wher") == {"error": "unknown command 'wher' (did you mean 'where'?)"}
        assert "got an unexpected keyword argument 'x'" in ask("ping", x=1)["error"]
        assert "memsample" in ask("memdump")["error"] and "worker process" in ask("objgraph")["error"]
        sample = ask("memsample")
        assert sample["rss"].endswith("MB") and sorted(sample["processes"]) == sorted(map(str, pids))
        assert ask("heartbeat") == {"ok": "heartbeat sent"}
        if pool == "solo":
            assert "one process" in ask("pool_restart")["error"]

        assert ask("shutdown") == {"ok": "shutting down"}
        worker.wait_log("Warm shutdown")
        assert ask("ping") == {"ok": "pong"}, "a node that finishes its tasks still answers"
        for i in range(busy):
            (folder / f"gate-{i}").touch()
        assert worker.process.wait(60) == 0, worker.log
        assert [result.get(timeout=30) for result in running] == [f"gate-{i}" for i in range(busy)]
        assert tasks.app.control.broadcast("ping", reply=True, timeout=0.3) == []
        # the command that is broken, and nothing else
        assert worker.log.count("Traceback") == 1 and "Got shutdown from remote" in worker.log


def test_signed_requests_are_obeyed_after_a_lost_connection_too_and_processes_are_replaced(
    tasks: ModuleType, tmp_path: Path, folder: Path, broker_url: str, ask: Callable[..., Any]
) -> None:
    key = {"FASTQ_SECURITY_KEY": "a secret that the worker knows"}
    with Worker(tmp_path, "-c", "2", "-n", "w1", "-l", "INFO", env=key).wait_ready() as worker:
        stranger = FastQ("stranger", broker=broker_url)
        assert not stranger.control.ping(timeout=0.3)
        worker.wait_log("A control request was not obeyed")
        tasks.app.conf.update(security_key=key["FASTQ_SECURITY_KEY"])
        assert ask("ping") == {"ok": "pong"}

        with redis.Redis.from_url(broker_url) as server:
            server.client_kill_filter(_type="pubsub")
        eventually(lambda: tasks.app.control.broadcast("ping", reply=True, timeout=0.3), "heard again")

        running = tasks.wait_for.delay("gate")
        eventually(lambda: ran(folder, "waiting-"), "a task runs")
        before = set(worker.pool_pids())
        assert "cannot be loaded again" in ask("pool_restart", modules=["x"], reload=True)["error"]
        assert ask("pool_restart") == {"ok": "2 processes are being replaced, one after the other"}
        (folder / "gate").touch()
        assert running.get(timeout=30) == "gate"
        eventually(lambda: len(worker.pool_pids()) == 2 and not before & set(worker.pool_pids()), "both were replaced")
        assert tasks.add.delay(2, 3).get(timeout=30) == 5
        assert worker.terminate() == 0


def test_a_node_without_remote_control_says_how_it_is_all_the_same(
    tasks: ModuleType, tmp_path: Path, ask: Callable[..., Any]
) -> None:
    with Worker(tmp_path, "-P", "solo", "-n", "w1", "worker.enable_remote_control=no").wait_ready() as worker:
        channel = _channel(tasks.app)
        eventually(lambda: channel.nodes(), "it is known")
        assert tasks.app.control.broadcast("ping", reply=True, timeout=0.3) == []
        assert worker.terminate() == 0
        assert channel.nodes() == {}, "it has left"
        channel.close()


def _channel(app: FastQ) -> Any:
    from fastq.transports import open_channel

    return open_channel(app.broker_url, app.transport_options())


@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_a_worker_inside_a_test_answers_too(pool: str) -> None:
    app = FastQ("inside", broker="memory://inside", backend="memory://inside")

    @app.task(name="inside.ask")
    def ask_myself() -> Any:
        return app.control.inspect(timeout=10).active()

    @inspect_command(name="inside")
    def inside(state: Any) -> Any:
        return state.app is app

    with start_worker(app, pool=pool, concurrency=1, hostname="t1@here") as worker:
        result = ask_myself.delay()
        (active,) = result.get(timeout=30)["t1@here"]
        assert active["id"] == result.id and active["acknowledged"] is True
        inspect = app.control.inspect(timeout=10)
        assert inspect.ping() == {"t1@here": {"ok": "pong"}}
        assert inspect.registered() == {"t1@here": ["inside.ask"]}
        assert inspect.stats()["t1@here"]["total"] == {"inside.ask": 1}
        assert app.control.broadcast("inside", reply=True, timeout=10) == [{"t1@here": True}]
        assert app.control.broadcast("shutdown", reply=True, timeout=10) == [{"t1@here": {"ok": "shutting down"}}]
        eventually(lambda: not worker.is_alive(), "it has stopped")
    assert _channel(app).nodes() == {}
