"""What a real worker says of its health over HTTP, and what it counts: exactly, whoever dies meanwhile, and without its broker."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.error import HTTPError

import pytest
from prometheus_client.parser import text_string_to_metric_families as read_metrics

from fastq.exceptions import FastQError
from tests.integration.conftest import ran
from tests.servers import RedisServer, free_port
from tests.workers import Worker, eventually

ONE_BROKER = pytest.mark.parametrize("broker_url", ["redis"], indirect=True)


class Served(Worker):
    """A worker that serves HTTP."""

    def __init__(self, directory: Path, *arguments: str, **options: Any) -> None:
        self.port = free_port()
        super().__init__(directory, "--http", f"127.0.0.1:{self.port}", *arguments, **options)

    def get(self, page: str) -> tuple[int, str]:
        """Return status and body; 0: nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{page}", timeout=20) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as exc:
            with exc:
                return exc.code, exc.read().decode()
        except OSError:
            return 0, ""

    def reasons(self) -> str:
        return "; ".join(json.loads(self.get("/ready")[1])["reasons"])

    def metrics(self) -> dict[Any, float]:
        """Return samples: by name, or by name and the values of their labels, these by name."""
        status, text = self.get("/metrics")
        assert status == 200, text
        return {
            (sample.name, *(value for _, value in sorted(sample.labels.items()))) if sample.labels else sample.name: sample.value
            for family in read_metrics(text)
            for sample in family.samples
        }


def health(*arguments: str) -> tuple[int, str]:
    """Run ``fastq health`` where there is no application."""
    command = [sys.executable, "-m", "fastq", "health", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd="/", check=False)
    assert not done.stderr
    return done.returncode, done.stdout.strip()


@ONE_BROKER
@pytest.mark.parametrize("pool", ["prefork", "solo", "gevent"])
def test_counts_are_exact_and_outlive_a_killed_process(pool: str, tasks: ModuleType, folder: Path, tmp_path: Path) -> None:
    name = f"w-{pool}-{os.getpid()}@h"
    with Served(tmp_path, "-P", pool, "-c", "2", "-n", name).wait_ready() as worker:
        assert health("-n", name) == (0, f"ready: {name}")
        results = [tasks.add.delay(i, 1) for i in range(40)] + [tasks.work.delay(i, 20) for i in range(3)]
        for result in results:
            result.get(timeout=60)
        failed = tasks.fail.delay("on purpose")
        with pytest.raises((ValueError, FastQError)):
            failed.get(timeout=60)
        revoked = tasks.add.apply_async((1, 1), countdown=0.3)
        revoked.revoke()
        with pytest.raises(FastQError):
            revoked.get(timeout=60)
        seen = worker.metrics()
        assert seen["fastq_tasks_total", "succeeded", "tasks.add"] == 40
        assert seen["fastq_tasks_total", "succeeded", "tasks.work"] == 3
        assert seen["fastq_tasks_total", "failed", "tasks.fail"] == 1
        assert seen["fastq_task_runtime_seconds_count", "tasks.work"] == 3
        assert seen["fastq_task_runtime_seconds_bucket", "0.01", "tasks.work"] == 0
        assert 0.06 <= seen["fastq_task_runtime_seconds_sum", "tasks.work"] < 3
        assert seen["fastq_tasks_started_total", "default"] == 44 == seen["fastq_queue_wait_seconds_count", "default"]
        assert seen["fastq_node_ready"] == seen["fastq_broker_reachable"] == 1
        assert seen["fastq_processes"] == seen["fastq_processes_wanted"] == (2 if pool == "prefork" else 1)
        assert 0 <= seen["fastq_lease_age_seconds"] < seen["fastq_lease_seconds"] == float(os.environ["TEST_LEASE"])

        if pool != "solo":  # there nobody would take its place
            victims = worker.pool_pids()
            for pid in victims:
                os.kill(pid, signal.SIGKILL)
            eventually(lambda: worker.metrics()["fastq_process_restarts_total", "died"] == len(victims), "the deaths are counted")
            eventually(lambda: worker.get("/ready")[0] == 200, "others have taken their places")
        tasks.add.delay(1, 1).get(timeout=60)
        assert worker.metrics()["fastq_tasks_total", "succeeded", "tasks.add"] == 41

        if pool == "prefork":  # what no process lives to count, the supervisor does
            for fatal in (tasks.hold.apply_async(("never",), time_limit=0.2), tasks.die.delay("x")):
                with pytest.raises(FastQError):
                    fatal.get(timeout=60)
            seen = worker.metrics()
            assert seen["fastq_tasks_total", "failed", "tasks.hold"] == seen["fastq_tasks_total", "failed", "tasks.die"] == 1
            assert seen["fastq_process_restarts_total", "time-limit"] == 1
            assert seen["fastq_process_restarts_total", "died"] == len(victims) + 3
            eventually(lambda: worker.get("/ready")[0] == 200, "others have taken their places")

        held = tasks.hold.delay("gate")
        eventually(lambda: ran(folder, "holding-gate"), "a task runs")
        assert worker.metrics()["fastq_slots_busy"] == 1
        os.kill(worker.pid, signal.SIGTERM)
        eventually(lambda: worker.get("/ready")[0] == 503, "it is not ready while it stops")
        assert worker.reasons().startswith("it is stopping (warm)")
        assert worker.get("/live")[0] == 200
        assert health("-n", name)[0] == 1 and health("-n", name, "--live")[0] == 0
        (folder / "gate").touch()
        assert worker.process.wait(60) == 0
        assert held.get(timeout=10) == "gate"
    assert health("-n", name) == (1, f"not ready: no worker named {name} runs here")


def test_health_is_told_without_the_broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.integration.conftest import TASKS

    (tmp_path / "tasks.py").write_text(TASKS)
    (tmp_path / "effects").mkdir()
    monkeypatch.setenv("TEST_FOLDER", str(tmp_path / "effects"))
    monkeypatch.setenv("TEST_LEASE", "3")
    with RedisServer() as server:
        monkeypatch.setenv("TEST_BROKER", server.url)
        server.kill()
        with Served(tmp_path, "-P", "threads", "-c", "1", "-n", f"b-{os.getpid()}@h") as worker:
            eventually(lambda: worker.get("/live")[0] == 200, "it answers before its broker does")
            eventually(lambda: worker.get("/ready")[0] == 503, "it is not ready")
            assert "the broker has not answered yet" in worker.reasons()
            server.restart()
            eventually(lambda: worker.get("/ready")[0] == 200, "it is ready")
            server.kill()
            eventually(lambda: "the broker does not answer" in worker.reasons(), "it sees that the broker is gone")
            assert worker.get("/live")[0] == 200
            assert worker.metrics()["fastq_broker_reachable"] == 0
            server.restart()
            eventually(lambda: worker.get("/ready")[0] == 200, "it is ready again")
            worker.kill_all()
            assert health("-n", f"b-{os.getpid()}@h")[1].endswith("runs here")  # nothing is left behind


@ONE_BROKER
def test_an_address_that_cannot_be_served_stops_the_start(tasks: ModuleType, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for pool in ("prefork", "solo"):
            done = Worker.command(tmp_path, "worker", "-P", pool, "-c", "1", "--http", address)
            assert done.returncode == 1
            assert f"Error: health and metrics cannot be served at {address}: the address is already in use" in done.stderr
    done = Worker.command(tmp_path, "worker", "--http", "9808")
    assert done.returncode == 2 and "the port is missing" in done.stderr
    done = Worker.command(tmp_path, "worker", "worker_http=9808")
    assert done.returncode == 1 and "the port is missing" in done.stderr
