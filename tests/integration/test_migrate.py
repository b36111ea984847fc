"""``fastq migrate``: every message is at the destination once, and stays or goes at the source as asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from fastq import FastQ, chord
from fastq._core import peek
from fastq.cli import cli
from fastq.records import RETURN, Fetch, Settlement
from fastq.transports import TransportOptions, open_inspector


@pytest.fixture
def urls(redis_url: str, tmp_path: Path) -> tuple[str, str]:
    return f"sqlite:///{tmp_path}/source.db", redis_url


@pytest.fixture
def app(urls: tuple[str, str]) -> Iterator[FastQ]:
    app = FastQ("shop", broker=urls[0], backend=urls[0], set_as_current=False)

    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="total")
    def total(values: list[int]) -> int:
        return sum(values)

    yield app
    app.close()


def migrate(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(cli, ["migrate", *arguments])
    assert result.exit_code == code, result.output
    return result.output


def waiting(url: str, queue: str = "default") -> list[str]:
    inspector = open_inspector(url, TransportOptions())
    try:
        return [peek(message).id for message in inspector.peek(queue, 1000)]
    finally:
        inspector.close()


def depth(url: str, queue: str = "default") -> dict[str, int]:
    inspector = open_inspector(url, TransportOptions())
    try:
        return inspector.depth(queue)
    finally:
        inspector.close()


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_copy_leaves_the_source_as_it_was(app: FastQ, urls: tuple[str, str]) -> None:
    add = app.tasks["add"]
    ids = [add.delay(n, 1).id for n in range(500)]
    urgent = add.apply_async((1, 1), priority=9).id
    add.apply_async((1, 1), countdown=1000)
    assert "default: 502\n" in migrate(*urls)
    for url in urls:
        assert waiting(url) == [urgent, *ids]
        assert depth(url) == {"ready": 501, "delayed": 1, "leased": 0, "dead": 0}


def test_a_move_takes_what_was_asked_for_and_leaves_the_rest_in_its_order(app: FastQ, urls: tuple[str, str]) -> None:
    add, total = app.tasks["add"], app.tasks["total"]
    kept, moved = [], []
    for n in range(300):
        moved.append(add.delay(n, 1).id)
        if n % 100 == 0:
            kept.append(total.delay([n]).id)
    add.apply_async((1, 1), countdown=1000)
    out = migrate(*urls, "-a", "-T", "add", "-Q", "default:other")
    assert "default -> other: 300, 3 stay (other tasks), 1 delayed stay until they are due" in out
    assert waiting(urls[0]) == kept and waiting(urls[1], "other") == moved
    assert depth(urls[0]) == {"ready": 3, "delayed": 1, "leased": 0, "dead": 0}
    assert "Moved 2 messages" in migrate(*urls, "-a", "-n", "2")
    assert waiting(urls[0]) == kept[2:] and waiting(urls[1]) == kept[:2]


def test_what_was_put_aside_for_a_pause_is_copied_as_ready_and_never_lost(app: FastQ, urls: tuple[str, str]) -> None:
    ids = [app.tasks["add"].delay(n, 1).id for n in range(3)]
    app.control.pause_task("add")
    broker = app.open_broker()
    try:  # as a worker does that meets a paused name
        broker.renew(["default"], ["p"], 60_000)
        (lease,) = broker.fetch(Fetch("p", 1, ("default",), 10)).leased
        broker.settle("p", [Settlement("default", tag, "", RETURN, reason="add") for tag in lease.tags], results=False)
    finally:
        broker.close()
    assert depth(urls[0])["delayed"] == 3
    assert "0, 3 put aside for a pause stay: fastq resume" in migrate(*urls, "-a")
    assert "default: 3" in migrate(*urls)
    assert waiting(urls[1]) == ids
    app.control.resume_task("add")
    app.control.pause_queue("default")
    assert "0, the queue is paused: fastq resume -Q default" in migrate(*urls, "-a")
    app.control.resume_queue("default")
    assert "default: 3\n" in migrate(*urls, "-a")


def test_messages_of_a_chord_stay_with_what_counts_them(app: FastQ, urls: tuple[str, str]) -> None:
    chord([app.tasks["add"].s(1, 1), app.tasks["add"].s(2, 2)], app.tasks["total"].s()).delay()
    assert "0, 2 stay (part of a chord)" in migrate(*urls, "-a")
    assert depth(urls[0])["ready"] == 2


def test_forever_goes_on_until_nothing_has_come_for_a_while(app: FastQ, urls: tuple[str, str]) -> None:
    app.tasks["add"].apply_async((1, 1), countdown=0.7)
    assert "Moved 1 messages" in migrate(*urls, "-a", "-F", "-t", "2")
    assert len(waiting(urls[1])) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("memory://a", "memory://a"), "the same broker"),
        (("memory://a", "memory://b", "-F"), "add --ack-messages"),
        (("memory://a", "memory://b", "-t", "1"), "add --forever"),
        (("memory://a", "memory://b", "-Q", ":x"), "SOURCE:DESTINATION"),
        (("nosuch://a", "memory://b"), "No transport for nosuch://"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: tuple[str, ...], said: str) -> None:
    assert said in migrate(*arguments, code=2)
