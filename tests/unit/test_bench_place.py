"""A user's own broker while it is measured: the same file from every directory, and no trace afterwards."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from fastq import FastQ
from fastq.bench.place import BorrowedPlace

TABLES = ("queues", "ready", "leased", "delayed", "leases", "idle", "producers", "results", "dead", "missed")


def rows(path: Path) -> dict[str, int]:
    sql = sqlite3.connect(path)
    try:
        return {table: sql.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in TABLES}
    finally:
        sql.close()


def test_a_relative_file_is_the_same_for_workers_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    app = FastQ("t", broker="sqlite:///bench.db?synchronous=full", set_as_current=False)
    place = BorrowedPlace(app)
    try:
        assert place.broker_url == f"sqlite:///{tmp_path}/bench.db?synchronous=full"
        assert place.backend_url == place.broker_url
    finally:
        place.close()
        app.close()


def test_nothing_is_left_in_the_file(tmp_path: Path) -> None:
    with FastQ("t", broker=f"sqlite:///{tmp_path}/mine.db", set_as_current=False) as app:
        app.send_task("mine", (), queue="mine")
        before = rows(tmp_path / "mine.db")
        place = BorrowedPlace(app)
        place.fill("noop", [(i,) for i in range(10)])
        broker = app.open_broker()
        try:
            broker.renew([place.queue], ["gone"], 60_000)
        finally:
            broker.close()
        assert rows(tmp_path / "mine.db") != before
        place.close()
        assert rows(tmp_path / "mine.db") == before
