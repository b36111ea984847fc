"""What ``-Q``, ``-X``, ``--purge`` and settings behind the options do to a worker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fastq import FastQ
from fastq.exceptions import ImproperlyConfigured
from fastq.queues import Broadcast, Exchange, Queue
from fastq.transports import open_inspector
from fastq.worker.banner import banner
from fastq.worker.erase import erase
from fastq.worker.hello import Hello, configure, introduce
from fastq.worker.options import WorkerOptions


def hello(app: FastQ, options: WorkerOptions) -> Hello:
    return introduce(app, configure(app, options))


def application(tmp_path: Path, **settings: Any) -> FastQ:
    return FastQ("proj", broker=f"sqlite:///{tmp_path}/queue.db", set_as_current=False, **settings)


QUEUES = (Queue("default"), Queue("feed", Exchange("tasks", "topic"), "feed.#"), "mail")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (WorkerOptions(), ("default", "feed", "mail")),
        (WorkerOptions(queues=("mail", "new")), ("mail", "new")),
        (WorkerOptions(exclude_queues=("mail",)), ("default", "feed")),
        (WorkerOptions(queues=("mail", "feed"), exclude_queues=("feed",)), ("mail",)),
        (WorkerOptions(settings={"worker_direct": True}, hostname="w1@h", queues=("mail",)), ("mail", "w1@h.dq")),
    ],
)
def test_a_worker_takes_from_the_queues_that_are_left(tmp_path: Path, options: WorkerOptions, expected: tuple[str, ...]) -> None:
    with application(tmp_path, task_queues=QUEUES) as app:
        assert hello(app, options).queues == expected


def test_an_unknown_queue_is_refused_where_none_may_be_made(tmp_path: Path) -> None:
    with (
        application(tmp_path, task_queues=QUEUES, task_create_missing_queues=False) as app,
        pytest.raises(ImproperlyConfigured, match=r"no queue 'mial' \(did you mean 'mail'\?\)"),
    ):
        configure(app, WorkerOptions(queues=("mial",)))


def test_the_banner_shows_how_queues_are_bound(tmp_path: Path) -> None:
    with application(tmp_path, task_queues=(*QUEUES, Broadcast("news"))) as app:
        said = Hello.from_message(json.loads(json.dumps(hello(app, WorkerOptions(hostname="w1@h")).to_message())))
    text = banner(said, "w1@h")
    assert (
        """[queues]
.> default      exchange=default(direct) key=default
.> feed         exchange=tasks(topic) key=feed.#
.> mail         exchange=mail(direct) key=mail
.> news         exchange=news(fanout) key=news
.> news.w1@h    exchange=news(fanout) key=news
"""
        in text
    )


def test_settings_of_the_command_line_win_over_the_application(tmp_path: Path) -> None:
    with application(tmp_path, worker_lease=9, task_time_limit=5) as app:
        options = WorkerOptions(settings={"worker_lease": 20, "task_time_limit": 60, "broker_connection_max_retries": 7})
        said = hello(app, options)
        assert (said.lease_ms, said.max_retries, app.conf.task_time_limit) == (20_000, 7, 60)
        assert app.conf.origin("worker_lease") == "the command line"


def test_purge_drops_what_waits_in_the_workers_queues_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with application(tmp_path) as app:
        for queue, countdown in (("default", 0), ("default", 60), ("other", 0)):
            app.send_task("t", queue=queue, countdown=countdown)
        erase(hello(app, WorkerOptions(purge=True)))
        assert "purge: Erased 2 messages from default." in capfd.readouterr().err
        inspector = open_inspector(app.broker_url, app.transport_options())
        assert inspector.depth("default")["ready"] == inspector.depth("default")["delayed"] == 0
        assert inspector.depth("other")["ready"] == 1
        inspector.close()
