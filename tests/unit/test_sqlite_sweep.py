"""Nothing stays in the file for ever: bounded sweeps, and full inboxes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastq import _core
from fastq.exceptions import OperationalError
from fastq.records import DEAD, Fetch, Lease, Publication, Settlement, StoredResult
from fastq.transports import TransportOptions
from fastq.transports.sqlite import SQLiteBackend, SQLiteBroker, results, sweep
from fastq.transports.sqlite.mail import Post, Receiver, address_of
from fastq.transports.sqlite.url import parse

RECORD = _core.encode_result("SUCCESS", "application/x-msgpack", b"\xc0", None, 0, None)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/queue.db"


@pytest.fixture
def broker(url: str) -> Iterator[SQLiteBroker]:
    with contextlib.closing(SQLiteBroker(parse(url), TransportOptions())) as broker:
        yield broker


@pytest.fixture
def backend(url: str) -> Iterator[SQLiteBackend]:
    with contextlib.closing(SQLiteBackend(parse(url), TransportOptions())) as backend:
        yield backend


def count(broker: SQLiteBroker, table: str) -> int:
    return int(broker._database.read(f"SELECT count(*) FROM {table}")[0][0])


def age(broker: SQLiteBroker, table: str, column: str, value: int = 1) -> None:
    with broker._database as sql:
        sql.execute(f"UPDATE {table} SET {column} = ?", (value,))


def test_expired_results_go_at_the_next_renewal_a_bounded_number(broker: SQLiteBroker, backend: SQLiteBackend) -> None:
    backend.store([StoredResult(f"{i:05}", RECORD) for i in range(sweep.MOST - 100)])
    backend.store([StoredResult(f"late {i}", RECORD) for i in range(200)])
    age(broker, "results", "expires_ms")
    broker.renew(["q"], [], 1000)
    assert count(broker, "results") == 100
    broker.renew(["q"], [], 1000)
    assert count(broker, "results") == 0


def test_storing_keeps_pace_with_expiry(broker: SQLiteBroker, backend: SQLiteBackend) -> None:
    backend.store([StoredResult(f"{i:05}", RECORD) for i in range(results.SWEEP_EVERY - 1)])
    age(broker, "results", "expires_ms")
    backend.store([StoredResult("young", RECORD)])
    assert count(broker, "results") == 1


def test_what_never_expires_stays(url: str, broker: SQLiteBroker) -> None:
    with contextlib.closing(SQLiteBackend(parse(url), TransportOptions(result_expires_s=None))) as backend:
        backend.store([StoredResult("a", RECORD)])
        broker.renew(["q"], [], 1000)
        assert backend.get(["a"]) == [RECORD]


def test_a_progress_report_may_replace_an_expired_end(broker: SQLiteBroker, backend: SQLiteBackend) -> None:
    backend.store([StoredResult("a", RECORD)])
    age(broker, "results", "expires_ms")
    progress = _core.encode_result("PROGRESS", "application/x-msgpack", b"\xc0", None, 0, None)
    backend.store([StoredResult("a", progress)], final=False)
    assert backend.get(["a"]) == [progress]


def test_old_producer_numbers_tombstones_and_notes_go(broker: SQLiteBroker) -> None:
    broker.publish("p", 1, [Publication("q", b"m")])
    broker.renew(["q"], ["w"], 1000)
    broker.condemn([Lease("q", "w", "")])
    broker.release("q", "w", {})
    with broker._database as sql:
        sql.execute("INSERT INTO missed (inbox, missed_ms) VALUES ('gone', 1)")
    broker.renew(["q"], [], 1000)
    assert (count(broker, "producers"), count(broker, "leases"), count(broker, "missed")) == (1, 1, 0)
    age(broker, "producers", "seen_ms")
    age(broker, "leases", "gone_ms")
    broker.renew(["q"], [], 1000)
    assert (count(broker, "producers"), count(broker, "leases")) == (0, 0)


def test_old_dead_letters_go(broker: SQLiteBroker) -> None:
    broker.renew(["q"], ["w"], 60_000)
    broker.publish("p", 1, [Publication("q", b"a"), Publication("q", b"b")])
    (leased,) = broker.fetch(Fetch("w", 1, ("q",), 10)).leased
    broker.settle("w", [Settlement("q", tag, "x", DEAD, reason="failed") for tag in leased.tags], results=True)
    with broker._database as sql:
        sql.execute("UPDATE dead SET dead_ms = 1 WHERE id = 1")
    broker.renew(["q"], [], 1000)
    assert broker._database.read("SELECT message FROM dead") == [(b"b",)]


def test_what_a_full_inbox_does_not_take_is_found_in_the_file(backend: SQLiteBackend, broker: SQLiteBroker) -> None:
    with contextlib.closing(backend.inbox("mine")) as inbox:
        inbox.open()
        for i in range(700):
            backend.store([StoredResult(str(i), RECORD, "mine")])
        assert count(broker, "missed") > 0
        got: dict[str, bytes | None] = {}
        while len(got) < 700:
            some = inbox.read(10)
            assert some
            got.update(some)
        assert count(broker, "missed") == 0
        assert {record for record in got.values()} == {RECORD, None}


def test_an_inbox_that_never_reads_costs_a_bounded_number_of_notes(
    backend: SQLiteBackend, broker: SQLiteBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "MISSED_NOTES", 5)
    with contextlib.closing(backend.inbox("mine")) as inbox:
        inbox.open()
        for i in range(700):
            backend.store([StoredResult(str(i), RECORD, "mine")])
        assert count(broker, "missed") == 6
        with pytest.raises(OperationalError, match="missed too many"):
            while inbox.read(0):
                pass
        inbox.open()
        assert count(broker, "missed") == 0
        backend.store([StoredResult("after", RECORD, "mine")])
        assert "after" in dict(inbox.read(10))


def test_a_note_without_a_datagram_is_found_while_waiting(backend: SQLiteBackend, broker: SQLiteBroker) -> None:
    with contextlib.closing(backend.inbox("mine")) as inbox:
        inbox.open()
        got: list[tuple[str, bytes | None]] = []
        reader = threading.Thread(target=lambda: got.extend(inbox.read(20)))
        reader.start()
        with broker._database as sql:
            sql.execute("INSERT INTO missed (inbox, missed_ms, ids) VALUES ('mine', 1, ?)", (_core.packb(["a"]),))
        reader.join(20)
        assert got == [("a", None)]


def test_a_stranger_who_knows_the_address_but_not_the_name_is_not_believed(backend: SQLiteBackend) -> None:
    with contextlib.closing(backend.inbox("mine")) as inbox, contextlib.closing(Post()) as post:
        inbox.open()
        identity = inbox._identity
        for junk in (b"", b"\xc1", b"junk" * 50, _core.packb(["other", [("a", b"false")]]), _core.packb(["mine"]), _core.packb(7)):
            post._send(identity, "mine", junk)
        assert inbox.read(0.05) == []
        post.results(identity, "mine", [("a", b"true")])
        assert inbox.read(10) == [("a", b"true")]


def test_the_address_says_nothing_of_the_name() -> None:
    assert "node" not in address_of("store", "node.1") and address_of("store", "a") != address_of("other", "a")


def test_one_name_has_one_receiver() -> None:
    one, two = Receiver("same"), Receiver("same")
    one.open("store")
    one.open("store")
    with pytest.raises(OperationalError, match="in use"):
        two.open("store")
    one.close()
    two.open("store")
    two.close()
