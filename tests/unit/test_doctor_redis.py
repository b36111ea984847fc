"""What fastq doctor finds in the keys of a Redis server, and what --fix does about it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastq import _core
from fastq.records import Fetch, Lease, Opening, Publication
from fastq.transports import Finding, Scope, TransportOptions, open_examiner
from fastq.transports.redis import RedisBroker, RedisExaminer, RedisInspector
from fastq.transports.redis.keys import Keys, QueueKeys
from fastq.transports.redis.keyspace import KINDS, place
from tests.servers import RedisServer
from tests.unit.redis_parts import LEASE_MS, asked, done, ids, message, publication, record

OPTIONS = TransportOptions(lease_ms=LEASE_MS)
#: what this server is: a test server without persistence
SERVER = {"persistence-off", "maxmemory-unset", "server-aging", "server-slow", "clocks-differ"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("doctor")) as one:
        yield one


@pytest.fixture
def client(server: RedisServer) -> Iterator[Any]:
    with contextlib.closing(server.client()) as client:
        client.flushall()
        yield client


@pytest.fixture
def broker(server: RedisServer, client: Any) -> Iterator[RedisBroker]:
    with contextlib.closing(RedisBroker(server.url, OPTIONS)) as one:
        yield one


@pytest.fixture
def examined(server: RedisServer, client: Any) -> Iterator[Callable[..., list[Finding]]]:
    """Examine the server, and return what was found but what is so of every test server."""
    with contextlib.ExitStack() as stack:

        def examine(options: TransportOptions = OPTIONS, **scope: Any) -> list[Finding]:
            examiner = open_examiner(server.url, options, Scope(**scope))
            assert isinstance(examiner, RedisExaminer)
            stack.callback(examiner.close)
            examine.examiner = examiner  # type: ignore[attr-defined]
            return [finding for finding in examiner.examine() if finding.code not in SERVER]

        yield examine


def said(findings: list[Finding]) -> list[tuple[str, str, str]]:
    """Return what was found, without notes on age: most messages here were sent in 1970."""
    return sorted((finding.level, finding.code, finding.subject) for finding in findings if finding.code != "old-delivery")


def test_a_queue_in_use_with_all_kinds_of_keys_gives_no_finding(broker: RedisBroker, examined: Any, client: Any) -> None:
    broker.renew(["default"], ["p1", "p2"], LEASE_MS)
    body = Publication("default", message("body"))
    joined = _core.encode("m", "tests.task", "c", b"", 1, None, 0, None, {"flow": {"join": ["j", "0", "default"]}})
    broker.publish("producer", 1, [Publication("default", joined)], [Opening("j", 1, body)])
    broker.publish("producer", 2, [publication(f"x{i}", level=i % 10) for i in range(12)])
    broker.publish("producer", 3, [publication("later", delay_ms=60_000)])
    broker.reserve("bucket", 1, 60_000_000, 1)
    broker.revoke(["gone"], 60)
    first = broker.fetch(asked(1, n=2))
    settlements = done(first)
    broker.settle("p1", settlements[:1], results=True)
    broker.fetch(asked(1, n=1, process="p2", queues=("default",), idle=True))
    kinds = {place(Keys("fastq:"), name.decode()).kind for name in client.keys("*")}  # type: ignore[union-attr]
    assert kinds >= {"ready", "levels", "delayed", "leased", "leases", "from", "join", "result", "rate", "revoked"}
    assert said(examined(declared=("default",))) == []
    assert examined.examiner.queues == ["default"] and examined.examiner.looked == len(client.keys("*"))


def test_every_name_that_is_built_for_a_key_is_known() -> None:
    keys = Keys("p:")
    queue = keys.queue("a{b}:c")
    names: dict[str, str] = {}
    for field in dataclasses.fields(QueueKeys):
        value = getattr(queue, field.name)
        if field.name != "base":
            names |= dict.fromkeys(value if isinstance(value, tuple) else (value,), field.name)
    methods = [name for name in vars(QueueKeys) if not name.startswith("_") and callable(getattr(queue, name))]
    names |= {getattr(queue, method)("owner:1"): method for method in methods}
    names |= {keys.rate("b"): "rate", keys.single("x"): "single", keys.slot("0190a1b2-c3d4"): "slot"}
    names |= {keys.timetable("s", part): part for part in ("entries", "states", "edits", "leader")}
    names |= {value: name for name, value in vars(keys).items() if isinstance(value, str) and not name.endswith("prefix")}
    unknown = {name: method for name, method in names.items() if place(keys, name) is None}
    assert not unknown, "new keys need a kind in fastq/transports/redis/keyspace.py"
    assert {place(keys, name).kind for name in names} == set(KINDS)  # type: ignore[union-attr]


def test_foreign_keys_are_told_apart_from_those_of_a_longer_prefix(examined: Any, client: Any) -> None:
    client.set("fastq:session", "x")
    client.set("fastq:{q}:ready:10", "x")
    client.set("other", "not looked at")
    client.set("fastq:staging:{q}:from:p", 1, ex=600)
    assert said(examined()) == [
        ("note", "nested-prefix", "fastq:staging:{q}:from:p"),
        ("warning", "foreign-key", "fastq:session"),
        ("warning", "foreign-key", "fastq:{q}:ready:10"),
    ]


def test_keys_of_a_wrong_type_are_named_and_not_touched(examined: Any, client: Any) -> None:
    client.set("fastq:{q}:ready:0", "x")
    client.rpush("fastq:{q}:leases", "x")
    client.rpush("fastq:revoked", "x")
    assert said(examined(declared=("q",))) == [
        ("error", "wrong-type", "fastq:revoked"),
        ("error", "wrong-type", "fastq:{q}:leases"),
        ("error", "wrong-type", "fastq:{q}:ready:0"),
    ]


def test_a_ttl_that_is_missing_or_should_not_be_there_is_found(
    broker: RedisBroker, examined: Any, client: Any
) -> None:
    broker.renew(["q"], ["p1"], LEASE_MS)
    broker.publish("p", 1, [Publication("q", message("1"))])
    client.persist("fastq:{q}:from:p")
    client.set("fastq:result:x", record())
    client.expire("fastq:{q}:ready:0", 100)
    assert said(examined()) == [
        ("error", "unexpected-ttl", "fastq:{q}:ready:0"),
        ("warning", "missing-ttl", "fastq:result:x"),
        ("warning", "missing-ttl", "fastq:{q}:from:p"),
    ]
    assert len(examined.examiner.mend()) == 2
    assert 0 < client.ttl("fastq:{q}:from:p") <= 600 and 0 < client.ttl("fastq:result:x") <= 86_400
    client.persist("fastq:{q}:ready:0")
    client.persist("fastq:result:x")
    assert said(examined(dataclasses.replace(OPTIONS, result_expires_s=None))) == []


def test_messages_of_a_process_without_a_lease_go_back_to_their_queue_charged(
    broker: RedisBroker, examined: Any, client: Any
) -> None:
    broker.renew(["q"], ["p1", "alive"], LEASE_MS)
    broker.publish("p", 1, [Publication("q", message(str(i))) for i in range(5)])
    broker.fetch(Fetch("p1", 1, ("q",), 3))
    client.zrem("fastq:{q}:leases", "p1")
    (finding,) = examined()
    assert (finding.level, finding.code, finding.subject) == ("error", "ownerless-key", "fastq:{q}:leased:p1")
    assert "3 messages" in finding.text
    assert examined.examiner.mend() == ["removed fastq:{q}:leased:p1, 3 messages back in queue q"]
    again = broker.fetch(Fetch("alive", 1, ("q",), 10))
    assert ids(again) == ["0", "1", "2", "3", "4"]
    assert [_core.peek(item).deliveries for item in again.leased[0].messages] == [1, 1, 1, 0, 0]
    assert said(examined()) == []


def test_mending_takes_nothing_from_a_process_that_lives(broker: RedisBroker, examined: Any, client: Any) -> None:
    broker.renew(["q"], ["p1"], LEASE_MS)
    broker.publish("p", 1, [Publication("q", message("1"))])
    broker.fetch(Fetch("p1", 1, ("q",), 3))
    client.zrem("fastq:{q}:leases", "p1")
    assert len(examined()) == 1
    broker = RedisBroker(broker.address.display, OPTIONS)
    broker.renew(["q"], ["p1"], LEASE_MS)  # between the look and the mending
    assert examined.examiner.mend() == []
    assert client.hlen("fastq:{q}:leased:p1") == 2
    broker.close()


def test_stuck_leases_are_found_with_what_they_hold(broker: RedisBroker, examined: Any, client: Any) -> None:
    broker.renew(["q"], ["p1", "p2", "p3"], LEASE_MS)
    broker.publish("p", 1, [Publication("q", message(str(i))) for i in range(2)])
    broker.fetch(Fetch("p1", 1, ("q",), 2))
    now = broker.now_ms()
    client.zadd("fastq:{q}:leases", {"p1": now - 3 * LEASE_MS})
    broker.condemn([Lease("q", "p2", "")])
    found = examined()
    assert [(finding.level, finding.code) for finding in found] == [("warning", "stuck-lease"), ("error", "stuck-lease")]
    assert "p1" in found[1].text and "holds 2 messages" in found[1].text and "living workers" in found[1].advice
    client.zrem("fastq:{q}:leases", "p3")
    assert "start a worker" in examined()[1].advice


def test_waiting_messages_without_a_worker_are_found_with_their_age(broker: RedisBroker, examined: Any, client: Any) -> None:
    now = broker.now_ms()
    sent = _core.encode("1", "tests.task", "c", b"", now - 3 * 3_600_000, None, 0, None, None)
    broker.publish("p", 1, [Publication("q", sent), publication("2"), publication("3", delay_ms=1)])
    client.zadd("fastq:{default}:delayed", {client.zrange("fastq:{default}:delayed", 0, 0)[0]: now - 600_000})
    default, q = examined(declared=("default", "unused"))[-3:-1]
    assert (q.code, q.subject) == ("unconsumed-queue", "q") and "1 ready" in q.text and "sent 3 h ago" in q.text
    assert (default.code, default.subject) == ("unconsumed-queue", "default")
    assert "1 ready, 1 delayed" in default.text and "10 min overdue" in default.text
    assert said(examined(queues=("unused",), declared=("unused",))) == [("note", "no-consumer", "unused")]


def test_what_is_overdue_or_much_or_old_though_workers_are_there_is_found(
    broker: RedisBroker, examined: Any, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastq.transports.judging.BACKLOG", 3)
    now = broker.now_ms()
    old = _core.encode("1", "tests.task", "c", b"", now - 3 * 86_400_000, None, 0, None, None)
    broker.publish("p", 1, [Publication("q", old)])
    broker.renew(["q"], ["p1"], LEASE_MS)
    broker.fetch(Fetch("p1", 1, ("q",), 2))
    broker.publish("p", 2, [Publication("q", message(str(i))) for i in range(3)])
    client.zadd("fastq:{q}:delayed", {b"0\x01x" + message("d"): now - 120_000})
    found = {finding.code: finding for finding in examined()}
    assert found.keys() == {"backlog", "overdue-messages", "old-delivery"}
    assert "tests.task[1] was sent 3 days ago" in found["old-delivery"].text
    broker.pause(queues=["q"], tasks=[])
    assert {finding.code for finding in examined()} == {"paused-queue", "old-delivery"}, "more workers would not help"


def test_entries_of_nobody_are_found_and_mended_and_messages_are_kept(
    broker: RedisBroker, examined: Any, client: Any, server: RedisServer
) -> None:
    broker.renew(["q"], ["p1"], LEASE_MS)
    client.sadd("fastq:{q}:levels", 5)
    client.rpush("fastq:{q}:ready:7", message("stranded"))
    client.zadd("fastq:{q}:idle", {"who": 1})
    client.zadd("fastq:{q}:dead", {"p:0:1:1": 5_000_000})
    client.hset("fastq:{q}:dead:messages", "p:0:1:2", b"1700000000000:0:1:\x80" + message("letter"))
    client.expire("fastq:{q}:dead", 1000)
    client.expire("fastq:{q}:dead:messages", 1000)
    # as many in the one as in the other: only the names differ
    client.hset("fastq:{q}:dead:messages", "p:0:1:3", b"1700000000000:0:1:\x80" + message("letter 2"))
    found = said(examined())
    assert found == [
        ("error", "stranded-messages", "fastq:{q}:ready:7"),
        ("note", "dead-letters", "q"),
        ("warning", "ownerless-entry", "fastq:{q}:dead p:0:1:1"),
        ("warning", "ownerless-entry", "fastq:{q}:dead p:0:1:2"),
        ("warning", "ownerless-entry", "fastq:{q}:dead p:0:1:3"),
        ("warning", "ownerless-entry", "fastq:{q}:idle who"),
        ("warning", "ownerless-entry", "fastq:{q}:levels 5"),
    ]
    assert len(examined.examiner.mend()) == 5
    assert said(examined()) == [("note", "dead-letters", "q")]
    assert ids(broker.fetch(Fetch("p1", 1, ("q",), 5))) == ["stranded"]
    with contextlib.closing(RedisInspector(server.url, OPTIONS)) as inspector:
        assert sorted(letter.key for letter in inspector.dead("q")) == ["p:0:1:2", "p:0:1:3"]


def test_dead_letters_near_their_cap_are_a_warning(broker: RedisBroker, examined: Any, client: Any) -> None:
    broker.renew(["q"], ["p1"], LEASE_MS)
    for i in range(8):
        client.zadd("fastq:{q}:dead", {f"p:0:1:{i}": i})
        client.hset("fastq:{q}:dead:messages", f"p:0:1:{i}", b"1:0:1:\x80" + message("m"))
    for name in ("fastq:{q}:dead", "fastq:{q}:dead:messages"):
        client.expire(name, 1000)
    assert said(examined(dataclasses.replace(OPTIONS, dead_letter_max=10))) == [("warning", "dead-letters-full", "q")]
    assert said(examined(dataclasses.replace(OPTIONS, dead_letter_max=100))) == [("note", "dead-letters", "q")]


@pytest.mark.parametrize("where", ["ready", "delayed", "leased", "body of another"])
def test_a_chord_is_owned_by_whatever_message_mentions_it(where: str, broker: RedisBroker, examined: Any, client: Any) -> None:
    broker.renew(["q"], ["p1"], LEASE_MS)
    member = _core.encode("m", "t", "c", b"", 1, None, 0, None, {"flow": {"join": ["j1", "0", "q"]}})
    body = Publication("q", message("body"))
    openings = [Opening("j1", 1, body)]
    publications = [Publication("q", member, delay_ms=60_000 if where == "delayed" else 0)]
    if where == "body of another":
        openings.append(Opening("j2", 1, publications[0]))
        publications = [Publication("q", _core.encode("n", "t", "c", b"", 1, None, 0, None, {"flow": {"join": ["j2", "0", "q"]}}))]
    broker.publish("p", 1, publications, openings)
    if where == "leased":
        assert len(ids(broker.fetch(Fetch("p1", 1, ("q",), 1)))) == 1
    assert said(examined()) == []
    client.delete("fastq:{q}:ready:0", "fastq:{q}:delayed")
    client.hdel("fastq:{q}:leased:p1", "0:1:0")
    expected = ["j2"] if where == "body of another" else ["j1"]
    assert said(examined()) == [("warning", "ownerless-key", f"fastq:{{q}}:join:{join}") for join in expected]
    assert examined.examiner.mend() == [] and client.exists("fastq:{q}:join:j1"), "a chord holds a message: it is never removed"


def test_a_chord_whose_messages_are_still_being_published_is_left_alone(broker: RedisBroker, examined: Any, client: Any) -> None:
    broker.renew(["q"], ["p1"], LEASE_MS)
    client.hset("fastq:{q}:join:j", mapping={"#": 1, "unsealed": 1, "body": message("b")})
    client.expire("fastq:{q}:join:j", 600)
    assert said(examined()) == []


def test_the_limit_bounds_the_work_and_is_told(examined: Any, client: Any) -> None:
    with client.pipeline(transaction=False) as pipe:
        for i in range(5000):
            pipe.set(f"fastq:result:{i}", b"x", ex=100)
        pipe.execute()
    assert said(examined(limit=1000)) == [("note", "limit-reached", "fastq:")]
    assert examined.examiner.looked == 1000
    assert said(examined()) == [] and examined.examiner.looked == 5000
    mine = dataclasses.replace(OPTIONS, prefix="mine:")
    assert said(examined(mine, limit=100)) == [("note", "limit-reached", "mine:")], "a database of others is not walked through"
    assert said(examined(mine, limit=1000)) == []


def test_many_of_a_kind_are_told_a_few_times_and_counted(examined: Any, client: Any) -> None:
    for i in range(30):
        client.set(f"fastq:foreign{i}", "x")
    found = examined()
    assert len(found) == 11 and found[-1].text.startswith("20 more") and {one.code for one in found} == {"foreign-key"}


def test_a_server_that_is_away_is_a_finding(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        url = server.url
    examiner = RedisExaminer(url, OPTIONS, Scope())
    (finding,) = examiner.examine()
    assert (finding.level, finding.code) == ("error", "unreachable") and "cannot be reached" in finding.text
    assert examiner.mend() == []
    examiner.close()


def test_a_login_that_is_refused_and_scripts_that_are_forbidden_are_findings(server: RedisServer, client: Any) -> None:
    client.acl_setuser("bob", enabled=True, passwords=["+pw"], keys=["*"], channels=["*"], commands=["+@all", "-@scripting"])
    for login, code in (("bob:wrong@", "login-refused"), ("bob:pw@", "scripts-forbidden")):
        examiner = RedisExaminer(server.url.replace("redis://", f"redis://{login}"), OPTIONS, Scope())
        found = [finding for finding in examiner.examine() if finding.level == "error"]
        assert [finding.code for finding in found] == [code], login
        assert "pw" not in str(found) and "wrong" not in str(found)
        examiner.close()
    client.acl_deluser("bob")
