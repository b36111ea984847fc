"""The examples run as they are shipped, with less to do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(script: str, *args: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / script), *args],
        env={**os.environ, "COLUMNS": "140", "NO_COLOR": "1", **environment},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_real_job_reports_every_file_and_every_pool() -> None:
    output = run("stdlib_index/run.py", "--files", "60", "--sample", "12")
    assert "embedded" in output
    for pool in ("prefork", "threads", "gevent", "eventlet", "asyncio", "solo"):
        (line,) = [line for line in output.splitlines() if line.startswith(f"│ {pool} ")]
        assert "MiB" in line or not Path("/proc/self/smaps_rollup").exists()


def test_the_real_job_runs_on_redis(redis_url: str) -> None:
    output = run("stdlib_index/run.py", "--files", "30", "--sample", "5", "--pools", "solo", FASTQ_BROKER_URL=redis_url)
    assert "FASTQ_BROKER_URL" in output and "│ solo " in output


@pytest.mark.parametrize("pool", ["gevent", "eventlet", "asyncio", "threads"])
def test_fetches_overlap(pool: str) -> None:
    output = run("fetch_pages/run.py", "--pages", "200", "--slots", "100", "--pools", pool)
    (line,) = [line for line in output.splitlines() if line.startswith(f"│ {pool} ")]
    busy, at_server = (int(cell) for cell in line.strip("│ ").split("│")[-2:])
    # the exact number is the machine's affair; one by one it would be 1
    assert busy > 20
    assert at_server > 5
