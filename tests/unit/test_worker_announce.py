"""Who is told of a worker's life, and what."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from fastq import FastQ, signals
from fastq.worker import announce
from fastq.worker.announce import Herald, WorkerNode
from fastq.worker.hello import configure, introduce
from fastq.worker.options import WorkerOptions

WATCHED = ("celeryd_init", "worker_init", "celeryd_after_setup", "worker_ready", "worker_shutting_down", "worker_shutdown")


@pytest.fixture
def app() -> Iterator[FastQ]:
    made = FastQ("announced", broker="memory://announced", set_as_current=False)
    yield made
    made.close()


@pytest.fixture
def told() -> Iterator[list[tuple[str, Any, dict[str, Any]]]]:
    heard: list[tuple[str, Any, dict[str, Any]]] = []

    def receiver(signal: Any, sender: Any, **named: Any) -> None:
        heard.append((signal.name, sender, named))

    for name in WATCHED:
        getattr(signals, name).connect(receiver)
    yield heard
    for name in WATCHED:
        getattr(signals, name).disconnect(receiver)


def test_nobody_connected_costs_nothing(app: FastQ, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(WorkerNode, "of")
    options = WorkerOptions(hostname="w@h")
    announce.preloaded(app, options)
    announce.before_fork(app, options)
    herald = Herald(app, options)
    for message in ({"start": {"process": "p"}}, {"stop": "warm"}):
        herald.hear(message)
    herald.end()
    assert announce.set_up(app, configure(app, options)).hostname == "w@h"
    assert not announce.listened() and introduce(app, configure(app, options)).listened is False


def test_settings_may_be_changed_before_they_are_read_but_the_command_line_wins(app: FastQ) -> None:
    def change(sender: str, conf: Any, options: dict[str, Any], **_: Any) -> None:
        if sender == "w@h":
            conf.worker_concurrency = 3
            conf.task_time_limit = 99
            conf.worker_lease = 42

    signals.celeryd_init.connect(change)
    try:
        given = WorkerOptions(hostname="w@h", pool="threads", settings={"task_time_limit": 7})
        options = configure(app, given)
    finally:
        signals.celeryd_init.disconnect(change)
    assert (options.concurrency, app.conf.task_time_limit, introduce(app, options).lease_ms) == (3, 7, 42_000)


def test_a_process_tells_each_event_once(app: FastQ, told: list[tuple[str, Any, dict[str, Any]]]) -> None:
    herald = Herald(app, WorkerOptions(hostname="w@h"))
    for message in (
        {"start": {"process": "a"}},
        {"process": "b"},
        {"start": {"process": "b"}},
        {"stop": "warm", "sig": "SIGTERM"},
        {"stop": "warm", "sig": "SIGTERM"},
        {"stop": "cold", "sig": "SIGINT"},
    ):
        herald.hear(message)
    herald.end()
    assert [name for name, _, _ in told] == ["worker_ready", "worker_shutting_down", "worker_shutting_down", "worker_shutdown"]
    assert told[1][1:] == ("w@h", {"sig": "SIGTERM", "how": "Warm", "exitcode": 0})
    assert told[2][1:] == ("w@h", {"sig": "SIGINT", "how": "Cold", "exitcode": 1})


def test_a_process_that_is_replaced_does_not_tell_the_end_of_the_worker(
    app: FastQ, told: list[tuple[str, Any, dict[str, Any]]]
) -> None:
    herald = Herald(app, WorkerOptions(hostname="w@h"))
    herald.hear({"start": {"process": "a"}})
    herald.end()
    assert [name for name, _, _ in told] == ["worker_ready"]
