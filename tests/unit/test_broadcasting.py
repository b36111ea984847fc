"""The client side of control: who is asked, how long is waited, what comes back. Threads on the real Channel play nodes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastq import FastQ
from fastq._core import packb, unpackb
from fastq.control import broadcasting
from fastq.exceptions import DuplicateNodenameWarning, EncodeError
from fastq.security import REPLY, Signer, make_signer
from fastq.transports import TransportOptions, open_channel
from tests.workers import eventually

#: seconds; an answer that all nodes have given comes well before
PATIENT_S = 20.0


class Played:
    """A node that answers what it is told to."""

    def __init__(
        self,
        url: str,
        name: str,
        answer: Callable[[dict[str, Any]], Any],
        *,
        beats: bool = True,
        signer: Signer | None = None,
        seal: Callable[[bytes], bytes] = bytes,
    ) -> None:
        self.name = name
        self._signer, self._seal = signer, seal
        self.heard: list[dict[str, Any]] = []
        self._answer = answer
        self._channel = open_channel(url, TransportOptions())
        if beats:
            self._channel.beat(name, b"\x80", 60_000)
        self._ear = self._channel.ear(name)
        self._ear.open()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._ending.is_set():
            for message in self._ear.read(0.05):
                request = unpackb(message if self._signer is None else self._signer.unseal(message))
                self.heard.append(request)
                if request["destination"] is not None and self.name not in request["destination"]:
                    continue
                payload = self._answer(request)
                if request["reply_to"] and payload is not None:
                    self._channel.reply(request["reply_to"], b"no answer at all")
                    answer = packb({"ticket": request["ticket"], "node": self.name, "reply": payload})
                    self._channel.reply(request["reply_to"], self._seal(bytes(answer)))

    def end(self) -> None:
        self._ending.set()
        self._thread.join()
        self._ear.close()
        self._channel.close()


Play = Callable[..., Played]


@pytest.fixture(params=["redis", "sqlite", "memory"])
def app(request: pytest.FixtureRequest, tmp_path: Path) -> FastQ:
    urls = {"sqlite": f"sqlite:///{tmp_path}/c.db", "memory": f"memory://{tmp_path}"}
    url = urls.get(request.param) or request.getfixturevalue("redis_url")
    return FastQ("asked", broker=url, set_as_current=False)


@pytest.fixture
def play(app: FastQ) -> Iterator[Play]:
    played: list[Played] = []

    def play(name: str, answer: Callable[[dict[str, Any]], Any] = lambda _: {"ok": "pong"}, **how: Any) -> Played:
        played.append(Played(app.broker_url, name, answer, **how))
        return played[-1]

    yield play
    for node in played:
        node.end()


def test_nobody_there_is_known_at_once(app: FastQ) -> None:
    began_s = time.monotonic()
    assert app.control.ping(timeout=PATIENT_S) == []
    assert app.control.inspect(timeout=PATIENT_S).active() is None
    assert app.control.inspect(["a@h"], timeout=PATIENT_S).active() is None
    assert app.control.broadcast("ping") is None
    assert time.monotonic() - began_s < PATIENT_S / 2


def test_an_answer_comes_when_all_have_answered(app: FastQ, play: Play) -> None:
    for name in ("a@h", "b@h"):
        play(name)
    control = app.control
    began_s = time.monotonic()
    pong = {"ok": "pong"}
    assert sorted(control.ping(timeout=PATIENT_S), key=str) == [{"a@h": pong}, {"b@h": pong}]
    assert control.inspect(timeout=PATIENT_S).ping() == {"a@h": pong, "b@h": pong}
    # only who is meant is waited for
    assert control.ping(["b@h"], timeout=PATIENT_S) == [{"b@h": pong}]
    assert control.inspect("b@h", timeout=PATIENT_S).ping() == pong, "as Celery: one name as text, one answer"
    assert control.inspect(["b@h", "gone@h"], timeout=PATIENT_S).ping() == {"b@h": pong}
    assert len(control.ping(timeout=PATIENT_S, limit=1)) == 1
    shown: list[Any] = []
    control.inspect(timeout=None, callback=shown.append).ping()
    assert sorted(shown, key=str) == [{"a@h": pong}, {"b@h": pong}]
    assert time.monotonic() - began_s < PATIENT_S / 2


def test_who_stays_silent_is_waited_for_as_long_as_said(app: FastQ, play: Play) -> None:
    play("a@h")
    play("dumb@h", lambda _: None)
    heard: list[Any] = []
    while not heard:  # on a busy machine the thread that plays the other may be late too
        began_s = time.monotonic()
        heard = app.control.ping(timeout=0.4)
        assert 0.4 <= time.monotonic() - began_s < PATIENT_S
    assert heard == [{"a@h": {"ok": "pong"}}]
    # One that listens but does not say that it is there is not waited for so long: its process may be gone.
    began_s = time.monotonic()
    play("unknown@h", lambda _: None, beats=False)
    assert app.control.ping(["a@h"], timeout=PATIENT_S) == [{"a@h": {"ok": "pong"}}]
    assert time.monotonic() - began_s < PATIENT_S / 2


def test_what_is_sent_is_what_was_called(app: FastQ, play: Play) -> None:
    node = play("a@h", lambda request: {"ok": request["method"]})
    control = app.control
    everything: dict[str, Any] = {"reply": True, "timeout": PATIENT_S}

    def sent(replies: Any) -> tuple[str, dict[str, Any]]:
        assert replies == [{"a@h": {"ok": node.heard[-1]["method"]}}]
        return node.heard[-1]["method"], node.heard[-1]["arguments"]

    assert sent(control.rate_limit("t", "10/m", **everything)) == ("rate_limit", {"task_name": "t", "rate_limit": "10/m"})
    assert sent(control.time_limit("t", soft=1, hard=2.5, destination=["a@h"], **everything)) == (
        "time_limit",
        {"task_name": "t", "soft": 1, "hard": 2.5},
    )
    assert sent(control.add_consumer("q", options={"more": 1}, **everything)) == (
        "add_consumer",
        {"queue": "q", "exchange": None, "exchange_type": "direct", "routing_key": None, "more": 1},
    )
    assert sent(control.cancel_consumer("q", **everything)) == ("cancel_consumer", {"queue": "q"})
    assert sent(control.pool_grow(2, **everything)) == ("pool_grow", {"n": 2})
    assert sent(control.pool_shrink(**everything)) == ("pool_shrink", {"n": 1})
    assert sent(control.autoscale(8, 2, **everything)) == ("autoscale", {"max": 8, "min": 2})
    assert sent(control.pool_restart(["m"], **everything)) == ("pool_restart", {"modules": ["m"], "reload": False})
    for name in ("enable_events", "disable_events", "heartbeat", "shutdown"):
        assert sent(getattr(control, name)(**everything)) == (name, {})
    assert sent(control.broadcast("own", {"x": 1}, y=[2], **everything)) == ("own", {"x": 1, "y": [2]})
    # without reply it returns at once, and nobody answers
    assert control.pool_grow() is None
    while node.heard[-1]["reply_to"] is not None:
        time.sleep(0.005)


def test_every_question_has_a_method(app: FastQ, play: Play) -> None:
    node = play("a@h", lambda request: [request["method"], request["arguments"]])
    inspect = app.control.inspect(timeout=PATIENT_S)
    plain = ("active", "active_queues", "clock", "memsample", "ping", "report", "reserved", "revoked", "scheduled", "stats")
    for name in plain:
        arguments = {"safe": None} if name in ("active", "reserved", "scheduled") else {}
        assert getattr(inspect, name)() == {"a@h": [name, arguments]}
    asked = {
        "conf": (inspect.conf(with_defaults=True), {"with_defaults": True}),
        "hello": (inspect.hello("b@h"), {"from_node": "b@h", "revoked": None}),
        "memdump": (inspect.memdump(5), {"samples": 5}),
        "objgraph": (inspect.objgraph(), {"type": "Request", "num": 200, "max_depth": 10}),
        "query_task": (inspect.query_task("1", ["2", "3"]), {"ids": ["1", "2", "3"]}),
        "registered": (inspect.registered_tasks("rate_limit"), {"taskinfoitems": ["rate_limit"]}),
    }
    for name, (answer, arguments) in asked.items():
        assert answer == {"a@h": [name, arguments]}
    assert inspect.dump_active() == {"a@h": ["active", {"safe": None}]}
    assert node.heard[-1]["method"] == "active"


def test_patterns_choose_nodes(app: FastQ, play: Play) -> None:
    node, other = play("a1@h"), play("b1@h", lambda _: None)
    control = app.control
    asked = [control.ping(pattern="a*", timeout=PATIENT_S), control.ping(pattern=r"a\d", matcher="pcre", timeout=PATIENT_S)]
    assert asked == [[{"a1@h": {"ok": "pong"}}]] * 2
    assert control.ping(["b1@h"], pattern="a*", timeout=PATIENT_S) == asked[0], "the pattern wins"
    assert control.matching("*1@h") == ["a1@h", "b1@h"] and control.matching("1", "pcre") == []
    # what nodes hear has names and no pattern: one of these could take for ever to match
    eventually(lambda: len(node.heard) == len(other.heard) == 3, "who is not asked hears of it too, in its own time")
    assert [set(request) & {"pattern", "matcher"} for request in (*node.heard, *other.heard)] == [set()] * 6
    assert {tuple(request["destination"]) for request in node.heard} == {("a1@h",)}
    began_s = time.monotonic()
    assert control.ping(pattern="x*", timeout=PATIENT_S) == [] and control.pool_grow(pattern="x*") is None
    assert control.inspect(pattern="x*", timeout=PATIENT_S).ping() is None
    assert len(node.heard) == 3 and time.monotonic() - began_s < PATIENT_S / 2, "nobody is asked"
    assert control.inspect("a1@h", pattern="a*", timeout=PATIENT_S).ping() == {"a1@h": {"ok": "pong"}}


def test_two_nodes_of_one_name_are_a_warning(app: FastQ, play: Play) -> None:
    for _ in range(2):
        play("a@h")
    assert len(app.control.ping(timeout=PATIENT_S)) == 2
    with pytest.warns(DuplicateNodenameWarning, match="a@h"):
        assert app.control.inspect(timeout=PATIENT_S).ping() == {"a@h": {"ok": "pong"}}


def test_wrong_requests_are_refused_before_anybody_is_asked(app: FastQ) -> None:
    with pytest.raises(ValueError, match="glob"):
        app.control.ping(pattern="a", matcher="regex")
    with pytest.raises(ValueError, match="regular expression"):
        app.control.ping(pattern="(", matcher="pcre")
    with pytest.raises(ValueError, match="destination is empty"):
        app.control.shutdown([])
    with pytest.raises(EncodeError, match="plain values"):
        app.control.broadcast("own", {"x": object()})
    with pytest.raises(NotImplementedError, match="beats"):
        app.control.election("id", "topic")
    with pytest.raises(ValueError, match="reloader"):
        app.control.pool_restart(reloader=print)


def test_requests_are_signed_where_messages_are(app: FastQ, play: Play) -> None:
    app.conf.security_key = "a secret that nobody knows"
    heard: list[bytes] = []
    channel = open_channel(app.broker_url, TransportOptions())
    ear = channel.ear("a@h")
    ear.open()
    app.control.shutdown()
    while not heard:
        heard += ear.read(PATIENT_S)
    signer = app.signer
    assert signer is not None
    assert unpackb(signer.unseal(heard[0]))["method"] == "shutdown"
    ear.close()
    channel.close()


def test_only_signed_answers_are_believed_where_requests_are_signed(
    app: FastQ, play: Play, caplog: pytest.LogCaptureFixture
) -> None:
    app.conf.security_key = "a secret that nobody knows"
    signer, other = app.signer, make_signer("a secret of somebody else")
    assert signer is not None and other is not None
    play("a@h", seal=lambda answer: signer.seal(answer, REPLY), signer=signer)
    play("forged@h", seal=lambda answer: answer, signer=signer)
    play("stranger@h", seal=lambda answer: other.seal(answer, REPLY), signer=signer)
    play("echo@h", seal=signer.seal, signer=signer)
    assert app.control.ping(timeout=0.5) == [{"a@h": {"ok": "pong"}}]
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("An answer to ping was not believed: ") and len(caplog.records) == 1


def test_a_silent_broker_is_not_waited_for_as_long_as_by_those_who_send_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    monkeypatch.setattr(broadcasting, "open_channel", lambda url, options: seen.append(options.socket_timeout_s))
    for options in ({}, {"redis_socket_timeout": 2}):
        broadcasting.open_app_channel(FastQ("asking", broker="redis://127.0.0.1:1/0", set_as_current=False, **options))  # type: ignore[arg-type]
    assert seen == [broadcasting.ANSWER_S, 2.0]
