"""fastq doctor beside real workers: quiet about what works, clear about what a kill has left behind."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path
from types import ModuleType

import redis

from fastq import chain, chord, doctor, group
from fastq.records import Fetch
from fastq.transports import open_inspector
from tests.integration.conftest import ran
from tests.workers import Worker, eventually

#: what is so of a test's server and settings, whatever its queues do
SURROUNDINGS = {
    "persistence-off", "maxmemory-unset", "server-aging", "server-slow", "clocks-differ", "short-lease", "synchronous-normal",
    "volatile-file-system", "disk-nearly-full", "dead-letters", "backlog",
}  # fmt: skip


def found(tasks: ModuleType) -> dict[str, doctor.Finding]:
    return {finding.code: finding for finding in doctor.examine(tasks.app) if finding.code not in SURROUNDINGS}


def test_nothing_is_found_while_workflows_run_at_full_load_nor_when_all_is_done(
    tasks: ModuleType, tmp_path: Path
) -> None:
    with Worker(tmp_path, "-P", "threads", "-c", "8").wait_ready() as worker:
        for look in range(10):
            results = [
                *tasks.add.delay_many([(i, i) for i in range(200)]),
                chord([tasks.add.s(i, 1) for i in range(20)], tasks.mark.si("body")).delay(),
                chain(tasks.add.s(1, 1), tasks.add.s(1), tasks.add.s(1)).apply_async(priority=5),
                group(tasks.add.s(i, i) for i in range(20)).apply_async(priority=9),
                tasks.add.apply_async((1, 1), countdown=0.05),
                tasks.work.apply_async((look, 50), priority=3),
            ]
            assert found(tasks) == {}
            for result in results:
                result.get(timeout=60)
        assert found(tasks) == {}
        assert worker.terminate() == 0
    left = found(tasks)
    assert left.keys() == {"no-consumer"}, left
    assert not left.keys() & doctor.LEFTOVERS


def test_a_killed_node_is_named_with_what_it_holds_until_another_takes_over(
    tasks: ModuleType, tmp_path: Path, folder: Path
) -> None:
    with Worker(tmp_path, "-P", "threads", "-c", "2", "--prefetch", "0").wait_ready() as worker:
        results = [tasks.wait_for.delay("gate") for _ in range(3)]
        eventually(lambda: len(ran(folder, "waiting-")) == 2, "two tasks running")
        assert found(tasks) == {}
        worker.kill_all()
    eventually(lambda: "stuck-lease" in found(tasks), "the lease two leases old", every_s=0.2)
    seen = found(tasks)
    assert seen.keys() == {"stuck-lease", "unconsumed-queue"}
    assert seen["stuck-lease"].level == "error" and "holds 2 messages" in seen["stuck-lease"].text
    assert "1 ready" in seen["unconsumed-queue"].text
    (folder / "gate").touch()
    with Worker(tmp_path, "-P", "threads", "-c", "2").wait_ready():
        assert [result.get(timeout=60) for result in results] == ["gate"] * 3
        assert found(tasks) == {}


def test_the_command_finds_and_mends_what_nobody_owns(tasks: ModuleType, tmp_path: Path, broker_url: str) -> None:
    inspector = open_inspector(broker_url, tasks.app.transport_options())
    broker = tasks.app.open_broker()
    tasks.add.delay_many([(i, i) for i in range(3)])
    broker.renew(["default"], ["p"], 15_000)
    broker.fetch(Fetch("p", 1, ("default",), 3))
    if broker_url.startswith("redis"):
        with redis.Redis.from_url(broker_url) as client:
            client.zrem("fastq:{default}:leases", "p")
    else:
        with contextlib.closing(sqlite3.connect(broker_url.removeprefix("sqlite:///"), isolation_level=None)) as sql:
            sql.execute("DELETE FROM leases")
    shown = json.loads(Worker.command(tmp_path, "doctor", "--json").stdout)
    assert {"ownerless-key", "ownerless-row"} & {finding["code"] for finding in shown["findings"]}
    refused = Worker.command(tmp_path, "doctor", "--fix", env={"COLUMNS": "80"})
    assert refused.returncode == 1 and "fixed:" not in refused.stdout, "nobody answered the question"
    done = Worker.command(tmp_path, "doctor", "--fix", "--yes")
    assert "fixed: " in done.stdout and "3 messages" in done.stdout and done.returncode == 1
    assert all(len(line) <= 80 for line in done.stdout.splitlines() if str(tmp_path) not in line), done.stdout
    assert inspector.depth("default") == {"ready": 3, "delayed": 0, "leased": 0, "dead": 0}
    with Worker(tmp_path, "-P", "threads", "-c", "1", env={"TEST_LEASE": "15"}).wait_ready():
        eventually(lambda: inspector.depth("default")["ready"] + inspector.depth("default")["leased"] == 0, "all tasks run")
        healthy = Worker.command(tmp_path, "doctor", "-Q", "default", env={"TEST_LEASE": "15"})
        problems = [line for line in healthy.stdout.splitlines() if line.startswith(("error", "warning"))]
        assert all(line.split()[1] in SURROUNDINGS for line in problems), healthy.stdout
        assert healthy.returncode == (1 if problems else 0) and "looked at " in healthy.stdout
        assert "\x1b" not in healthy.stdout, "colours only on terminals"
    broker.close()
    inspector.close()
