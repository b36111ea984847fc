"""What a supervisor asks and says of its broker at start, and whom it frees."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

import pytest

from fastq.exceptions import ImproperlyConfigured, OperationalError
from fastq.records import Fetch, Publication
from fastq.transports import TransportOptions
from fastq.transports.redis import RedisBroker
from fastq.worker import keeper as keeper_module
from tests.servers import RedisServer
from tests.unit.redis_parts import ids, message
from tests.unit.test_worker_keeper import Node
from tests.unit.test_worker_names import in_a_process_that_is_gone
from tests.unit.worker_fakes import FakeBroker


class Checked(FakeBroker):
    """A broker with a server to judge."""

    def __init__(self, warnings: list[str], refusal: str = "") -> None:
        super().__init__()
        self.warnings, self.refusal = warnings, refusal
        self.asked: list[tuple[str, ...]] = []
        self.away = 0

    def check_server(self, queues: tuple[str, ...]) -> list[str]:
        self.asked.append(queues)
        if self.refusal:
            raise ImproperlyConfigured(self.refusal)
        return self.warnings

    def renew(self, *arguments: object) -> list:  # type: ignore[type-arg, override]
        if self.away:
            self.away -= 1
            raise OperationalError("read-only replica")
        return super().renew(*arguments)  # type: ignore[arg-type]


def test_a_warning_about_the_server_is_told_once_however_often_it_is_tried(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keeper_module, "RETRY_STEP_S", 0.01)
    broker = Checked(["it writes nothing to disk"])
    broker.away = 3
    node = Node(broker).connect()
    node.turn_until(lambda: node.connected)
    assert broker.asked == [("default",)] * 4
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING] == ["it writes nothing to disk"]


def test_a_server_that_cannot_do_is_refused_without_another_try() -> None:
    broker = Checked([], refusal="it evicts keys")
    node = Node(broker).connect()
    assert node.gave_up == "it evicts keys" and not node.connected and len(broker.asked) == 1


def test_all_processes_of_a_dead_node_of_this_host_are_freed_at_start(tmp_path: Path) -> None:
    # of one supervisor that is gone, more processes than one answer lists
    stem = in_a_process_that_is_gone()[:-8]
    processes = [f"{stem}{i:08x}" for i in range(250)]
    with RedisServer(tmp_path) as server, contextlib.closing(RedisBroker(server.url, TransportOptions())) as broker:
        broker.renew(["default"], [*processes, "other@h.0.living"], 15_000)
        broker.publish("p", 1, [Publication("default", message(str(i))) for i in range(250)])
        for process in processes:
            assert len(ids(broker.fetch(Fetch(process, 1, ("default",), 1)))) == 1
        node = Node(broker).connect()  # type: ignore[arg-type]
        assert node.connected
        assert [lease.process for lease in broker.renew(["default"], [], 0)] == ["other@h.0.living"]
        node.keeper.enter("new")
        assert len(ids(broker.fetch(Fetch("new", 1, ("default",), 1000)))) == 250
