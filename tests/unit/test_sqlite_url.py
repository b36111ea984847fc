"""sqlite:// URLs are read as SQLAlchemy reads them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fastq.exceptions import ImproperlyConfigured
from fastq.transports import TransportOptions, open_backend, open_broker, open_inspector
from fastq.transports.sqlite.url import parse


def test_three_slashes_are_relative_and_four_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse("sqlite:///queue.db").path == f"{tmp_path}/queue.db"
    assert parse("sqlite:///sub/queue.db").path == f"{tmp_path}/sub/queue.db"
    assert parse("sqlite:////var/lib/queue.db").path == "/var/lib/queue.db"


def test_the_path_stays_when_the_directory_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    broker = open_broker("sqlite:///queue.db", TransportOptions())
    monkeypatch.chdir("/")
    broker.renew(["q"], [], 1000)
    broker.close()
    assert (tmp_path / "queue.db").exists()


def test_names_are_taken_as_they_are_written() -> None:
    assert parse("sqlite:////tmp/a b%20c#d.db").path == "/tmp/a b%20c#d.db"


def test_options_are_read() -> None:
    assert parse("sqlite:////x.db").synchronous == "normal"
    assert parse("sqlite:////x.db?synchronous=full").synchronous == "full"
    assert parse("sqlite:////x.db?synchronous=FULL").path == "/x.db"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqlite://", "names no file"),
        ("sqlite:///", "memory://"),
        ("sqlite:///:memory:", "memory://"),
        ("sqlite://host/x.db", "host name"),
        ("sqlite:////x.db?synchronous=off", "normal, full"),
        ("sqlite:////x.db?cache=shared", "unknown option cache"),
        ("sqlite:////x\0.db", "NUL"),
    ],
)
def test_what_cannot_be_used_is_named(url: str, words: str) -> None:
    for opener in (open_broker, open_backend, open_inspector):
        with pytest.raises(ImproperlyConfigured, match=words):
            opener(url, TransportOptions())


def test_opening_connects_to_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/queue.db"
    for opener in (open_broker, open_backend, open_inspector):
        opener(url, TransportOptions()).close()
    assert os.listdir(tmp_path) == []
