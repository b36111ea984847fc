"""The file of the embedded transport: made, shared, refused, replaced, locked, full."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fastq.exceptions import Fenced, ImproperlyConfigured, OperationalError
from fastq.records import DONE, Fetch, Publication, Settlement
from fastq.transports import TransportOptions
from fastq.transports.sqlite import SQLiteBroker, open_backend, open_broker
from fastq.transports.sqlite import schema as tables
from fastq.transports.sqlite.connection import Connection
from fastq.transports.sqlite.errors import explain
from fastq.transports.sqlite.url import parse

Open = Callable[..., SQLiteBroker]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue.db"


@pytest.fixture
def broker(path: Path) -> Iterator[Open]:
    """Open brokers on the file."""
    with contextlib.ExitStack() as stack:

        def open_one(query: str = "", **options: Any) -> SQLiteBroker:
            return stack.enter_context(contextlib.closing(open_broker(f"sqlite:///{path}{query}", TransportOptions(**options))))

        yield open_one


def publish(broker: SQLiteBroker, number: int = 1, *messages: bytes) -> None:
    broker.publish("p", number, [Publication("q", message) for message in messages or (b"message",)])


def test_the_file_carries_our_mark(path: Path, broker: Open) -> None:
    publish(broker())
    with contextlib.closing(sqlite3.connect(path)) as sql:
        assert sql.execute("PRAGMA application_id").fetchone() == (tables.APPLICATION_ID,)
        assert sql.execute("PRAGMA user_version").fetchone() == (tables.VERSION,)
        assert sql.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_closing_the_last_connection_leaves_one_file(path: Path, broker: Open) -> None:
    one, two = broker(), broker()
    publish(one)
    two.renew(["q"], ["w"], 1000)
    one.close()
    two.close()
    assert os.listdir(path.parent) == [path.name]
    assert broker().fetch(Fetch("w", 1, ("q",), 1)).leased[0].messages == [b"message"]


def test_many_processes_may_make_the_file_at_once(path: Path, broker: Open) -> None:
    brokers = [broker() for _ in range(12)]
    start = threading.Barrier(len(brokers))
    errors: list[BaseException] = []

    def first_call(i: int) -> None:
        try:
            start.wait()
            brokers[i].publish(f"p{i}", 1, [Publication("q", b"m")])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=first_call, args=(i,)) for i in range(len(brokers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    brokers[0].renew(["q"], ["w"], 1000)
    assert len(brokers[0].fetch(Fetch("w", 1, ("q",), 100)).leased[0].tags) == len(brokers)


#: version of the files that knew no pauses, nodes, events and timetables
BEFORE = 3


def test_a_file_of_the_version_before_is_brought_up_once_by_whoever_comes_first(path: Path, broker: Open) -> None:
    old = broker()
    publish(old, 1, b"waits", b"taken")
    old.renew(["q"], ["w"], 60_000)
    old.fetch(Fetch("w", 1, ("q",), 1))
    old.close()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as sql:
        since = "".join(tables.STEPS[BEFORE:])
        for name in re.findall(r"CREATE INDEX (\w+)", since):
            sql.execute(f"DROP INDEX {name}")
        for table, column in re.findall(r"ALTER TABLE (\w+) ADD COLUMN (\w+)", since):
            sql.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        for name in re.findall(r"CREATE TABLE (\w+)", since):
            sql.execute(f"DROP TABLE {name}")
        sql.execute(f"PRAGMA user_version = {BEFORE}")
        # as a process of that version has it open
        assert sql.execute("SELECT count(*) FROM ready").fetchone() == (1,)
        brokers = [broker() for _ in range(8)]
        start = threading.Barrier(len(brokers))

        def first_call(i: int) -> None:
            start.wait()
            brokers[i].publish(f"p{i}", 1, [Publication("q", b"new")])

        with ThreadPoolExecutor(len(brokers)) as threads:
            list(threads.map(first_call, range(len(brokers))))
        assert sql.execute("PRAGMA user_version").fetchone() == (tables.VERSION,)
        assert sql.execute("SELECT count(*) FROM ready").fetchone() == (9,)
        (key, message) = sql.execute("SELECT key, message FROM ready ORDER BY key LIMIT 1").fetchone()
        sql.execute("DELETE FROM ready WHERE key = ?", (key,))
        assert message == b"taken"
    (leased,) = brokers[0].fetch(Fetch("w", 2, ("q",), 100)).leased
    assert leased.messages == [b"new"] * 8
    with contextlib.closing(sqlite3.connect(path)) as sql:
        there = {name for (name,) in sql.execute("SELECT name FROM sqlite_master WHERE name NOT LIKE 'sqlite%'")}
        assert there == set(tables.names())


def test_a_newer_schema_is_refused(path: Path, broker: Open) -> None:
    publish(broker())
    with contextlib.closing(sqlite3.connect(path)) as sql:
        sql.execute(f"PRAGMA user_version = {tables.VERSION + 1}")
    with pytest.raises(ImproperlyConfigured, match=r"newer fastq.*upgrade"):
        publish(broker())


def test_another_applications_database_is_left_as_it_is(path: Path, broker: Open) -> None:
    with contextlib.closing(sqlite3.connect(path)) as sql:
        sql.execute("CREATE TABLE theirs (x)")
    before = path.read_bytes()
    with pytest.raises(ImproperlyConfigured, match="another application"):
        publish(broker())
    assert path.read_bytes() == before


def test_what_is_no_database_is_left_as_it_is(path: Path, broker: Open) -> None:
    path.write_text("Dear diary, " * 1000)
    with pytest.raises(ImproperlyConfigured, match="not an SQLite database"):
        publish(broker())
    assert path.read_text().startswith("Dear diary")


def test_an_empty_file_is_taken(path: Path, broker: Open) -> None:
    path.touch()
    publish(broker())


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    broker = open_broker(f"sqlite:///{tmp_path}/no/such/queue.db", TransportOptions())
    with pytest.raises(ImproperlyConfigured, match=f"no directory {tmp_path}/no/such"):
        publish(broker)


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    broker = open_broker(f"sqlite:///{tmp_path}", TransportOptions())
    with pytest.raises(ImproperlyConfigured, match="it is a directory"):
        publish(broker)


def test_a_file_that_turns_read_only_is_an_operational_error(broker: Open) -> None:
    one = broker()
    publish(one)
    one._database.opened().execute("PRAGMA query_only = ON")
    with pytest.raises(OperationalError, match="cannot be written"):
        publish(one, 2)


def test_a_file_that_was_read_only_from_the_start_is_a_wrong_setting(path: Path, broker: Open) -> None:
    publish(broker())
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as sql:
        with pytest.raises(sqlite3.OperationalError) as caught:
            sql.execute("DELETE FROM ready")
        assert isinstance(explain(caught.value, str(path), 1, worked=False), ImproperlyConfigured)
        assert isinstance(explain(caught.value, str(path), 1, worked=True), OperationalError)


def test_a_full_disk_changes_nothing(broker: Open) -> None:
    one = broker()
    publish(one, 1, b"kept")
    sql = one._database.opened()
    (pages,) = sql.execute("PRAGMA page_count").fetchone()
    sql.execute(f"PRAGMA max_page_count = {pages + 5}")
    with pytest.raises(OperationalError, match="disk is full"):
        publish(one, 2, b"x" * 1_000_000)
    one.renew(["q"], ["w"], 1000)
    assert one.fetch(Fetch("w", 1, ("q",), 100)).leased[0].messages == [b"kept"]
    sql.execute("PRAGMA max_page_count = 1000000")
    publish(one, 2, b"x" * 1_000_000)
    assert one.fetch(Fetch("w", 2, ("q",), 100)).leased[0].messages == [b"x" * 1_000_000]


def test_a_locked_file_is_waited_for_and_then_named(path: Path, broker: Open) -> None:
    one = broker(socket_timeout_s=0.1)
    publish(one)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(OperationalError, match=r"locked by another process for over 0\.1 s"):
            publish(one, 2)
        patient = broker()
        writer = threading.Thread(target=publish, args=(patient, 3))
        writer.start()
        other.execute("COMMIT")
        writer.join()
    publish(one, 4)
    one.renew(["q"], ["w"], 1000)
    assert len(one.fetch(Fetch("w", 1, ("q",), 100)).leased[0].tags) == 3


def test_a_replaced_file_is_noticed(path: Path, broker: Open) -> None:
    one = broker()
    publish(one)
    one.renew(["q"], ["w"], 1000)
    assert one.fetch(Fetch("w", 1, ("q",), 1)).leased
    for file in path.parent.iterdir():
        file.unlink()
    with pytest.raises(Fenced):
        one.fetch(Fetch("w", 2, ("q",), 1))
    other = broker()
    publish(other)
    one.renew(["q"], ["w2"], 1000)
    assert one.fetch(Fetch("w2", 1, ("q",), 1)).leased


def test_an_error_inside_a_transaction_undoes_it(broker: Open) -> None:
    one = broker()
    with pytest.raises(ValueError, match="priority 10"):
        one.publish("p", 1, [Publication("fresh", b"good"), Publication("fresh", b"bad", level=10)])
    one.publish("p", 1, [Publication("other", b"good")])
    one.publish("p", 2, [Publication("fresh", b"good")])
    one.renew(["fresh", "other"], ["w"], 1000)
    leased = one.fetch(Fetch("w", 1, ("fresh", "other"), 10)).leased
    assert sorted((one.queue, list(one.messages)) for one in leased) == [("fresh", [b"good"]), ("other", [b"good"])]


def test_an_interrupt_leaves_a_usable_connection(path: Path) -> None:
    connection = Connection(parse(f"sqlite:///{path}"), timeout_s=1)
    with pytest.raises(KeyboardInterrupt), connection as sql:
        sql.execute("INSERT INTO queues (name) VALUES ('half')")
        raise KeyboardInterrupt
    with connection as sql:
        assert sql.execute("SELECT count(*) FROM queues").fetchone() == (0,)
    connection.shut()


def test_a_signal_handler_cannot_break_into_a_transaction(path: Path) -> None:
    connection = Connection(parse(f"sqlite:///{path}"), timeout_s=1)
    with connection as sql:
        sql.execute("INSERT INTO queues (name) VALUES ('whole')")
        with pytest.raises(OperationalError, match="signal handler"), connection:
            pass
    assert connection.read("SELECT name FROM queues") == [("whole",)]
    connection.shut()


def test_full_durability_is_set_on_request(broker: Open) -> None:
    normal, full = broker(), broker("?synchronous=full")
    assert normal._database.read("PRAGMA synchronous") == [(1,)]
    assert full._database.read("PRAGMA synchronous") == [(2,)]


def test_a_fork_finds_no_open_connection_and_no_held_lock(broker: Open) -> None:
    one = broker()
    publish(one, 1)
    one.renew(["q"], ["w"], 60_000)
    stop = threading.Event()
    number = iter(range(2, 1_000_000))

    def write() -> None:
        while not stop.is_set():
            publish(one, next(number))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(5):
            child = os.fork()
            if child == 0:
                # The child: anything but the expected end is a failure.
                code = 1
                with contextlib.suppress(BaseException):
                    signal.alarm(20)
                    assert one._database._sql is None
                    fresh = open_broker(one.url, TransportOptions())
                    fresh.publish(f"child {os.getpid()}", 1, [Publication("children", b"m")])
                    fresh.close()
                    code = 0
                os._exit(code)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        writer.join()
    one.renew(["children"], ["w"], 60_000)
    assert len(one.fetch(Fetch("w", 1, ("children",), 100)).leased[0].tags) == 5
    with contextlib.closing(sqlite3.connect(one.path)) as sql:
        assert sql.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_killed_writer_loses_nothing_committed_and_keeps_nothing_half(path: Path, broker: Open) -> None:
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            mine = open_broker(f"sqlite:///{path}", TransportOptions())
            publish(mine, 1, b"committed")
            with mine._database as sql:
                sql.execute("INSERT INTO ready VALUES (5, 'half')")
                os.kill(os.getpid(), signal.SIGKILL)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    one = broker()
    one.renew(["q"], ["w"], 1000)
    assert one.fetch(Fetch("w", 1, ("q",), 100)).leased[0].messages == [b"committed"]
    assert one._database.read("SELECT count(*) FROM ready") == [(0,)]


def test_a_tag_is_never_given_out_twice(broker: Open) -> None:
    one = broker()
    one.renew(["q"], ["w"], 60_000)
    seen: list[str] = []
    for number in range(1, 6):
        publish(one, number, b"a", b"b")
        (leased,) = one.fetch(Fetch("w", number, ("q",), 10)).leased
        seen += leased.tags
        one.settle("w", [Settlement("q", tag, "x", DONE) for tag in leased.tags], results=True)
    assert len(set(seen)) == 10


def test_links_to_one_file_are_one_store(path: Path, broker: Open, tmp_path: Path) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(path)
    one = broker()
    through_link = open_backend(f"sqlite:///{link}", TransportOptions())
    assert through_link.shares(one)
    publish(one)
    assert through_link.shares(one)
    assert not open_backend(f"sqlite:///{tmp_path}/other.db", TransportOptions()).shares(one)
