"""Routes, exchanges and the queues of a worker, from the call to the run, with real workers."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from fastq.queues import Exchange
from tests.integration.conftest import ran
from tests.workers import Worker, eventually

CONFIG = """
from fastq.queues import Exchange, Queue

task_queues = [
    Queue("default"),
    Queue("left", Exchange("both", "fanout")),
    Queue("right", Exchange("both", "fanout")),
    Queue("orders", Exchange("shop", "topic"), "order.*"),
    Queue("slow"),
]
task_routes = {"tasks.add": {"exchange": "shop", "routing_key": "order.new"}}
"""


@pytest.fixture
def config(tasks: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop_config.py").write_text(CONFIG)
    namespace: dict[str, object] = {}
    exec(CONFIG, namespace)
    tasks.app.conf.update(task_queues=namespace["task_queues"], task_routes=namespace["task_routes"])


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_a_worker_takes_what_is_routed_to_its_queues(
    pool: str, tasks: ModuleType, config: None, tmp_path: Path, folder: Path
) -> None:
    assert [queue.exchange for queue in tasks.app.router.consumed(["orders"])] == [Exchange("shop", "topic")]
    tasks.mark.apply_async(("stale",), queue="orders")
    options = ("-P", pool, "-c", "1", "-X", "slow", "--purge")
    with Worker(tmp_path, *options, env={"FASTQ_CONFIG_MODULE": "shop_config"}).wait_ready() as worker:
        assert tasks.add.delay(2, 3).get(timeout=60) == 5
        tasks.mark.apply_async(("copied",), exchange="both")
        eventually(lambda: len(ran(folder, "copied")) == 2, "a copy of a fanout ran for each of its queues")
        tasks.mark.apply_async(("slow",), queue="slow")
        assert tasks.add.delay(1, 1).get(timeout=60) == 2
        assert worker.terminate() == 0
        log = worker.log
    assert "purge: Erased 1 message from default, left, right, orders." in log
    assert ".> orders       exchange=shop(topic) key=order.*" in log
    assert not ran(folder, "stale"), "purged before the first task was taken"
    assert not ran(folder, "slow"), "excluded by -X"
