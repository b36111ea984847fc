"""Workers in the background: ``--detach``, pid and log files, ``fastq multi``."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from types import ModuleType

import pytest

from fastq.daemon.pidfile import is_alive, read_pid
from tests.workers import Worker, children, eventually


@pytest.fixture
def broker_url(redis_url: str) -> str:
    return redis_url


def run(directory: Path, *arguments: str, code: int = 0) -> str:
    done = Worker.command(directory, *arguments)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_multi_starts_restarts_and_stops_nodes(tasks: ModuleType, tmp_path: Path) -> None:
    common = ("w1@h", "w2@h", "-c", "1", "-c:w1", "2", "-l", "INFO", "--pidfile=run/%n.pid", "--logfile=log/%n%I.log")
    pids: list[int] = []
    try:
        out = run(tmp_path, "multi", "start", *common)
        assert out.splitlines()[1:] == ["> Starting nodes...", "\t> w1@h: OK", "\t> w2@h: OK"]
        pids = [read_pid(tmp_path / "run" / f"{name}.pid") or 0 for name in ("w1", "w2")]
        assert all(map(is_alive, pids))
        assert tasks.add.delay(1, 2).get(timeout=60) == 3
        # the supervisor's direct children are the pool, and its command line tells whose it is
        assert b"--hostname=w1@h" in Path(f"/proc/{pids[0]}/cmdline").read_bytes().split(b"\0")
        eventually(lambda: " ready." in (tmp_path / "log" / "w1.log").read_text(), "the node's own log")
        tasks.say.delay("hello from a task").get(timeout=60)
        logs = [p.name for p in (tmp_path / "log").iterdir() if "hello from a task" in p.read_text()]
        assert logs and logs[0] in ("w1-1.log", "w1-2.log", "w2-1.log")

        # a second start is refused, and says why
        out = run(tmp_path, "multi", "start", *common, code=1)
        assert out.count("FAILED") == 2 and f"names process {pids[0]}, which is running" in out
        assert [read_pid(tmp_path / "run" / f"{name}.pid") for name in ("w1", "w2")] == pids

        out = run(tmp_path, "multi", "restart", *common)
        # who has ended before the first look is not waited for
        assert f"\t> w1@h: TERM -> {pids[0]}" in out and f"\t> w2@h: TERM -> {pids[1]}" in out
        assert "> Restarting node w1@h: OK" in out and "> Restarting node w2@h: OK" in out
        before, pids = pids, [read_pid(tmp_path / "run" / f"{name}.pid") or 0 for name in ("w1", "w2")]
        assert not set(before) & set(pids) and all(map(is_alive, pids)) and not any(map(is_alive, before))

        os.kill(pids[1], signal.SIGKILL)
        eventually(lambda: not is_alive(pids[1]), "the second node is dead")
        out = run(tmp_path, "multi", "stopwait", *common)
        assert f"\t> w1@h: TERM -> {pids[0]}" in out and "\t> w2@h: DOWN" in out and out.endswith("\t> w1@h: OK\n")
        assert not (tmp_path / "run" / "w1.pid").exists()
    finally:
        # those of the files too: where a command did what it should and said something else
        pids += [read_pid(tmp_path / "run" / f"{name}.pid") or 0 for name in ("w1", "w2")]
        for pid in pids:
            for each in (pid, *children(pid)) if pid else ():
                if is_alive(each):
                    os.kill(each, signal.SIGKILL)


@pytest.mark.parametrize("pool", ["prefork", "gevent", "solo"])
def test_a_detached_worker_has_come_up_when_the_command_returns(pool: str, tasks: ModuleType, tmp_path: Path) -> None:
    run(tmp_path, "worker", "--detach", "-P", pool, "-c", "1", "-n", "w@h", "--pidfile=%n.pid", "-f", "%n.log", "-l", "INFO")
    pid = read_pid(tmp_path / "w.pid")
    assert pid is not None
    try:
        assert os.getsid(pid) == pid
        assert tasks.add.delay(1, 2).get(timeout=60) == 3
        os.kill(pid, signal.SIGTERM)
        eventually(lambda: not is_alive(pid), "it has ended")
        assert not (tmp_path / "w.pid").exists()
        assert "w@h ready." in (tmp_path / "w.log").read_text()
    finally:
        for each in (pid, *children(pid)):
            if is_alive(each):
                os.kill(each, signal.SIGKILL)


def test_a_detached_worker_that_cannot_start_says_why_and_fails(tasks: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import no_such_module\n")
    assert "no_such_module" in run(tmp_path, "worker", "-A", "broken", "--detach", "--pidfile=w.pid", code=1)
    assert not (tmp_path / "w.pid").exists()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert "already in use" in run(tmp_path, "worker", "--detach", "-P", "solo", "--http", address, "--pidfile=w.pid", code=1)
    assert "cannot be written" in run(tmp_path, "worker", "--detach", "-f", "no/where.log", code=2)
    assert "%x" in run(tmp_path, "worker", "--pidfile=%x.pid", code=2)
    (tmp_path / "mine.pid").write_text("shopping list")
    assert "is no pid file" in run(tmp_path, "worker", "--pidfile=mine.pid", code=2)
    assert "octal digits" in run(tmp_path, "worker", "--umask=99", code=2)
    assert "No such action 'strat'. Did you mean 'start'?" in run(tmp_path, "multi", "strat", "w1", code=2)
    assert "stop" in run(tmp_path, "multi", "--help")


def test_a_log_file_goes_on_in_a_new_one_when_it_was_moved_away(tasks: ModuleType, tmp_path: Path) -> None:
    log = tmp_path / "w.log"
    with Worker(tmp_path, "-P", "solo", "-l", "INFO", "-f", "w.log", "-n", "w@h") as worker:
        eventually(lambda: log.exists() and "ready." in log.read_text(), "the worker is ready")
        log.rename(tmp_path / "w.log.1")
        tasks.add.delay(1, 2).get(timeout=60)
        eventually(lambda: log.exists() and "succeeded in" in log.read_text(), "the new file has the new lines")
        assert "[config]" in worker.log and "ready." not in worker.log
