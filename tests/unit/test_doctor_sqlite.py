"""What fastq doctor finds in the embedded broker's file, and what --fix does about it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastq import _core
from fastq.records import Fetch, Lease, Opening, Publication
from fastq.transports import Finding, Scope, TransportOptions, open_broker, open_examiner
from fastq.transports.sqlite import SQLiteExaminer, file_health, schema
from fastq.transports.sqlite.broker import SQLiteBroker
from tests.unit.redis_parts import LEASE_MS, ids, message

OPTIONS = TransportOptions(lease_ms=LEASE_MS)
#: what is so of every file in a test's directory
PLACE = {"synchronous-normal", "old-delivery", "volatile-file-system", "disk-nearly-full"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue.db"


@pytest.fixture
def broker(path: Path) -> Iterator[SQLiteBroker]:
    one = open_broker(f"sqlite:///{path}", OPTIONS)
    assert isinstance(one, SQLiteBroker)
    with contextlib.closing(one):
        yield one


@pytest.fixture
def sql(path: Path, broker: SQLiteBroker) -> Iterator[sqlite3.Connection]:
    broker.renew(["q"], ["alive"], LEASE_MS)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


@pytest.fixture
def examined(path: Path) -> Callable[..., list[Finding]]:
    def examine(options: TransportOptions = OPTIONS, **scope: Any) -> list[Finding]:
        examiner = open_examiner(f"sqlite:///{path}", options, Scope(**scope))
        assert isinstance(examiner, SQLiteExaminer)
        examine.examiner = examiner  # type: ignore[attr-defined]
        return [finding for finding in examiner.examine() if finding.code not in PLACE]

    return examine


def said(findings: list[Finding]) -> list[tuple[str, str]]:
    return sorted((finding.level, finding.code) for finding in findings)


def member(join: str, id: str = "m") -> bytes:
    return _core.encode(id, "t", "c", b"", 1, None, 0, None, {"flow": {"join": [join, "0", "q"]}})


def test_a_file_in_use_gives_no_finding_and_is_not_changed(broker: SQLiteBroker, sql: Any, path: Path, examined: Any) -> None:
    body = Publication("q", message("body"))
    broker.publish("p", 1, [Publication("q", member("j"))], [Opening("j", 1, body)])
    broker.publish("p", 2, [Publication("q", message(str(i)), level=i) for i in range(5)])
    broker.publish("p", 3, [Publication("q", message("later"), delay_ms=60_000)])
    assert ids(broker.fetch(Fetch("alive", 1, ("q",), 1))) == ["4"]
    (before,) = sql.execute("PRAGMA data_version").fetchone()
    assert said(examined(declared=("q",))) == []
    assert sql.execute("PRAGMA data_version").fetchone() == (before,), "looking writes nothing"
    assert (examined.examiner.looked, examined.examiner.queues) == (7, ["q"])


def test_no_file_is_made_by_looking(path: Path, examined: Any) -> None:
    assert said(examined()) == [("note", "missing-file")]
    assert not path.exists()
    assert examined.examiner.mend() == []


def test_looking_alone_leaves_one_file(broker: SQLiteBroker, path: Path, examined: Any) -> None:
    broker.publish("p", 1, [Publication("q", message("1"))])
    broker.close()
    assert said(examined()) == [("warning", "unconsumed-queue")]
    assert os.listdir(path.parent) == [path.name]


def test_files_that_are_none_of_fastqs_are_named(path: Path, examined: Any) -> None:
    path.write_text("Dear diary, " * 1000)
    assert said(examined()) == [("error", "foreign-file")]
    path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE theirs (x)")
    assert said(examined()) == [("error", "foreign-file")]
    path.unlink()
    path.mkdir()
    assert said(examined()) == [("error", "foreign-file")]


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    examiner = open_examiner(f"sqlite:///{tmp_path}/no/such/q.db", OPTIONS, Scope())
    assert examiner is not None and said(list(examiner.examine())) == [("error", "missing-directory")]


def test_a_damaged_file_is_named(broker: SQLiteBroker, path: Path, examined: Any) -> None:
    broker.publish("p", 1, [Publication("q", message(str(i), b"x" * 3000)) for i in range(100)])
    broker.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(b"\xff" * 4096 * 5)
    found = examined()
    assert "damaged-file" in {finding.code for finding in found} and found[0].level == "error"


def test_tables_of_another_version_or_another_program_are_named(sql: Any, examined: Any) -> None:
    sql.execute("CREATE TABLE sessions (x)")
    sql.execute("CREATE INDEX sessions_x ON sessions (x)")
    assert [(finding.code, finding.subject) for finding in examined()] == [
        ("foreign-table", "sessions"),
        ("foreign-table", "sessions_x"),
    ]
    sql.execute("DROP TABLE sessions")
    sql.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    assert said(examined()) == [("error", "newer-tables")]
    sql.execute(f"PRAGMA user_version = {schema.VERSION - 1}")
    assert said(examined()) == [("note", "older-tables")]


def test_stuck_leases_waiting_messages_and_dead_letters_are_judged_as_on_redis(
    broker: SQLiteBroker, sql: Any, examined: Any
) -> None:
    broker.renew(["q"], ["p1", "p2"], LEASE_MS)
    broker.publish("p", 1, [Publication("q", message(str(i))) for i in range(3)])
    broker.fetch(Fetch("p1", 1, ("q",), 2))
    broker.condemn([Lease("q", "p2", "")])
    late = time.time_ns() // 1_000_000 - 3 * LEASE_MS
    sql.execute("UPDATE leases SET renewed_ms = ? WHERE process = 'p1'", (late,))
    found = examined()
    assert said(found) == [("error", "stuck-lease"), ("warning", "stuck-lease")]
    assert "holds 2 messages" in found[0].text
    sql.execute("UPDATE leases SET renewed_ms = ?", (late,))
    sql.execute("UPDATE leases SET gone_ms = 1 WHERE process = 'p2'")
    sql.execute("INSERT INTO dead SELECT NULL, no, 0, 1, 'failed', NULL, x'00' FROM queues")
    assert said(examined(declared=("q", "unused"))) == [
        ("error", "stuck-lease"),
        ("note", "dead-letters"),
        ("note", "no-consumer"),
        ("warning", "stuck-lease"),
        ("warning", "unconsumed-queue"),
    ]


def test_messages_of_a_process_without_a_lease_go_back_charged(broker: SQLiteBroker, sql: Any, examined: Any) -> None:
    broker.renew(["q"], ["p1"], LEASE_MS)
    broker.publish("p", 1, [Publication("q", message(str(i))) for i in range(5)])
    broker.fetch(Fetch("p1", 1, ("q",), 3))
    sql.execute("DELETE FROM leases WHERE process = 'p1'")
    sql.execute("INSERT INTO idle (process, queue) SELECT 'who', no FROM queues")
    sql.execute("INSERT INTO members VALUES (99, 0, '', x'00', NULL)")
    assert said(examined()) == [("error", "ownerless-row"), ("warning", "ownerless-row"), ("warning", "ownerless-row")]
    assert len(examined.examiner.mend()) == 3
    assert said(examined()) == []
    again = broker.fetch(Fetch("alive", 1, ("q",), 10))
    assert ids(again) == ["0", "1", "2", "3", "4"]
    assert [_core.peek(item).deliveries for item in again.leased[0].messages] == [1, 1, 1, 0, 0]


@pytest.mark.parametrize("where", ["ready", "delayed", "leased", "body of another"])
def test_a_chord_is_owned_by_whatever_message_mentions_it(where: str, broker: SQLiteBroker, sql: Any, examined: Any) -> None:
    publications = [Publication("q", member("j1"), delay_ms=60_000 if where == "delayed" else 0)]
    openings = [Opening("j1", 1, Publication("q", message("body")))]
    if where == "body of another":
        openings.append(Opening("j2", 1, publications[0]))
        publications = [Publication("q", member("j2", "n"))]
    broker.publish("p", 1, publications, openings)
    if where == "leased":
        assert ids(broker.fetch(Fetch("alive", 1, ("q",), 1))) == ["m"]
    assert said(examined()) == []
    for table in ("ready", "delayed", "leased"):
        sql.execute(f"DELETE FROM {table}")
    (finding,) = examined()
    expected = "joins j2" if where == "body of another" else "joins j1"
    assert (finding.level, finding.code, finding.subject) == ("warning", "ownerless-row", expected)


def test_a_journal_that_is_no_wal_and_a_wal_that_grows_are_named(
    broker: SQLiteBroker, path: Path, examined: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.renew(["q"], ["alive"], LEASE_MS)
    monkeypatch.setattr(file_health, "WAL_BYTES", 10)
    assert said(examined()) == [("warning", "large-wal")]
    broker.close()
    with contextlib.closing(sqlite3.connect(path)) as sql:
        sql.execute("PRAGMA journal_mode = DELETE")
    assert said(examined()) == [("warning", "no-wal")]


@pytest.mark.parametrize(
    ("type", "codes"),
    [("nfs4", ["network-file-system"]), ("tmpfs", ["volatile-file-system"]), ("ext4", [])],
)
def test_a_file_system_that_does_not_do_is_named(
    type: str, codes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_health, "file_system", lambda folder: type)
    monkeypatch.setattr(file_health, "FREE_BYTES", 0)
    found = file_health.file_findings(str(tmp_path / "q.db"))
    assert [finding.code for finding in found] == ["missing-file", *codes]


def test_the_file_system_of_a_directory_is_read_from_the_mounts() -> None:
    if os.path.exists("/proc/self/mounts"):
        assert file_health.file_system("/proc/self") == "proc"


def test_a_disk_with_little_room_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_health, "FREE_BYTES", 1 << 70)
    assert "disk-nearly-full" in [finding.code for finding in file_health.file_findings(str(tmp_path / "q.db"))]
