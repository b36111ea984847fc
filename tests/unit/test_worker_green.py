"""gevent and eventlet processes patch before anything else is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastq.worker import starters

MAIN = "from fastq.worker.green import main; main()"
BEFORE = "import sys; seen = set(sys.modules); assert not seen & {'ssl', 'threading', 'logging', 'fastq'}, seen\n"
CHECKS = {
    "gevent": """
from gevent.monkey import is_module_patched
assert all(map(is_module_patched, ("ssl", "socket", "threading", "select", "time", "subprocess", "queue")))
import fastq.app, fastq.worker.green, logging, threading
for lock in (logging._lock, threading.RLock(), fastq.app.FastQ("t")._lock):
    assert "gevent" in type(getattr(lock, "_block", lock)).__module__, lock
""",
    "eventlet": """
from eventlet.patcher import is_monkey_patched
assert all(map(is_monkey_patched, ("socket", "thread", "select", "time", "os")))
import fastq.app, fastq.worker.green, threading
start = getattr(threading, "_start_joinable_thread", None) or threading._start_new_thread  # 3.13 and newer; older
assert "eventlet" in threading.Lock.__module__ + start.__module__
""",
}


@pytest.mark.parametrize("pool", starters.GREEN_POOLS)
def test_patching_comes_first_and_without_a_warning(pool: str) -> None:
    code = BEFORE + starters._GREEN_CODE[pool].replace(MAIN, "\n" + CHECKS[pool])
    assert MAIN in starters._GREEN_CODE[pool]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
