"""Joins in the file: calls of several transactions, what is left behind, and files of the version before."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastq import _core
from fastq.records import DONE, Count, Drop, Effects, Fetch, Growth, Joined, Opening, Publication, Settlement, StoredResult
from fastq.transports import TransportOptions
from fastq.transports.sqlite import SQLiteBackend, SQLiteBroker, SQLiteInspector, joins, schema, sweep
from fastq.transports.sqlite import broker as publishing
from fastq.transports.sqlite.url import parse

RECORD = _core.encode_result("SUCCESS", "application/x-msgpack", b"\xc0", None, 0, None)
OPENING = Opening("j", 5, Publication("q", b"body"))


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/queue.db"


@pytest.fixture
def opened(url: str) -> Iterator[Callable[[], SQLiteBroker]]:
    """Open brokers on the file."""
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(contextlib.closing(SQLiteBroker(parse(url), TransportOptions())))


@pytest.fixture
def broker(opened: Callable[[], SQLiteBroker]) -> SQLiteBroker:
    return opened()


@pytest.fixture
def backend(url: str) -> Iterator[SQLiteBackend]:
    with contextlib.closing(SQLiteBackend(parse(url), TransportOptions())) as backend:
        yield backend


def count(broker: SQLiteBroker, table: str) -> int:
    return int(broker._database.read(f"SELECT count(*) FROM {table}")[0][0])


def age(broker: SQLiteBroker) -> None:
    """Let every join that expires have expired."""
    with broker._database as sql:
        sql.execute("UPDATE joins SET expires_ms = 1 WHERE expires_ms IS NOT NULL")


def members(n: int = 5) -> list[Publication]:
    return [Publication("q", b"member %d" % i) for i in range(n)]


def take(broker: SQLiteBroker, number: int, n: int = 100) -> list[str]:
    """Fetch as process w and return the tags."""
    broker.renew(["q"], ["w"], 60_000)
    return [tag for leased in broker.fetch(Fetch("w", number, ("q",), n)).leased for tag in leased.tags]


def settle(broker: SQLiteBroker, tag: str, effects: Effects) -> None:
    assert broker.settle("w", [Settlement("q", tag, "x", DONE, effects=effects)], results=True).skipped == ()


def counted(*places: int, failed: bool = False) -> Effects:
    return Effects(counts=[Count("q", "j", str(place), f"task {place}", RECORD, failed) for place in places])


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a transaction hold two messages."""
    monkeypatch.setattr(publishing, "PUBLISH_MESSAGES", 2)


@pytest.mark.usefixtures("small")
def test_a_join_of_several_transactions_stays_once_the_last_was_made(broker: SQLiteBroker, backend: SQLiteBackend) -> None:
    broker.publish("p", 1, members(), [OPENING])
    assert broker._database.read("SELECT expires_ms FROM joins") == [(None,)]
    assert backend.joined("q", "j") == Joined(5, [None] * 5)


@pytest.mark.usefixtures("small")
def test_a_producer_that_dies_half_way_leaves_no_join_for_ever(broker: SQLiteBroker, backend: SQLiteBackend) -> None:
    before_ms = broker.now_ms()
    with pytest.raises(ValueError, match="priority 10"):
        broker.publish("p", 1, [*members(2), Publication("q", b"bad", 10)], [OPENING])
    ((expires_ms,),) = broker._database.read("SELECT expires_ms FROM joins")
    assert before_ms + joins.OPENING_MS <= expires_ms <= broker.now_ms() + joins.OPENING_MS
    assert backend.joined("q", "j") is not None, "its first members can be counted"
    age(broker)
    assert backend.joined("q", "j") is None
    settle(broker, take(broker, 1)[0], counted(0, failed=True))
    assert (count(broker, "joins"), count(broker, "members")) == (0, 0)
    assert count(broker, "ready") == 0, "no body"


@pytest.mark.usefixtures("small")
def test_a_call_repeated_after_an_error_half_way_finishes_the_opening(broker: SQLiteBroker, backend: SQLiteBackend) -> None:
    with pytest.raises(ValueError, match="priority 10"):
        broker.publish("p", 1, [*members(2), Publication("q", b"bad", 10)], [OPENING])
    settle(broker, take(broker, 1)[0], counted(0))
    broker.publish("p", 1, members(), [OPENING])
    assert broker._database.read("SELECT expires_ms FROM joins") == [(None,)]
    assert backend.joined("q", "j") == Joined(5, [RECORD, None, None, None, None])
    assert count(broker, "ready") == 3


def test_sealing_does_not_revive_a_join_that_has_ended(broker: SQLiteBroker) -> None:
    with broker._database as sql:
        joins.open_all(sql, [OPENING], broker.now_ms(), sealed=False)
        joins.drop(sql, [Drop("q", "j", 100)], broker.now_ms())
        joins.seal(sql, [OPENING])
    ((expires_ms,),) = broker._database.read("SELECT expires_ms FROM joins")
    assert expires_ms <= broker.now_ms() + 100_000


def test_a_bad_priority_of_a_body_is_refused_before_anything_is_kept(broker: SQLiteBroker) -> None:
    with pytest.raises(ValueError, match="priority 10"):
        broker.publish("p", 1, members(), [Opening("j", 5, Publication("q", b"body", 10))])
    assert (count(broker, "ready"), count(broker, "joins")) == (0, 0)


def test_a_bad_priority_among_effects_does_not_stop_the_settlement(broker: SQLiteBroker) -> None:
    broker.publish("p", 1, [Publication("q", b"first")])
    (tag,) = take(broker, 1)
    follow_ups = [Publication("q", b"low", -3), Publication("q", b"high", 300)]
    settle(broker, tag, Effects([Opening("j", 1, Publication("q", b"body", 77))], (), follow_ups, counted(0).counts))
    (leased,) = broker.fetch(Fetch("w", 2, ("q",), 10)).leased
    assert leased.messages == [b"high", b"body", b"low"]


def test_opening_again_leaves_what_is_there(broker: SQLiteBroker, backend: SQLiteBackend) -> None:
    broker.publish("p", 1, members(1), [OPENING])
    settle(broker, take(broker, 1)[0], counted(0))
    broker.publish("p", 2, members(1), [Opening("j", 2, Publication("q", b"other")), Opening("new", 2, Publication("q", b"b"))])
    assert backend.joined("q", "j") == Joined(5, [RECORD, None, None, None, None])
    assert backend.joined("q", "new") == Joined(2, [None, None])


def test_an_expired_join_makes_room_for_one_of_its_name(broker: SQLiteBroker, backend: SQLiteBackend) -> None:
    broker.publish("p", 1, members(1), [OPENING])
    settle(broker, take(broker, 1)[0], counted(0)._replace(drops=[Drop("q", "j", 100)]))
    age(broker)
    broker.publish("p", 2, members(1), [Opening("other", 1, Publication("q", b"b")), OPENING])
    assert backend.joined("q", "j") == Joined(5, [None] * 5)
    assert backend.joined("q", "other") == Joined(1, [None])


def test_an_expired_join_neither_grows_nor_counts(broker: SQLiteBroker) -> None:
    broker.publish("p", 1, members(2), [OPENING])
    first, second = take(broker, 1)
    settle(broker, first, Effects(drops=[Drop("q", "j", 100)]))
    age(broker)
    settle(broker, second, Effects(growths=[Growth("q", "j", 3)], counts=counted(0, 1, failed=True).counts))
    assert broker._database.read("SELECT added, missing FROM joins") == [(0, 5)]
    assert (count(broker, "members"), count(broker, "ready")) == (0, 0)


def test_expired_joins_go_at_the_next_renewal_a_bounded_number_of_members(
    broker: SQLiteBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "MOST", 10)
    broker.publish("p", 1, members(1), [Opening(str(i), 8, Publication("q", b"body")) for i in range(4)] + [OPENING])
    (tag,) = take(broker, 1)
    counts = [Count("q", str(i), str(place), "t", RECORD) for i in range(4) for place in range(7)]
    settle(broker, tag, Effects(counts=counts, drops=[Drop("q", str(i), 100) for i in range(4)]))
    age(broker)
    left = []
    while count(broker, "joins") > 1:
        broker.renew(["q"], [], 60_000)
        left.append(count(broker, "members"))
    assert left == sorted(left, reverse=True) and 3 <= len(left) <= 5
    assert (count(broker, "joins"), count(broker, "members")) == (1, 0), "the open one stays"


def test_full_buckets_go_at_the_next_renewal(broker: SQLiteBroker) -> None:
    broker.reserve("empty", 1, 60_000_000, 1)
    broker.reserve("full", 1, 60_000_000, 1)
    with broker._database as sql:
        sql.execute("UPDATE buckets SET arrival_us = 1 WHERE name = 'full'")
    broker.renew(["q"], [], 60_000)
    assert broker._database.read("SELECT name FROM buckets") == [("empty",)]


def test_erasing_a_queue_takes_its_joins(url: str, broker: SQLiteBroker) -> None:
    broker.publish("p", 1, members(1), [OPENING, Opening("j", 1, Publication("other", b"b"))])
    settle(broker, take(broker, 1)[0], counted(0))
    with contextlib.closing(SQLiteInspector(parse(url), TransportOptions())) as inspector:
        inspector.erase("q", "p")
    assert broker._database.read("SELECT queue FROM joins") == [("other",)]
    assert count(broker, "members") == 0


def test_a_settlement_without_effects_does_not_look_at_joins(broker: SQLiteBroker) -> None:
    broker.publish("p", 1, members(3))
    tags = take(broker, 1)
    with broker._database as sql:
        seen: list[str] = []
        sql.set_trace_callback(seen.append)
    broker.settle("w", [Settlement("q", tag, "x", DONE, result=RECORD) for tag in tags], results=True)
    with broker._database as sql:
        sql.set_trace_callback(None)
    assert seen
    assert not [statement for statement in seen if "joins" in statement or "members" in statement]


def test_a_thousand_counts_take_a_handful_of_queries(broker: SQLiteBroker) -> None:
    n = 1000
    broker.publish("p", 1, members(n), [Opening("j", n + 1, Publication("q", b"body"))])
    tags = take(broker, 1, n)
    assert len(tags) == n
    with broker._database as sql:
        seen: list[str] = []
        sql.set_trace_callback(seen.append)
    settlements = [Settlement("q", tag, "x", DONE, effects=counted(i)) for i, tag in enumerate(tags)]
    broker.settle("w", settlements, results=True)
    with broker._database as sql:
        sql.set_trace_callback(None)
    assert len([statement for statement in seen if "joins" in statement]) == 2
    assert count(broker, "members") == n


# --- files of the version before ---


@pytest.fixture
def before(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Be the version that knew no joins, until undone."""
    with monkeypatch.context() as patch:
        patch.setattr(schema, "STEPS", schema.STEPS[:1])
        patch.setattr(schema, "VERSION", 1)
        yield patch


def test_a_file_of_the_version_before_goes_on(
    before: pytest.MonkeyPatch, opened: Callable[[], SQLiteBroker], url: str, backend: SQLiteBackend
) -> None:
    old = opened()
    old.publish("p", 7, [Publication("q", b"waits"), Publication("q", b"later", delay_ms=3_600_000)])
    backend.store([StoredResult("a", RECORD)])
    assert old._database.read("PRAGMA user_version") == [(1,)]
    assert old._database.read("SELECT name FROM sqlite_master WHERE name = 'joins'") == []
    identity = old._database.identity
    old.close()
    backend.close()
    before.undo()
    new = opened()
    new.publish("p", 7, [Publication("q", b"a repeated call")], [OPENING])
    new.publish("p", 8, members(1), [OPENING])
    assert new._database.read("PRAGMA user_version") == [(schema.VERSION,)]
    assert new._database.identity == identity, "wakes and results find their way"
    new.renew(["q"], ["w"], 60_000)
    (leased,) = new.fetch(Fetch("w", 1, ("q",), 10)).leased
    assert leased.messages == [b"waits", b"member 0"]
    settle(new, leased.tags[0], counted(*range(5)))
    assert new.fetch(Fetch("w", 2, ("q",), 10)).leased[0].messages == [b"body"]
    assert new.reserve("b", 2, 1_000_000, 1) == [0, 1000]
    assert backend.get(["a"]) == [RECORD]
    with contextlib.closing(SQLiteInspector(parse(url), TransportOptions())) as inspector:
        assert inspector.depth("q")["delayed"] == 1


def test_a_process_of_the_version_before_may_go_on_with_the_file(
    before: pytest.MonkeyPatch, opened: Callable[[], SQLiteBroker]
) -> None:
    old = opened()
    old.publish("p", 1, [Publication("q", b"before")])
    before.undo()
    new = opened()
    new.publish("new", 1, members(1), [OPENING])
    old.publish("p", 2, [Publication("q", b"after")])
    new.renew(["q"], ["w"], 60_000)
    (leased,) = new.fetch(Fetch("w", 1, ("q",), 10)).leased
    assert leased.messages == [b"before", b"member 0", b"after"]
