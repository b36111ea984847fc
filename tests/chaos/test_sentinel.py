"""A failover, by kill -9 of the primary or by an operator: workers and callers go on by themselves, nothing is lost."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fastq.exceptions import OperationalError
from tests.integration.conftest import TASKS, ran
from tests.sentinels import Watched
from tests.servers import RedisServer
from tests.workers import Worker, eventually, load_module, write_module


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    with Watched(tmp_path / "servers", sentinels=1) as watched:
        yield watched


@pytest.fixture
def tasks(watched: Watched, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    for name, value in (("TEST_BROKER", watched.url), ("TEST_FOLDER", str(folder)), ("TEST_LEASE", "2")):
        monkeypatch.setenv(name, value)
    module: ModuleType = load_module(write_module(tmp_path, "tasks", TASKS), monkeypatch)
    # a failover takes longer than the retries that a caller has by default
    module.app.conf.task_publish_retry_policy = {"max_retries": None, "interval_max": 0.5}
    yield module
    module.app.close()


class Sender:
    """Sends tasks one after the other, as a program that knows nothing of failovers; every call succeeds, some late."""

    def __init__(self, tasks: ModuleType) -> None:
        self.results: list[Any] = []
        self.errors: list[BaseException] = []
        self._tasks = tasks
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stop.wait(0.01):
                self.results.append(self._tasks.mark.delay(f"sent-{len(self.results)}"))
        except BaseException as error:
            self.errors.append(error)

    def stop(self) -> list[Any]:
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive()
        assert not self.errors
        return self.results


def scripts_run_by_clients(server: RedisServer) -> int:
    """Return how many scripts a server was sent; what is replicated to it are single commands."""
    with contextlib.closing(server.client()) as client:
        stats = client.info("commandstats")
    return sum(entry["calls"] for name, entry in stats.items() if name in ("cmdstat_evalsha", "cmdstat_eval"))


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "asyncio"])
def test_a_killed_primary_loses_nothing_that_its_replica_had(
    pool: str, watched: Watched, tasks: ModuleType, tmp_path: Path, folder: Path
) -> None:
    old = watched.primary
    with Worker(tmp_path, "-P", pool, "-c", "1", "-l", "INFO").wait_ready() as worker:
        running = tasks.wait_for.delay("gate")
        eventually(lambda: ran(folder, "waiting-gate"), "the task running")
        waiting = [tasks.mark.delay(f"before-{i}") for i in range(50)]
        got: list[Any] = []
        waiter = threading.Thread(target=lambda: got.append(running.get(timeout=60)), daemon=True)
        waiter.start()
        watched.in_step(old)
        old.kill()
        sender = Sender(tasks)
        eventually(lambda: len(sender.results) > 20, "calls that succeed again")
        (folder / "gate").touch()
        waiter.join(60)
        assert got == ["gate"], f"get() waited across the failover; the worker's log:\n{worker.log}"
        assert [r.get(timeout=60) for r in waiting] == [f"before-{i}" for i in range(50)]
        assert [r.get(timeout=60) for r in sender.stop()]
        if pool == "prefork":  # a matter of connections, the same on every pool, and it takes sentinels 10 s
            old_primary_comes_back(watched, tasks, old)
        assert ran(folder, "waited-") == ["waited-gate"], "it ran on through the failover, once"
        assert worker.terminate() == 0, worker.log


def old_primary_comes_back(watched: Watched, tasks: ModuleType, old: RedisServer) -> None:
    """Started again it thinks for a moment that it is the primary; nobody writes there, and it becomes a replica."""
    old.start()
    late = Sender(tasks)
    eventually(lambda: watched.role(old) == "slave", "the old primary made a replica")
    assert [r.get(timeout=60) for r in late.stop()]
    assert scripts_run_by_clients(old) == 0


def test_a_primary_that_is_moved_loses_nothing_at_all_with_a_replica_waited_for(
    watched: Watched, tasks: ModuleType, tmp_path: Path, folder: Path
) -> None:
    tasks.app.conf.broker_wait_replicas = 1
    tasks.app.conf.broker_wait_replicas_timeout = 0.2
    old = watched.primary
    with Worker(tmp_path, "-P", "asyncio", "-c", "2", "-l", "INFO").wait_ready() as worker:
        running = tasks.wait_for.delay("gate")
        eventually(lambda: ran(folder, "waiting-gate"), "the task running")
        sender = Sender(tasks)
        eventually(lambda: len(sender.results) > 20, "tasks sent before")
        new = watched.switch()
        # With the old primary gone there is no replica until it has become one: calls wait for that.
        count = len(sender.results)
        eventually(lambda: len(sender.results) > count + 20, "calls that succeed again")
        assert watched.role(old) == "slave"
        (folder / "gate").touch()
        results = sender.stop()
        assert [r.get(timeout=60) for r in results] == [f"sent-{i}" for i in range(len(results))]
        assert running.get(timeout=60) == "gate"
        assert scripts_run_by_clients(new) > 0
        assert worker.terminate() == 0, worker.log


def test_a_moved_primary_is_followed_before_it_drops_its_clients(watched: Watched, tasks: ModuleType, tmp_path: Path) -> None:
    """SENTINEL FAILOVER makes the old primary a replica some 8 s late; what is sent there until then would be thrown away."""
    old = watched.primary
    with Worker(tmp_path, "-P", "threads", "-c", "4", "-l", "INFO").wait_ready() as worker:
        assert tasks.add.delay(1, 2).get(timeout=60) == 3
        watched.in_step(old)
        new = watched.switch()
        assert [tasks.add.delay(i, i).get(timeout=60) for i in range(20)] == [2 * i for i in range(20)]
        assert scripts_run_by_clients(new) >= 20
        assert worker.terminate() == 0, worker.log


def test_a_node_is_asked_steered_and_heard_after_a_failover_as_before(watched: Watched, tasks: ModuleType, tmp_path: Path) -> None:
    control, heard = tasks.app.control, set[str]()
    receiver = tasks.app.events.Receiver(handlers={"task-succeeded": lambda event: heard.add(event["uuid"])})

    def listen() -> None:
        while not receiver.should_stop:
            with contextlib.suppress(OperationalError):  # it goes on where it was
                receiver.capture()

    def answers() -> bool:
        with contextlib.suppress(OperationalError):  # there is no primary yet
            return bool(control.inspect(timeout=5).ping() == {"w@h": {"ok": "pong"}})
        return False

    def takes_from(queue: str) -> bool:
        """The node answers as soon as its ear is there, and takes orders that need the broker when the rest is there too."""
        (reply,) = control.add_consumer(queue, reply=True, timeout=30)
        return "ok" in reply["w@h"]

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        with Worker(tmp_path, "-P", "threads", "-c", "1", "-E", "-n", "w@h", "-l", "INFO").wait_ready() as worker:
            for queue in ("before", "after"):
                eventually(answers, lambda: f"an answer\n{worker.log}")
                eventually(lambda queue=queue: takes_from(queue), lambda: f"it takes from a queue more\n{worker.log}")  # type: ignore[misc]
                sent: list[Any] = []

                def told(queue: str = queue, sent: list[Any] = sent) -> bool:
                    sent.append(tasks.add.apply_async((3, 4), queue=queue))
                    assert sent[-1].get(timeout=60) == 7
                    return not heard.isdisjoint(result.id for result in sent)

                eventually(told, lambda: f"an event\n{worker.log}", every_s=0.2)
                if queue == "before":
                    watched.in_step(watched.primary)
                    watched.kill_primary()
            assert worker.terminate() == 0, worker.log
    finally:
        receiver.should_stop = True
        listener.join(30)
    assert not listener.is_alive()
