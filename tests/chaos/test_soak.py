"""The short form of the soak: a mixed workload at full speed, a fault every 1.5 s, and at the end all that was sent is counted.

``FASTQ_CHAOS_SEED`` chooses the faults; the long form is ``make chaos MINUTES=10``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.workers import POOLS

SEED = int(os.environ.get("FASTQ_CHAOS_SEED") or 1)
ROOT = Path(__file__).parents[2]
#: broker, pools, seconds of sending
SOAKS = [
    ("sqlite", ("asyncio", "solo"), 7),
    ("redis", POOLS, 15),
    ("redis", ("gevent", "eventlet"), 7),
    ("sqlite", ("prefork", "threads"), 12),
]
IDS = ["sqlite-asyncio-solo", "redis-mixed", "redis-green", "sqlite-prefork-threads"]
#: seconds: most of it is for a connection that was made half-open to be given up
DEADLINE_S = 300


@pytest.mark.parametrize(("broker", "pools", "seconds"), SOAKS, ids=IDS)
def test_sent_is_done_and_dead_and_revoked_whatever_breaks(
    broker: str, pools: tuple[str, ...], seconds: int, tmp_path: Path
) -> None:
    # a process of its own: the application of the soak stays out of this one
    command = [sys.executable, "-m", "tests.chaos.soak", "--broker", broker, "--pools", " ".join(pools), "--seed", str(SEED)]
    command += ["--minutes", str(seconds / 60), "--every", "1.5", "--unfinished", "3000", "--poison-every", "5", "--keep"]
    soak = subprocess.Popen(
        [*command, "--folder", str(tmp_path / "soak")],
        cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        said, _ = soak.communicate(timeout=DEADLINE_S)
    except BaseException:
        soak.send_signal(signal.SIGINT)  # it ends all that it has started
        said, _ = soak.communicate(timeout=60)
        print(said)
        raise
    print(said)
    assert soak.returncode == 0, f"a law did not hold, with FASTQ_CHAOS_SEED={SEED}:\n{said}"
