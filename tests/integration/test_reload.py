"""``fastq worker --reload``: a changed file is the code of the next task."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

pytest.importorskip("watchfiles")

from fastq import FastQ
from tests.workers import Worker, eventually

CODE = """\
import os
from fastq import FastQ
app = FastQ("tasks", broker=os.environ["TEST_BROKER"], backend=os.environ["TEST_BROKER"])

@app.task(name="version")
def version():
    return {version}
"""


def test_a_change_is_the_code_of_the_next_task_and_a_mistake_waits_for_the_next_change(redis_url: str, tmp_path: Path) -> None:
    module = tmp_path / "tasks.py"
    module.write_text(CODE.format(version=1))
    app = FastQ("sender", broker=redis_url, backend=redis_url, set_as_current=False)
    with Worker(tmp_path, "--reload", "-c", "1", "-l", "INFO", env={"TEST_BROKER": redis_url}) as worker:
        try:
            worker.wait_ready()
            assert app.send_task("version").get(timeout=60) == 1
            module.write_text(CODE.format(version="2 +"))
            worker.wait_log("waiting for a change")
            assert "SyntaxError" in worker.log
            module.write_text(CODE.format(version=22))
            eventually(lambda: worker.log.count(" ready.") == 2, "the worker is back")
            assert app.send_task("version").get(timeout=60) == 22
            assert "Reloading: tasks.py changed" in worker.log
            os.kill(worker.pid, signal.SIGTERM)
            assert worker.process.wait(60) == 0
        finally:
            app.close()


def test_reload_and_detach_exclude_each_other(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text("")
    done = Worker.command(tmp_path, "worker", "--reload", "--detach")
    assert done.returncode == 2 and "exclude each other" in done.stderr
