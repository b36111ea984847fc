"""A Redis that is killed and started again, with an append-only file: workers and waiting callers come back by themselves."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.integration.conftest import TASKS, ran
from tests.servers import RedisServer
from tests.workers import Worker, eventually, load_module, write_module


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "asyncio"])
def test_restarted_redis_loses_nothing(pool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "effects"
    folder.mkdir()
    with RedisServer(tmp_path / "redis", "--appendonly", "yes", "--appendfsync", "always") as server:
        for name, value in (("TEST_BROKER", server.url), ("TEST_FOLDER", str(folder)), ("TEST_LEASE", "2")):
            monkeypatch.setenv(name, value)
        tasks = load_module(write_module(tmp_path, "tasks", TASKS), monkeypatch)
        with Worker(tmp_path, "-P", pool, "-c", "1", "-l", "INFO").wait_ready() as worker:
            running = tasks.wait_for.delay("gate")
            eventually(lambda: ran(folder, "waiting-gate"), "the task running")
            waiting = [tasks.mark.delay(f"later-{i}") for i in range(50)]
            server.kill(signal.SIGKILL)
            server.start()
            (folder / "gate").touch()
            assert running.get(timeout=60) == "gate"
            assert [r.get(timeout=60) for r in waiting] == [f"later-{i}" for i in range(50)]
            assert tasks.add.delay(1, 2).get(timeout=60) == 3
            assert ran(folder, "waited-") == ["waited-gate"], "it ran on through the restart, once"
            assert worker.terminate() == 0, worker.log
        tasks.app.close()
    assert os.listdir(folder)
