"""gevent and eventlet processes patch before anything else: an application that looks at import time finds it done."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.workers import Worker, eventually

CHECKS = {
    "gevent": "from gevent.monkey import is_module_patched as p\nassert p('socket') and p('ssl') and p('select')",
    "eventlet": "from eventlet.patcher import is_monkey_patched as patched\nassert patched('socket') and patched('thread')",
}
APP = """
import os
{check}
import ssl, socket, threading, logging
from fastq import FastQ

app = FastQ("tasks", broker=os.environ["TEST_BROKER"])
app.conf.worker_pool = {pool!r}
lock = threading.Lock()


@app.task
def fetch(path):
    import time
    with lock:
        time.sleep(0.01)
    open(path, "w").close()
"""


@pytest.mark.parametrize("chosen_by", ["option", "setting"])
@pytest.mark.parametrize("pool", ["gevent", "eventlet"])
def test_the_application_is_imported_into_a_patched_process(pool: str, chosen_by: str, tmp_path: Path) -> None:
    """By ``-P`` the first interpreter is patched; by the setting ``worker_pool`` the command finds out and starts over."""
    # with the setting, an unpatched process reads the application first, to find out
    looked_at = "'IN_WORKER' in os.environ" if chosen_by == "option" else "{'gevent', 'eventlet'} & sys.modules.keys()"
    check = f"import sys\nif {looked_at}:\n    " + CHECKS[pool].replace("\n", "\n    ")
    (tmp_path / "tasks.py").write_text(APP.format(check=check, pool=pool))
    options = ["-P", pool] if chosen_by == "option" else []
    env = {"TEST_BROKER": f"sqlite:///{tmp_path}/fastq.db", "PYTHONWARNINGS": ""}
    with Worker(tmp_path, *options, "-c", "20", "-l", "INFO", env={**env, "IN_WORKER": "1"}).wait_ready() as worker:
        assert f"20 ({pool})" in worker.log
        called = Worker.command(tmp_path, "call", "tasks.fetch", "-a", f'["{tmp_path}/done"]', env=env)
        assert called.returncode == 0, called.stderr
        eventually(lambda: (tmp_path / "done").exists(), lambda: f"the task has run\n{worker.log}")
        assert worker.terminate() == 0
        assert "Traceback" not in worker.log and "Warning" not in worker.log, worker.log
