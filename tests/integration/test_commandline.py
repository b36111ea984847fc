"""What a user types and what comes back: call, result, purge, the banner, and every mistake with its clear answer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from tests.servers import RedisServer, free_port
from tests.workers import Worker


def fastq(directory: Path, *arguments: str, stdin: str = "", env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **(env or {})}
    return subprocess.run(
        [sys.executable, "-m", "fastq", *arguments],
        cwd=directory,
        env=environment,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_call_result_and_purge(tasks: ModuleType, tmp_path: Path) -> None:
    called = fastq(tmp_path, "-A", "tasks", "call", "tasks.add", "-a", "[2, 3]")
    assert called.returncode == 0, called.stderr
    task_id = called.stdout.strip()
    with Worker(tmp_path, "-P", "solo").wait_ready():
        result = fastq(tmp_path, "-A", "tasks", "result", task_id, "--timeout", "30")
        assert result.returncode == 0 and result.stdout.strip().endswith("5"), result
    tasks.add.delay_many([(i, i) for i in range(7)])
    purged = fastq(tmp_path, "-A", "tasks", "purge", "-f")
    assert purged.returncode == 0 and "7" in purged.stdout, purged
    again = fastq(tmp_path, "-A", "tasks", "purge", "-f")
    assert again.returncode == 0, again


def test_banner_names_everything_and_hides_passwords(tasks: ModuleType, tmp_path: Path, broker_url: str) -> None:
    with Worker(tmp_path, "-P", "threads", "-c", "3", "-Q", "default,other", "-n", "w1@%h", "-l", "INFO").wait_ready() as worker:
        log = worker.log
    expected = (".> app:         tasks:0x", ".> transport:", ".> results:", ".> concurrency: 3 (threads)")
    for text in (*expected, "[queues]", "[tasks]", "  . tasks.add"):
        assert text in log, log
    assert ".> default" in log and ".> other" in log
    assert "exchange=default(direct) key=default" in log
    assert "w1@" in log and "Connected to" in log


@pytest.mark.parametrize("pool", ["prefork", "gevent", "solo"])
def test_unreachable_broker_fails_at_once_without_retry(pool: str, tmp_path: Path) -> None:
    url = f"redis://:hunter2@127.0.0.1:{free_port()}/0"
    (tmp_path / "tasks.py").write_text(f"from fastq import FastQ\napp = FastQ('tasks', broker={url!r})\n")
    done = fastq(tmp_path, "-A", "tasks", "worker", "-P", pool, "--no-retry")
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "127.0.0.1" in said and "Traceback" not in said and "hunter2" not in said, said


def test_unreachable_broker_is_retried_with_a_clear_line(tmp_path: Path) -> None:
    url = f"redis://127.0.0.1:{free_port()}/0"
    (tmp_path / "tasks.py").write_text(f"from fastq import FastQ\napp = FastQ('tasks', broker={url!r})\n")
    with Worker(tmp_path, "-P", "prefork", "-c", "1") as worker:
        worker.wait_log("Trying again in")
        assert worker.terminate() == 0
    assert "Traceback" not in worker.log


@pytest.mark.parametrize(
    ("module", "arguments", "expected"),
    [
        ("", ["-A", "nowhere", "worker"], "nowhere"),
        ("x = 1\n", ["-A", "tasks", "worker"], "FastQ"),
        ("from fastq import FastQ\na = FastQ('a')\nb = FastQ('b')\n", ["-A", "tasks", "worker"], "tasks:a"),
        ("import nothing_of_that_name\n", ["-A", "tasks", "worker"], "nothing_of_that_name"),
        ("from fastq import FastQ\napp = FastQ('a')\n", ["-A", "tasks", "worker", "-P", "preforked"], "prefork"),
        ("from fastq import FastQ\napp = FastQ('a', broker='rediss2://x')\n", ["-A", "tasks", "worker"], "rediss"),
        ("from fastq import FastQ\napp = FastQ('a', broker='memory://')\n", ["-A", "tasks", "worker"], "memory://"),
        ("from fastq import FastQ\napp = FastQ('a', broker='redis://localhost:port/0')\n", ["-A", "tasks", "worker"], "port"),
        ("from fastq import FastQ\napp = FastQ('a')\n", ["-A", "tasks", "call", "x", "-a", "[1"], "JSON"),
    ],
)
def test_mistakes_get_one_clear_message(module: str, arguments: list[str], expected: str, tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text(module)
    done = fastq(tmp_path, *arguments)
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert expected in said, said
    if "nothing_of_that_name" not in expected:
        assert "Traceback" not in said, said


def test_app_is_found_without_being_named(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text(
        "from fastq import FastQ\napp = FastQ('found')\n\n@app.task\ndef double(x):\n    return 2 * x\n"
    )
    called = fastq(tmp_path, "call", "tasks.double", "-a", "[21]")
    assert called.returncode == 0, called.stderr
    assert (tmp_path / "fastq.db").exists(), "the embedded broker's file lies in the working directory"


def test_call_says_within_seconds_that_the_broker_is_silent(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis") as server:
        (tmp_path / "tasks.py").write_text(f"from fastq import FastQ\napp = FastQ('tasks', broker={server.url!r})\n")
        assert fastq(tmp_path, "-A", "tasks", "call", "tasks.x").returncode == 0
        server.kill(signal.SIGSTOP)
        try:
            began_s = time.monotonic()
            done = fastq(tmp_path, "-A", "tasks", "call", "tasks.x", "--timeout", "1")
            took_s = time.monotonic() - began_s
        finally:
            server.kill(signal.SIGCONT)
        with server.client() as client:
            # what had come to it while it slept it has read before this second answer
            assert client.ping() and client.ping()
            assert client.llen("fastq:{default}:ready:0") == 1, "what was said: nothing was sent"
    assert done.returncode == 69 and not done.stdout, done
    assert f"Error: not sent within 1 s: Redis at {server.url} did not answer in time" in done.stderr, done
    assert "Nothing was sent: try again, or wait longer with --timeout." in done.stderr, done
    assert took_s < 20, "a default of 8 s, not four attempts of 30"
