"""What a worker prints when it starts."""

from __future__ import annotations

import datetime
import json
from dataclasses import replace

import pytest

from fastq.exceptions import ImproperlyConfigured
from fastq.worker.banner import banner
from fastq.worker.hello import Hello, shape, unshared

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


def test_the_embedded_broker_says_where_its_file_is() -> None:
    assert "/srv/app/fastq.db" in "\n".join(lines(replace(HELLO, embedded="/srv/app/fastq.db")))


def test_several_processes_of_many_slots_are_said() -> None:
    assert ".> concurrency: 500 (gevent, 2 processes)" in lines(replace(HELLO, pool="gevent", concurrency=500, processes=2))


def test_hello_survives_its_way_through_json() -> None:
    assert Hello.from_message(json.loads(json.dumps(HELLO.to_message()))) == HELLO


def test_processes_and_slots() -> None:
    assert shape("prefork", 4, None) == (4, 1)
    assert shape("prefork", 4, 2) == (2, 1)
    assert shape("threads", 10, None) == (1, 10)
    assert shape("gevent", 500, 2) == (2, 500)
    assert shape("solo", 4, 3) == (1, 1)


def test_a_broker_inside_one_process_is_refused_with_what_to_use_instead() -> None:
    unshared(HELLO)
    with pytest.raises(ImproperlyConfigured, match="sqlite:///"):
        unshared(replace(HELLO, broker_url="memory://", broker_display="memory://"))
