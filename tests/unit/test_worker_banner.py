"""What a worker prints when it starts."""

from __future__ import annotations

import datetime
import json
from dataclasses import replace
from pathlib import Path

import pytest

from fastq import FastQ
from fastq.exceptions import ImproperlyConfigured
from fastq.worker.banner import banner
from fastq.worker.hello import Hello, configure, introduce, shape, unshared
from fastq.worker.options import WorkerOptions

HELLO = Hello(
    app="tasks:0x7f0000000010",
    broker_url="redis://:secret@localhost:6379/0",
    backend_url="redis://:secret@localhost:6379/0",
    broker_display="redis://:**@localhost:6379/0",
    backend_display="redis://:**@localhost:6379/0",
    pool="prefork",
    concurrency=4,
    processes=4,
    slots=1,
    queues=("default", "mail"),
    tasks=("tasks.add", "tasks.mul"),
    lease_ms=15_000,
    max_deliveries=3,
    transport={"prefix": "fastq:"},
    run_once=("tasks.once",),
)


def lines(hello: Hello) -> list[str]:
    return banner(hello, "w1@host", datetime.datetime(2026, 1, 2, 3, 4, 5)).splitlines()


def test_lines_are_celerys() -> None:
    text = "\n".join(lines(HELLO))
    assert (
        """[config]
.> app:         tasks:0x7f0000000010
.> transport:   redis://:**@localhost:6379/0
.> results:     redis://:**@localhost:6379/0
.> concurrency: 4 (prefork)
.> task events: OFF

[queues]
.> default      exchange=default(direct) key=default
.> mail         exchange=mail(direct) key=mail

[tasks]
  . tasks.add
  . tasks.mul"""
        in text
    )


def test_head_names_node_version_and_date() -> None:
    head = "\n".join(lines(HELLO)[:7])
    assert "w1@host v" in head and "2026-01-02 03:04:05" in head


def test_no_password_is_shown() -> None:
    assert "secret" not in "\n".join(lines(HELLO))


def test_the_path_of_the_embedded_file_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    app = FastQ("tasks", set_as_current=False)
    hello = introduce(app, configure(app, WorkerOptions(pool="solo")))
    assert hello.embedded == f"{tmp_path}/fastq.db"


def test_a_result_backend_that_does_not_exist_is_refused_before_any_process_starts() -> None:
    app = FastQ("tasks", broker="redis://h", backend="foo://h", set_as_current=False)
    with pytest.raises(ImproperlyConfigured, match="No transport for foo://"):
        introduce(app, configure(app, WorkerOptions(pool="solo")))


def test_the_embedded_broker_says_where_its_file_is() -> None:
    assert "/srv/app/fastq.db" in "\n".join(lines(replace(HELLO, embedded="/srv/app/fastq.db")))


def test_several_processes_of_many_slots_are_said() -> None:
    assert ".> concurrency: 500 (gevent, 2 processes)" in lines(replace(HELLO, pool="gevent", concurrency=500, processes=2))


def test_hello_survives_its_way_through_json() -> None:
    assert Hello.from_message(json.loads(json.dumps(HELLO.to_message()))) == HELLO


def test_processes_and_slots() -> None:
    assert shape("prefork", 4, None) == (4, 1)
    assert shape("prefork", 4, 2) == (4, 1)
    assert shape("threads", 10, None) == (1, 10)
    assert shape("gevent", 500, 2) == (2, 500)
    assert shape("solo", 4, 3) == (1, 1)


def test_a_broker_inside_one_process_is_refused_with_what_to_use_instead() -> None:
    unshared(HELLO)
    with pytest.raises(ImproperlyConfigured, match="sqlite:///"):
        unshared(replace(HELLO, broker_url="memory://", broker_display="memory://"))


def application(**settings: object) -> FastQ:
    app = FastQ("proj", broker="redis://:secret@localhost:6379/0", set_as_current=False, **settings)

    @app.task
    def late() -> None: ...

    @app.task(acks_late=False, ignore_result=True)
    def early() -> None: ...

    return app


def test_hello_tells_what_supervising_needs() -> None:
    app = application(worker_lease=3.0, worker_pool="threads", worker_concurrency=7)
    options = configure(app, WorkerOptions(queues=("a", "b"), result_backend="redis://localhost/1"))
    hello = introduce(app, options)
    assert (hello.pool, hello.processes, hello.slots, hello.queues, hello.lease_ms) == ("threads", 1, 7, ("a", "b"), 3_000)
    module = __name__
    assert hello.tasks == (f"{module}.early", f"{module}.late"), "fastq's own tasks are not shown"
    assert f"{module}.early" in hello.run_once and f"{module}.late" not in hello.run_once
    assert f"{module}.early" in hello.unstored and f"{module}.late" not in hello.unstored
    assert hello.broker_display == "redis://:**@localhost:6379/0" and hello.backend_display == "redis://localhost:6379/1"
    assert hello.app.startswith("proj:0x")
    assert Hello.from_message(json.loads(json.dumps(hello.to_message()))) == hello


def test_the_command_line_wins_over_the_settings() -> None:
    app = application(worker_pool="threads", worker_concurrency=7, worker_processes=2)
    given = WorkerOptions(pool="prefork", concurrency=3, broker="redis://other:6379/0", retry=False)
    hello = introduce(app, configure(app, given))
    assert (hello.processes, hello.slots) == (3, 1)
    assert (hello.pool, hello.broker_url, hello.retry) == ("prefork", "redis://other:6379/0", False)
    assert hello.queues == ("default",)
    assert introduce(app, configure(app, WorkerOptions(pool="prefork", processes=5))).processes == 5


def test_options_that_cannot_reach_the_supervisor_are_refused() -> None:
    app = application(broker_transport_options={"retry": object()})
    with pytest.raises(ImproperlyConfigured, match=r"broker_transport_options\['retry'\] is object"):
        introduce(app, configure(app, WorkerOptions()))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://", "redis://localhost:6379/0"),
        ("redis://localhost", "redis://localhost:6379/0"),
        ("redis://:secret@example.org/2", "redis://:**@example.org:6379/2"),
        ("rediss://[::1]:7000/0", "rediss://[::1]:7000/0"),
        ("sqlite:////srv/fastq.db", "sqlite:////srv/fastq.db"),
    ],
)
def test_shown_urls_are_complete(url: str, shown: str) -> None:
    app = FastQ("proj", broker=url, set_as_current=False)
    assert introduce(app, configure(app, WorkerOptions())).broker_display == shown


def test_root_does_not_accept_pickle_unless_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    app = application(accept_content=["json", "pickle"])
    monkeypatch.delenv("C_FORCE_ROOT", raising=False)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    with pytest.raises(ImproperlyConfigured, match="C_FORCE_ROOT"):
        configure(app, WorkerOptions())
    monkeypatch.setenv("C_FORCE_ROOT", "1")
    configure(app, WorkerOptions())
    monkeypatch.delenv("C_FORCE_ROOT")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    configure(app, WorkerOptions())


def test_a_worker_that_checks_signatures_needs_a_key_of_its_own() -> None:
    app = application(security_trusted_keys=["a secret of another team"])
    with pytest.raises(ImproperlyConfigured, match="security_key of its own"):
        configure(app, WorkerOptions())
    configure(application(security_key="a secret of this very team"), WorkerOptions())
