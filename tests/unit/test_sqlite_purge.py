"""Purging a queue in the file: in bounded transactions, whatever its messages say."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastq import _core, flow
from fastq.records import Opening, Publication
from fastq.transports import TransportOptions
from fastq.transports.sqlite import SQLiteBackend, SQLiteBroker, SQLiteInspector, purging
from fastq.transports.sqlite.url import parse

BODY = b"\x92\x90\x80"


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


@pytest.fixture
def inspector(url: str) -> Iterator[SQLiteInspector]:
    with contextlib.closing(SQLiteInspector(parse(url), TransportOptions())) as inspector:
        yield inspector


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a transaction end three messages."""
    monkeypatch.setattr(purging, "STEP", 3)


def message(id: str, **options: Any) -> bytes:
    return _core.encode(id, "task", "application/x-msgpack", BODY, 0, None, 0, None, options or None)


def member(i: int, **times: int) -> Publication:
    return Publication("q", message(f"m{i}", flow={"join": ["j", str(i), "q"]}), i % 3, **times)


def states(backend: SQLiteBackend, *ids: str) -> list[str | None]:
    return [None if record is None else _core.decode_result(record)[0] for record in backend.get(ids)]


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 6, 7, 11])
def test_every_message_goes_in_as_many_steps_as_it_takes(
    broker: SQLiteBroker, backend: SQLiteBackend, inspector: SQLiteInspector, n: int
) -> None:
    ready = [member(i) for i in range(n)] + [Publication("q", message(f"plain {i}"), i % 4) for i in range(n)]
    later = [member(n + i, delay_ms=60_000 + i) for i in range(n)] + [Publication("q", message("late"), delay_ms=60_000)]
    elsewhere = [Publication("other", message("other", flow={"chain": []})), Publication("other", b"x", delay_ms=60_000)]
    body = Publication("q", message("body"), 9)
    broker.publish("p", 1, [*elsewhere, *ready, *later], [Opening("j", 2 * n + 1, body)])
    assert inspector.purge("q") == 3 * n + 1
    assert inspector.peek("q", 9) == ([body.message] if n else []), "what the purge brings about stays"
    assert inspector.depth("q")["delayed"] == 0
    assert (inspector.depth("other")["ready"], inspector.depth("other")["delayed"]) == (1, 1)
    assert states(backend, *[f"m{i}" for i in range(2 * n)]) == ["REVOKED"] * (2 * n)
    assert inspector.purge("q") == (1 if n else 0)


def test_delayed_follow_ups_of_a_purge_stay(broker: SQLiteBroker, inspector: SQLiteInspector) -> None:
    members = [Publication("q", message(f"m{i}", flow={"join": [f"j{i}", "0", "q"]}), delay_ms=50_000) for i in range(7)]
    bodies = [Opening(f"j{i}", 1, Publication("q", message(f"body {i}"), delay_ms=60_000)) for i in range(7)]
    broker.publish("p", 1, members, bodies)
    assert inspector.purge("q") == 7
    assert inspector.depth("q") == {"ready": 0, "delayed": 7, "leased": 0, "dead": 0}


def test_what_only_looks_like_a_flow_goes_too(broker: SQLiteBroker, backend: SQLiteBackend, inspector: SQLiteInspector) -> None:
    odd: list[Any] = [7, "text", [], {"join": 3}, {"join": ["j"]}, {"chain": 5}, {"chain": [b"junk"]}, {"errbacks": [b"\x91\x09"]}]
    broker.publish("p", 1, [Publication("q", message(f"odd {i}", flow=flow)) for i, flow in enumerate(odd)])
    broker.publish("p", 2, [Publication("q", b"\xa4flow"), Publication("q", b""), Publication("q", b"\xc1\x81\xa4flow"), member(1)])
    assert inspector.purge("q") == len(odd) + 4
    assert inspector.depth("q")["ready"] == 0
    assert states(backend, "m1") == ["REVOKED"]


def test_a_call_whose_result_is_ignored_stores_none(
    broker: SQLiteBroker, backend: SQLiteBackend, inspector: SQLiteInspector
) -> None:
    ignored = message("ignored", flow={"join": ["j", "0", "q"]}, ignore_result=True)
    broker.publish("p", 1, [Publication("q", ignored)], [Opening("j", 1, Publication("bodies", message("body")))])
    assert inspector.purge("q") == 1
    assert states(backend, "ignored") == [None]


def test_an_interrupted_purge_loses_nothing(
    broker: SQLiteBroker, backend: SQLiteBackend, inspector: SQLiteInspector, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.publish("p", 1, [member(i) for i in range(8)])
    failed = flow.failed
    seen: list[str] = []

    def stops(d: _core.Delivery, *rest: Any, **how: Any) -> Any:
        seen.append(d.id)
        if len(seen) > 4:
            raise KeyboardInterrupt
        return failed(d, *rest, **how)

    monkeypatch.setattr(flow, "failed", stops)
    with pytest.raises(KeyboardInterrupt):
        inspector.purge("q")
    assert inspector.depth("q")["ready"] == 5
    assert states(backend, *(f"m{i}" for i in range(8))).count("REVOKED") == 3
    monkeypatch.undo()
    assert inspector.purge("q") == 5
