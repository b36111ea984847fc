"""Broadcast queues: every node that runs gets a copy, and what a node leaves behind is cleaned up by those that stay."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from fastq.queues import Broadcast, Queue
from fastq.transports import Inspector, open_inspector
from tests.integration.conftest import ran
from tests.workers import Worker, eventually

CONFIG = """
from fastq.queues import Broadcast, Queue

task_queues = [Queue("default"), Broadcast("news")]
"""


@pytest.fixture
def inspector(tasks: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Inspector:
    (tmp_path / "news_config.py").write_text(CONFIG)
    tasks.app.conf.update(task_queues=[Queue("default"), Broadcast("news")])
    return open_inspector(tasks.app.broker_url, tasks.app.transport_options())


def node(tmp_path: Path, name: str, pool: str) -> Worker:
    return Worker(tmp_path, "-n", name, "-P", pool, "-c", "2", env={"FASTQ_CONFIG_MODULE": "news_config"})


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_each_node_runs_its_copy(pool: str, tasks: ModuleType, inspector: Inspector, tmp_path: Path, folder: Path) -> None:
    result = tasks.mark.apply_async(("unheard",), queue="news")
    assert result.id
    with node(tmp_path, "one@a", pool).wait_ready() as one, node(tmp_path, "two@b", pool).wait_ready() as two:
        tasks.mark.apply_async(("heard",), queue="news")
        eventually(lambda: len(ran(folder, "heard")) == 2, "each node has run its copy")
        assert ".> news.one@a" in one.log and ".> news.two@b" in two.log
        assert two.terminate() == 0
        eventually(lambda: tasks.app._listeners("news") == ["one@a"], "the stopped node listens no more")
        tasks.mark.apply_async(("alone",), queue="news")
        eventually(lambda: len(ran(folder, "alone")) == 1, "the node that stays has run its copy")
        assert one.terminate() == 0
    assert tasks.app._listeners("news") == []
    assert inspector.depth("news.one@a")["ready"] == inspector.depth("news.two@b")["ready"] == 0
    assert not ran(folder, "unheard"), "sent while nobody listened"


def test_the_copies_of_a_node_that_died_are_dropped(
    tasks: ModuleType, inspector: Inspector, tmp_path: Path, folder: Path
) -> None:
    with node(tmp_path, "stays@a", "prefork").wait_ready():
        with node(tmp_path, "dies@b", "prefork").wait_ready() as dies:
            dies.kill_all()
        tasks.mark.apply_async(("heard",), queue="news")
        eventually(lambda: ran(folder, "heard"), "the living node has run its copy")
        eventually(lambda: tasks.app._listeners("news") == ["stays@a"], "the dead node is noticed")
        eventually(
            lambda: not any(inspector.depth("news.dies@b")[kind] for kind in ("ready", "leased")), "its copies are dropped"
        )
        assert inspector.listeners("news.dies@b") == []
