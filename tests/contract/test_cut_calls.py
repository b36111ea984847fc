"""A connection that is cut in the middle of a call, and the call made again: Redis then holds what one uncut call leaves there.

Every script is cut before the server has it, in the middle of the request, after it was carried out, in the middle of the reply,
and so that it reaches the server only after its repetition.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import pytest

from fastq.exceptions import OperationalError
from fastq.records import (
    DEAD,
    DONE,
    RETRY,
    RETURN,
    Count,
    Drop,
    Effects,
    Fetch,
    Growth,
    Lease,
    Opening,
    Publication,
    Settlement,
    StoredResult,
)
from fastq.transports import (
    Backend,
    Broker,
    Inspector,
    Timetable,
    TransportOptions,
    open_backend,
    open_broker,
    open_inspector,
    open_timetable,
)
from fastq.transports.redis.scripts import script
from fastq.transports.timetable import Edit, Tick
from tests.contract.conftest import LEASE_MS, Held, envelope, held, publication, record
from tests.contract.test_purge_flow import message
from tests.proxy import Proxy
from tests.servers import RedisServer
from tests.workers import eventually

HOUR_MS = 3_600_000
WHENS = ("request", "mid-request", "reply", "mid-reply", "late")

Calls = Callable[["Scene"], Any]


@dataclass
class Scene:
    """A server, and a connection of each kind that leads through the proxy. Preparations go straight to the server."""

    server: RedisServer
    url: str
    straight: Broker
    opened: list[Any] = field(default_factory=list)
    held: list[Held] = field(default_factory=list)

    def broker(self) -> Broker:
        self.opened.append(open_broker(self.url, TransportOptions()))
        return self.opened[-1]  # type: ignore[no-any-return]

    def backend(self) -> Backend:
        self.opened.append(open_backend(self.url, TransportOptions()))
        return self.opened[-1]  # type: ignore[no-any-return]

    def inspector(self) -> Inspector:
        self.opened.append(open_inspector(self.url, TransportOptions()))
        return self.opened[-1]  # type: ignore[no-any-return]

    def timetable(self) -> Timetable:
        self.opened.append(open_timetable(self.url, TransportOptions(), "app"))
        return self.opened[-1]  # type: ignore[no-any-return]

    def planned(self) -> None:
        """Put an entry into the timetable, due at 1000."""
        timetable = open_timetable(self.server.url, TransportOptions(), "app")
        timetable.edit([Edit("e", b"d", 1000)])
        timetable.close()

    def enter(self, *processes: str) -> None:
        self.straight.renew(("q", "r"), processes, LEASE_MS)

    def hold(self, n: int, *, process: str = "me", charged: int = 0) -> None:
        """Let a process lease messages."""
        self.enter(process)
        names = [f"held {i}" for i in range(n)]
        self.straight.publish("before", 1, [Publication("q", envelope(name, charged=charged)) for name in names])
        self.held = held(self.straight.fetch(Fetch(process, 1, ("q",), n)))
        assert len(self.held) == n


@dataclass(frozen=True)
class Case:
    """A call to be cut. ``prepare`` brings the server to where it starts; ``call`` makes it, and is called again as it was."""

    name: str
    script: bytes
    call: Calls
    prepare: Callable[[Scene], object] = lambda scene: None
    #: how many requests with the script are let through before
    skip: int = 0
    #: False: what the broker answers may differ, such as how many were moved, for the cut call has moved them
    answers: bool = True
    #: it is made again inside, and the caller does not notice
    inside: bool = False


def published(*publications: Publication, openings: tuple[Opening, ...] = ()) -> Calls:
    def call(scene: Scene) -> Any:
        broker = scene.opened[0] if scene.opened else scene.broker()
        return broker.publish("producer", 7, publications, openings)

    return call


def settled(*settlements: Callable[[Held], Settlement], fetch: int = 0) -> Calls:
    def call(scene: Scene) -> Any:
        broker = scene.opened[0] if scene.opened else scene.broker()
        ask = Fetch("me", 2, ("q",), fetch) if fetch else None
        batch = [make(one) for make, one in zip(settlements, scene.held, strict=True)]
        return (
            [(one.tag, one.message) for one in held(broker.settle("me", batch, results=True, fetch=ask).fetched)]
            if ask
            else (broker.settle("me", batch, results=True) and None)
        )

    return call


def fetched(*queues: str, n: int = 10, idle: bool = True, number: int = 5) -> Calls:
    def call(scene: Scene) -> Any:
        broker = scene.opened[0] if scene.opened else scene.broker()
        answer = broker.fetch(Fetch("me", number, queues or ("q",), n, idle))
        return [(one.queue, one.tag, one.message) for one in held(answer)]

    return call


def asked(what: Callable[[Any], Any], which: str = "broker") -> Calls:
    def call(scene: Scene) -> Any:
        return what(scene.opened[0] if scene.opened else getattr(scene, which)())

    return call


def sent(*publications: Publication) -> Callable[[Scene], object]:
    def prepare(scene: Scene) -> None:
        scene.enter("me")
        scene.straight.publish("before", 1, publications)

    return prepare


def joined(scene: Scene) -> None:
    """Hold three members of a join."""
    scene.enter("me")
    members = [publication(f"held {i}") for i in range(3)]
    scene.straight.publish("before", 1, members, [Opening("j", 3, publication("body", "r", delay_ms=HOUR_MS))])
    scene.held = held(scene.straight.fetch(Fetch("me", 1, ("q",), 3)))


def died(scene: Scene) -> None:
    """Leave five messages with a process that is condemned."""
    scene.hold(5, process="gone")
    scene.straight.condemn([Lease("q", "gone", "")])


def buried(scene: Scene) -> None:
    """Leave three dead letters."""
    scene.hold(3)
    scene.straight.settle("me", [one.settled(DEAD, reason="test") for one in scene.held], results=False)


def delayed_turns(scene: Scene) -> None:
    """Let five messages wait for turns."""
    scene.hold(5)
    scene.straight.reserve("t", 5, 1_000_000, 1)
    scene.straight.settle(
        "me",
        [
            one.settled(RETRY, message=envelope(one.id, paid=True), level=i % 2, delay_ms=HOUR_MS + i * 1000, detail=b"t")
            for i, one in enumerate(scene.held)
        ],
        results=False,
    )


def count(member: int, **what: Any) -> Effects:
    return Effects(counts=[Count("r", "j", str(member), f"held {member}", record(size=1 + member))], **what)


BULK = tuple(publication(f"bulk {i}", ("q", "r")[i % 2], i % 3) for i in range(4_500))
LARGE = tuple(Publication("q", envelope(f"large {i}", size=300_000)) for i in range(14))
CHORD = (Opening("j", 4, publication("body", "r")), Opening("k", 2, publication("other body", "q", 3)))
MEMBERS = tuple(publication(f"member {i}", ("q", "r")[i % 2]) for i in range(6))
FLOWS = tuple(Publication("q", message(f"member {i}", join=["j", str(i), "r"]), delay_ms=HOUR_MS if i % 2 else 0) for i in range(4))
PURGED = (Opening("j", 4, publication("body", "r")),)


def flows(scene: Scene) -> None:
    scene.straight.publish("before", 1, [*FLOWS, *[publication(f"plain {i}") for i in range(1_200)]], PURGED)


def revoked(scene: Scene) -> None:
    flows(scene)
    scene.straight.revoke(["member 0", "member 1", "plain 7"], 3600)


def dead_keys(inspector: Inspector) -> list[str]:
    return ["me:0:1:0", "me:0:1:1", "me:0:1:2"]


CASES = (
    Case("publish", b"publish", published(publication("a", level=4))),
    Case("publish-delayed", b"publish", published(publication("a", delay_ms=HOUR_MS), publication("b", due_ms=4_000_000_000_000))),
    Case("publish-bulk", b"publish", published(*BULK)),
    Case("publish-bulk-second", b"publish", published(*BULK), skip=1),
    Case("publish-large", b"publish", published(*LARGE)),
    Case("publish-large-later", b"publish", published(*LARGE), skip=2),
    Case("publish-join-open", b"open", published(*MEMBERS, openings=CHORD)),
    Case("publish-join-members", b"publish", published(*MEMBERS, openings=CHORD)),
    Case("publish-join-seal", b"seal", published(*MEMBERS, openings=CHORD)),
    Case("fetch", b"fetch", fetched(), sent(*[publication(f"a{i}", level=i % 2) for i in range(20)])),
    Case("fetch-idle", b"fetch", fetched("q", "r"), sent(publication("later", delay_ms=HOUR_MS))),
    Case("fetch-queues", b"fetch", fetched("q", "r"), sent(*[publication(f"a{i}", "qr"[i % 2]) for i in range(12)])),
    Case("fetch-queues-second", b"fetch", fetched("q", "r"), sent(*[publication(f"a{i}", "qr"[i % 2]) for i in range(12)]), skip=1),
    Case("fetch-leave", b"fetch", fetched("q", "r", n=0, idle=False), sent(publication("a"))),
    Case("settle-done", b"settle", settled(*[lambda one: one.settled(DONE, result=record())] * 3), lambda s: s.hold(3)),
    Case(
        "settle-mixed",
        b"settle",
        settled(
            lambda one: one.settled(DONE, result=record(), inbox="inbox"),
            lambda one: one.settled(RETRY, message=envelope("again"), level=2, delay_ms=HOUR_MS, result=record("RETRY")),
            lambda one: one.settled(RETRY, message=envelope("at once")),
            lambda one: one.settled(DEAD, reason="failed", result=record("FAILURE")),
            lambda one: one.settled(RETURN),
            fetch=4,
        ),
        lambda s: s.hold(5),
    ),
    Case(
        "settle-effects",
        b"settle",
        settled(
            lambda one: one.settled(
                DONE,
                result=record(),
                effects=Effects(
                    openings=[Opening("new", 2, publication("its body", "r"))],
                    publications=[publication("next", "r"), publication("later", "q", 5, delay_ms=HOUR_MS)],
                    results=[StoredResult("other", record())],
                ),
            ),
            lambda one: one.settled(DONE, effects=Effects(growths=[Growth("r", "new", 2)])),
            fetch=10,
        ),
        lambda s: s.hold(2),
    ),
    Case(
        "settle-counts",
        b"settle",
        settled(*[lambda one: one.settled(DONE, result=record(), effects=count(int(one.id[-1])))] * 3, fetch=3),
        joined,
    ),
    Case("settle-drop", b"settle", settled(*[lambda one: one.settled(DONE, effects=Effects(drops=[Drop("r", "j")]))] * 3), joined),
    Case(
        "settle-large",
        b"settle",
        settled(*[lambda one: one.settled(DONE, result=record(size=400_000))] * 8, fetch=5),
        lambda s: s.hold(8),
    ),
    Case("settle-then-fetch", b"fetch", settled(*[lambda one: one.settled(RETURN)] * 4, fetch=4), lambda s: s.hold(4)),
    Case("renew", b"renew", asked(lambda b: b.renew(("q", "r"), ("me", "other"), LEASE_MS)), lambda s: s.enter("other")),
    Case("condemn", b"condemn", asked(lambda b: b.condemn([Lease("q", "gone", "")])), lambda s: s.hold(5, process="gone")),
    Case(
        "release",
        b"release",
        asked(lambda b: b.release("q", "gone", {"0:1:2": envelope("held 2", charged=1)})),
        died,
        answers=False,
    ),
    Case("leased", b"HKEYS", asked(lambda b: b.leased("q", "gone")), died),
    Case("revoke", b"revoke", asked(lambda b: b.revoke(["a", "b"], 3600)), answers=False),
    Case("revoked", b"ZRANGEBYSCORE", asked(lambda b: b.revoked(0)[1]), lambda s: s.straight.revoke(["a", "b"], 3600)),
    Case("reserve", b"reserve", asked(lambda b: b.reserve("bucket", 3, 1_000_000, 2)), answers=False),
    Case("recall", b"recall", asked(lambda b: b.recall("q", "t", kept="t|5us")), delayed_turns, answers=False),
    Case("recall-second", b"recall", asked(lambda b: b.recall("q", "t", kept="t|5us")), delayed_turns, skip=1, answers=False),
    Case("store", b"store", asked(lambda b: b.store([StoredResult("a", record(), "inbox")]), "backend")),
    Case(
        "get",
        b"MGET",
        asked(lambda b: b.get(["a"]), "backend"),
        lambda s: s.backend().store([StoredResult("a", record())]),
        inside=True,
    ),
    Case("retry-dead", b"retry_dead", asked(lambda i: i.retry_dead("q", dead_keys(i)), "inspector"), buried, answers=False),
    Case("delete-dead", b"delete_dead", asked(lambda i: i.delete_dead("q", dead_keys(i)), "inspector"), buried, answers=False),
    Case("purge", b"purge", asked(lambda i: i.purge("q"), "inspector"), flows, answers=False),
    Case("purge-second", b"purge", asked(lambda i: i.purge("q"), "inspector"), flows, skip=1, answers=False),
    Case("purge-settle", b"settle", asked(lambda i: i.purge("q"), "inspector"), flows, answers=False),
    Case("purge-release", b"release", asked(lambda i: i.purge("q"), "inspector"), flows, answers=False, inside=True),
    Case(
        "sweep",
        b"sweep",
        asked(lambda i: i.revoke_waiting("q", ["member 0", "member 1", "plain 7"]), "inspector"),
        revoked,
        answers=False,
    ),
    Case(
        "sweep-settle",
        b"settle",
        asked(lambda i: i.revoke_waiting("q", ["member 0", "member 1", "plain 7"]), "inspector"),
        revoked,
        answers=False,
    ),
)



def ticked(scene: Scene) -> Any:
    timetable = scene.timetable()
    (plan,) = timetable.get(["e"])
    edit = plan.edit if plan is not None else 0
    late = Publication("q", envelope("late"), 2, delay_ms=HOUR_MS)
    ticks = [
        Tick("e", edit, 1000, 2000, [publication("1"), publication("2", "r", 5), late]),
        Tick("e", edit, 2000, 3000, [publication("3")]),
    ]
    return timetable.fire("me", ticks)


TIMETABLE = (
    Case("tick", b"tick", ticked, lambda s: s.planned()),
    Case("edit", b"edit_timetable", asked(lambda t: len(t.edit([Edit("e", b"new", 50)])), "timetable"), lambda s: s.planned()),
    Case("lead", b"lead", asked(lambda t: t.lead("me", 60_000).leads, "timetable")),
    Case("resign", b"resign", asked(lambda t: t.resign("me"), "timetable"), asked(lambda t: t.lead("me", 60_000), "timetable")),
)

#: cases that are also cut when the server has forgotten the scripts, as one that was restarted has
FORGOTTEN = (
    "publish-bulk",
    "publish-large",
    "publish-join-open",
    "fetch-queues",
    "settle-mixed",
    "settle-effects",
    "settle-then-fetch",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def proxy(server: RedisServer) -> Iterator[Proxy]:
    with Proxy(server.port) as proxy:
        yield proxy


def run(case: Case, server: RedisServer, proxy: Proxy, when: str = "", forgotten: bool = False) -> tuple[Any, dict[str, Any]]:
    """Make the call, cut if ``when`` says so and then made again; return the answer, and what the server holds then.

    ``forgotten``: the server does not know the script any more, and the connection is cut when it is sent as a text.
    """
    with server.client() as client:
        client.flushall()
        straight = open_broker(server.url, TransportOptions())
        scene = Scene(server, proxy.url, straight)
        try:
            case.prepare(scene)
            hits = proxy.hits
            if forgotten:
                client.script_flush()
            if when and forgotten:
                proxy.cut_on(b"\r\nEVAL\r\n", when, skip=case.skip)
            elif when:
                needle = case.script if case.script.isupper() else script(case.script.decode()).sha
                proxy.cut_on(needle, when, skip=case.skip)
            if when:
                felt: AbstractContextManager[object] = nullcontext() if case.inside else pytest.raises(OperationalError)
                with felt:
                    case.call(scene)
                assert proxy.hits == hits + 1
            answer = case.call(scene)
            if when == "late":
                assert proxy.deliver() == 1
                settle_down(client, proxy)
            return answer if case.answers else None, dump(client)
        finally:
            proxy.cut_on(b"", times=0)
            proxy.cut()
            for opened in (*scene.opened, straight):
                opened.close()


def settle_down(client: Any, proxy: Proxy) -> None:
    """Wait until the server has read what was delivered late and has closed that connection."""
    eventually(lambda: not proxy.ending, "the late connection is closed by the server")
    client.ping()


#: when a result was made: MessagePack's mark of eight bytes, and a time in ms
_MADE_AT = re.compile(rb"\xcf\x00\x00\x01.{5}", re.DOTALL)


def dump(client: Any) -> dict[str, Any]:
    """Return all keys with their values, without what differs from run to run: times, and the nonces of delayed messages."""
    found: dict[str, Any] = {}
    now_ms = client.time()[0] * 1000
    for key in sorted(client.keys("*")):
        name = key.decode()
        kind = client.type(key).decode()
        value: Any
        if kind == "string":
            value = _MADE_AT.sub(b"made at", client.get(key))
            if ":rate:" in name:
                value = "later"  # a repeated reservation has taken more turns: a rate is never exceeded by that
        elif kind == "list":
            value = client.lrange(key, 0, -1)
        elif kind == "set":
            value = sorted(client.smembers(key))
        elif kind == "hash":
            value = {k: _MADE_AT.sub(b"made at", v) for k, v in client.hgetall(key).items()}
            if name.endswith(":states"):
                value = {k: re.sub(rb"\b1\d{12}\b", b"a time", v) for k, v in value.items()}
            if name.endswith(":dead:messages"):
                value = {k: re.sub(rb"^\d+", b"died at", v) for k, v in value.items()}
        else:
            value = [_member(name, member, score, now_ms) for member, score in client.zrange(key, 0, -1, withscores=True)]
            value.sort()
        found[name] = (kind, value, "expires" if client.ttl(key) > 0 else "stays")
    return found


def _member(name: str, member: bytes, score: float, now_ms: int) -> Any:
    if name.endswith(":delayed"):
        in_an_hour = abs(score - now_ms - HOUR_MS) < HOUR_MS / 2
        return member[:1], member[2 + member[1] :], "in an hour" if in_an_hour else score
    if name.endswith(":idle"):
        return member, "due later" if 1e12 < score < 1e15 else str(score)
    return member, "condemned" if score == 0 else "there"


@pytest.mark.parametrize("when", WHENS)
@pytest.mark.parametrize("case", CASES + TIMETABLE, ids=lambda case: case.name)
def test_a_cut_call_made_again_leaves_what_one_call_leaves(case: Case, when: str, server: RedisServer, proxy: Proxy) -> None:
    expected, found = run(case, server, proxy), run(case, server, proxy, when)
    assert found[0] == expected[0]
    assert found[1] == expected[1]


@pytest.mark.parametrize("when", WHENS)
@pytest.mark.parametrize("case", [case for case in CASES if case.name in FORGOTTEN], ids=lambda case: case.name)
def test_a_call_cut_while_the_server_learns_its_script(case: Case, when: str, server: RedisServer, proxy: Proxy) -> None:
    expected, found = run(case, server, proxy, forgotten=True), run(case, server, proxy, when, forgotten=True)
    assert found[0] == expected[0]
    assert found[1] == expected[1]


def test_a_backend_whose_idle_connection_was_closed_answers(server: RedisServer, proxy: Proxy) -> None:
    """Such as by the server's own setting ``timeout``."""
    backend = open_backend(proxy.url, TransportOptions())
    try:
        backend.store([StoredResult("a", record())])
        assert proxy.cut() == 1
        assert backend.get(["a"]) == [record()]
        assert proxy.cut() == 1
        backend.store([StoredResult("b", record())])
        assert proxy.cut() == 1
        assert backend.joined("q", "none") is None
        proxy.refusing = True
        proxy.cut()
        with pytest.raises(OperationalError):
            backend.get(["a"])
    finally:
        proxy.refusing = False
        backend.close()
