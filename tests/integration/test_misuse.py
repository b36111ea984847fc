"""Misuse and bad surroundings: a clear error or warning at start, and nothing is lost."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from fastq.exceptions import OperationalError
from fastq.transports import TransportOptions, open_inspector
from tests.integration.conftest import TASKS, ran
from tests.servers import RedisServer
from tests.workers import POOLS, Worker, children, eventually, load_module, write_module

#: run a program as its user alone: root without the right to pass over the bits of files, so that read-only means it
HUMBLE = (
    "import ctypes, os, sys\n"
    "for right in (1, 2):\n"  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    "    ctypes.CDLL(None).prctl(24, right, 0, 0, 0)\n"  # PR_CAPBSET_DROP; fails for all but root, who alone needs it
    "os.execv(sys.argv[1], sys.argv[1:])\n"
)


def command(
    directory: Path, *arguments: str, broker: str, lease: str = "2", prepare: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run a ``fastq`` command to its end, as a user for whom read-only files are read-only."""
    if prepare:
        (directory / "tasks.py").write_text(TASKS)
        (directory / "effects").mkdir(exist_ok=True)
    words = [sys.executable, "-c", HUMBLE, sys.executable, "-m", "fastq", "-A", "tasks", *arguments]
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "TEST_BROKER": broker,
        "TEST_FOLDER": str(directory / "effects"),
        "TEST_LEASE": lease,
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return subprocess.run(words, cwd=directory, env=environment, capture_output=True, text=True, timeout=120)


def refused(directory: Path, *arguments: str, broker: str, lease: str = "2") -> str:
    """Return the one line by which a command refuses to go on."""
    done = command(directory, *arguments, broker=broker, lease=lease)
    said = done.stderr
    assert done.returncode != 0 and "Traceback" not in said, done.stdout + said
    errors = [line for line in said.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, done.stdout + said
    return errors[0]


# --- settings ---


def test_a_lease_shorter_than_its_renewals_allow_is_refused(tmp_path: Path) -> None:
    error = refused(tmp_path, "worker", "-P", "solo", broker=f"sqlite:///{tmp_path}/q.db", lease="0.2")
    assert "worker_lease = 0.2" in error and "1 s or more" in error


# --- Redis ---


def server_with(tmp_path: Path, options: list[str]) -> RedisServer:
    """Start a server; one of a cluster refuses ports above 55,535, so it may take several."""
    for attempt in range(20):
        try:
            return RedisServer(tmp_path / f"redis{attempt}", *options)
        except RuntimeError as error:
            if "port number too high" not in str(error):
                raise
    raise AssertionError("no port below 55,536 is free")


@pytest.mark.parametrize("pool", ["threads", "solo"])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--maxmemory-policy", "allkeys-lru"], "maxmemory-policy to noeviction"),
        (["--rename-command", "EVALSHA", ""], "scripting must be on"),
        (["--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--databases", "1"], "cluster mode"),
    ],
    ids=["evicts", "no-scripts", "cluster"],
)
def test_a_server_that_cannot_do_is_refused_at_start(pool: str, options: list[str], expected: str, tmp_path: Path) -> None:
    with server_with(tmp_path, options) as server:
        assert expected in refused(tmp_path, "worker", "-P", pool, broker=server.url)


def test_a_user_who_may_not_run_scripts_is_refused_at_start(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis") as server:
        with contextlib.closing(server.client()) as client:
            commands = ["+@all", "-@scripting"]
            client.acl_setuser("bob", enabled=True, passwords=["+pw"], keys=["*"], channels=["*"], commands=commands)
        error = refused(tmp_path, "worker", "-P", "threads", broker=server.url.replace("redis://", "redis://bob:pw@"))
        assert "no permissions" in error and ":pw@" not in error


def test_a_second_programs_data_under_the_prefix_is_named_at_start_and_left_alone(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis") as server, contextlib.closing(server.client()) as client:
        client.set("fastq:{default}:ready:3", "theirs")
        error = refused(tmp_path, "worker", "-P", "threads", broker=server.url)
        assert "fastq:{default}:ready:3" in error and "another key_prefix" in error
        assert client.keys("*") == [b"fastq:{default}:ready:3"] and client.get("fastq:{default}:ready:3") == b"theirs"


@pytest.fixture
def redis_alone(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis") as server:
        yield server


def imported(broker: str, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, lease: str = "2") -> ModuleType:
    """Import the application module here as a producer would, for a broker of the test's own."""
    for name, value in (("TEST_BROKER", broker), ("TEST_FOLDER", str(folder)), ("TEST_LEASE", lease)):
        monkeypatch.setenv(name, value)
    tasks: ModuleType = load_module(write_module(tmp_path, "tasks", TASKS), monkeypatch)
    return tasks


def test_foreign_data_that_comes_while_a_worker_runs_stops_it_only_as_long_as_it_is_there(
    redis_alone: RedisServer, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = imported(redis_alone.url, tmp_path, folder, monkeypatch)
    with contextlib.closing(redis_alone.client()) as client, Worker(tmp_path, "-P", "threads", "-c", "2").wait_ready() as worker:
        client.set("fastq:{default}:levels", "theirs")
        tasks.mark.delay_many([(f"m{i}",) for i in range(20)])
        worker.wait_log("foreign value")
        assert client.get("fastq:{default}:levels") == b"theirs" and not ran(folder, "m")
        client.delete("fastq:{default}:levels")
        eventually(lambda: len(ran(folder, "m")) == 20, lambda: f"all tasks\n{worker.log}")
        assert worker.terminate() == 0
    tasks.app.close()


def test_a_replica_is_waited_for_until_it_is_the_primary(
    redis_alone: RedisServer, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = imported(redis_alone.url, tmp_path, folder, monkeypatch)
    with RedisServer(tmp_path / "primary") as primary, contextlib.closing(redis_alone.client()) as client:
        client.replicaof("127.0.0.1", primary.port)
        eventually(lambda: client.info("replication")["master_link_status"] == "up", "the replica in step")
        with pytest.raises(OperationalError, match="read-only replica"):
            tasks.mark.apply_async(("x",), retry=False)
        with Worker(tmp_path, "-P", "threads", "-c", "1") as worker:
            worker.wait_log("Trying again")
            assert "read-only replica" in worker.log
            client.replicaof("NO", "ONE")
            worker.wait_ready()
            assert tasks.mark.delay("after").get(timeout=60) == "after"
            assert worker.log.count("writes nothing to disk") == 1, "told once, however often it was tried"
    tasks.app.close()


def test_a_server_that_writes_nothing_to_disk_is_warned_of_once(
    redis_alone: RedisServer, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = imported(redis_alone.url, tmp_path, folder, monkeypatch)
    with Worker(tmp_path, "-P", "threads", "-c", "1").wait_ready() as worker:
        (line,) = [line for line in worker.log.splitlines() if "WARNING" in line]
        assert "accepted tasks are lost if it restarts" in line
    with contextlib.closing(redis_alone.client()) as client:
        client.config_set("appendonly", "yes")
    with Worker(tmp_path, "-P", "threads", "-c", "1").wait_ready() as worker:
        assert "WARNING" not in worker.log
    tasks.app.close()


# --- names of nodes ---


def test_two_living_nodes_of_one_name_are_warned_of_and_work(tasks: ModuleType, tmp_path: Path, folder: Path) -> None:
    with Worker(tmp_path, "-P", "threads", "-c", "1", "-n", "same@h").wait_ready() as first:
        assert "Another node named" not in first.log
        with Worker(tmp_path, "-P", "threads", "-c", "1", "-n", "same@h").wait_ready() as second:
            second.wait_log("Another node named same@h is running")
            results = tasks.mark.delay_many([(f"m{i}",) for i in range(40)])
            assert [result.get(timeout=60) for result in results] == [f"m{i}" for i in range(40)]
            assert len(ran(folder, "m")) == 40, "each ran once"
            assert (first.process.poll(), second.process.poll()) == (None, None)


@pytest.mark.parametrize(("pool", "kind"), [*((pool, "redis") for pool in POOLS), ("prefork", "sqlite"), ("solo", "sqlite")])
def test_a_node_started_again_under_its_name_after_a_kill_frees_what_it_held_at_once(
    pool: str, kind: str, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    broker = request.getfixturevalue("redis_url") if kind == "redis" else f"sqlite:///{tmp_path}/fastq.db"
    # the default lease: by the look rule alone it would take 18 s at least
    tasks = imported(broker, tmp_path, folder, monkeypatch, lease="15")
    # plain functions run one after the other on a loop
    slots = 1 if pool in ("solo", "asyncio") else 2
    arguments = ("-P", pool, "-c", str(slots), "-n", "w1@here")
    with Worker(tmp_path, *arguments).wait_ready() as first:
        results = [tasks.wait_for.delay(f"gate{i}") for i in range(slots)]
        eventually(lambda: len(ran(folder, "waiting-")) == len(results), lambda: f"all tasks started\n{first.log}")
        first.kill_all()
    with Worker(tmp_path, *arguments).wait_ready() as second:
        ready = time.monotonic()
        eventually(
            lambda: len(ran(folder, "waiting-")) == 2 * slots, lambda: f"all tasks started again\n{second.log}", every_s=0.002
        )
        took_s = time.monotonic() - ready
        assert "Another node named" not in second.log
        for i in range(len(results)):
            (folder / f"gate{i}").touch()
        assert [result.get(timeout=60) for result in results] == [f"gate{i}" for i in range(len(results))]
    print(f"{pool} on {kind}: running again {took_s * 1000:.0f} ms after the node was ready")
    assert took_s < 15
    tasks.app.close()


# --- SQLite ---


def spoil_text(path: Path) -> None:
    path.write_text("Dear diary, " * 1000)


def spoil_foreign(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE theirs (x)")


def spoil_damaged(path: Path) -> None:
    made = command(path.parent, "call", "tasks.add", "-a", "[1, 2]", broker=f"sqlite:///{path}")
    assert made.returncode == 0, made.stderr
    with path.open("r+b") as file:
        file.seek(100)  # behind the header: the first page of sqlite_master
        file.write(b"\xff" * 3000)


def spoil_read_only(path: Path) -> None:
    made = command(path.parent, "call", "tasks.add", "-a", "[1, 2]", broker=f"sqlite:///{path}")
    assert made.returncode == 0, made.stderr
    path.chmod(0o444)


def spoil_directory(path: Path) -> None:
    path.parent.chmod(0o555)


@pytest.mark.parametrize("pool", ["threads", "solo"])
@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (spoil_text, "not an SQLite database"),
        (spoil_foreign, "another application"),
        (spoil_damaged, "is damaged"),
        (spoil_read_only, "cannot be written"),
        (spoil_directory, "may not be written by this user"),
    ],
    ids=["text", "foreign", "damaged", "read-only", "directory"],
)
def test_a_file_that_cannot_be_used_is_named_by_workers_and_callers(
    pool: str, spoil: object, expected: str, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    store.mkdir()
    (store / "effects").mkdir()
    (store / "tasks.py").write_text(TASKS)
    path = store / "fastq.db"
    assert callable(spoil)
    spoil(path)
    before = path.read_bytes() if path.exists() else None
    try:
        for arguments in (("worker", "-P", pool), ("call", "tasks.add", "-a", "[1, 2]")):
            error = refused(store, *arguments, broker=f"sqlite:///{path}")
            assert expected in error and str(store) in error
        assert (path.read_bytes() if path.exists() else None) == before, "it is left as it is"
    finally:
        store.chmod(0o755)


def test_doctor_reads_what_it_may_not_write_and_says_so(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    path = store / "fastq.db"
    spoil_read_only(path)
    try:
        shown = command(store, "doctor", "--json", broker=f"sqlite:///{path}")
        codes = {finding["code"] for finding in json.loads(shown.stdout)["findings"]}
        assert codes >= {"read-only-file", "unconsumed-queue"} and shown.returncode == 1, shown.stdout + shown.stderr
        spoil_directory(path)
        shown = command(store, "doctor", "--json", broker=f"sqlite:///{path}", prepare=False)
        codes = {finding["code"] for finding in json.loads(shown.stdout)["findings"]}
        assert codes >= {"read-only-file", "read-only-directory", "unconsumed-queue"}, shown.stdout + shown.stderr
        path.chmod(0o000)
        shown = command(store, "doctor", broker=f"sqlite:///{path}", prepare=False)
        assert "unreadable-file" in shown.stdout and shown.returncode == 1 and "Traceback" not in shown.stderr
    finally:
        store.chmod(0o755)


def limit_files(pids: list[int], size: int) -> None:
    """Let processes write no file beyond a size, as a full disk would. -1: no limit."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@pytest.mark.parametrize("pool", ["threads", "prefork", "solo"])
def test_a_full_disk_stops_a_worker_only_as_long_as_it_is_full(
    pool: str, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = imported(f"sqlite:///{tmp_path}/fastq.db", tmp_path, folder, monkeypatch)
    with Worker(tmp_path, "-P", pool, "-c", "1" if pool == "solo" else "2").wait_ready() as worker:
        running = tasks.wait_for.delay("gate")
        eventually(lambda: ran(folder, "waiting-gate"), "the task running")
        # behind 2 MiB of them, so that every further write is beyond a limit of 1
        waiting = [tasks.mark.apply_async((f"m{i}" + "x" * 30,), headers={"pad": "y" * 100_000}) for i in range(20)]
        assert (tmp_path / "fastq.db-wal").stat().st_size > 2 << 20
        pids = [worker.pid, *children(worker.pid)]
        limit_files(pids, 1 << 20)
        (folder / "gate").touch()
        eventually(lambda: ran(folder, "waited-gate"), "the task's end")
        worker.wait_log("the disk is full")
        inspector = open_inspector(f"sqlite:///{tmp_path}/fastq.db", TransportOptions())
        assert inspector.depth("default")["leased"] >= 1, "its outcome could not be kept yet"
        limit_files(pids, resource.RLIM_INFINITY)
        assert running.get(timeout=60) == "gate"
        assert [result.get(timeout=60)[:2] for result in waiting[:10]] == [f"m{i}" for i in range(10)]
        eventually(lambda: len(ran(folder, "m")) == 20, "all tasks run")
        assert len(ran(folder, "waited-")) == 1, "its outcome was kept until there was room"
        assert worker.terminate() == 0, worker.log
        inspector.close()
    tasks.app.close()


def test_a_full_disk_makes_delay_raise_and_keeps_what_was_accepted(tmp_path: Path) -> None:
    script = tmp_path / "producer.py"
    script.write_text(
        "import resource, sys\n"
        "from fastq import FastQ\n"
        "from fastq.exceptions import OperationalError\n"
        f"app = FastQ('p', broker='sqlite:///{tmp_path}/q.db')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))\n"
        "kept = 0\n"
        "try:\n"
        "    for i in range(100):\n"
        "        app.send_task('t', ('x' * 100_000,), retry=False)\n"
        "        kept += 1\n"
        "except OperationalError as error:\n"
        "    print('raised:', error)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\n"
        "app.send_task('t', ('last',))\n"
        "print('kept:', kept + 1)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    raised, kept = done.stdout.splitlines()
    assert "the disk is full" in raised and "Nothing was changed" in raised
    inspector = open_inspector(f"sqlite:///{tmp_path}/q.db", TransportOptions())
    assert inspector.depth("celery")["ready"] + inspector.depth("default")["ready"] == int(kept.removeprefix("kept: ")) > 1
    inspector.close()
