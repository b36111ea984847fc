"""What a node does with what is broadcast to it, over fakes of node and channel."""

from __future__ import annotations

import datetime
import logging
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fastq import FastQ
from fastq._core import packb, unpackb
from fastq.exceptions import OperationalError, SecurityError
from fastq.security import REPLY, REQUEST, Signer, make_signer
from fastq.transports.channel import Beat, NodeRecord
from fastq.worker import station as station_module
from fastq.worker.answering import answer_of, reply_to
from fastq.worker.asking import Asking, NoAnswer, packed
from fastq.worker.control import Later, Panel, control_command, inspect_command
from fastq.worker.control.plain import pack
from fastq.worker.heartbeat import Heartbeat
from fastq.worker.loop import Loop
from fastq.worker.station import Station
from tests.unit.test_worker_banner import HELLO

SECRET = "a secret of more than sixteen"


class FakeEar:
    """An ear on a pipe."""

    def __init__(self) -> None:
        self.down = False
        self.opened = self.checked = 0
        self.messages: list[bytes] = []
        self._pipe: tuple[int, int] | None = None

    def open(self) -> None:
        if self.down:
            raise OperationalError("nobody answers")
        self.close()
        self.opened += 1
        self.messages.clear()
        self._pipe = os.pipe()

    def fileno(self) -> int:
        assert self._pipe is not None
        return self._pipe[0]

    def say(self, *messages: bytes) -> None:
        assert self._pipe is not None
        self.messages += messages
        os.write(self._pipe[1], b"x")

    def read(self, timeout_s: float | None) -> list[bytes]:
        if self.down:
            raise OperationalError("the connection is gone")
        if self.messages and self._pipe is not None:
            os.read(self._pipe[0], 100)
        taken, self.messages = self.messages, []
        return taken

    def check(self) -> None:
        self.checked += 1
        if self.down:
            raise OperationalError("no answer to a PING")

    def close(self) -> None:
        if self._pipe is not None:
            os.close(self._pipe[0])
            os.close(self._pipe[1])
            self._pipe = None


class FakeChannel:
    def __init__(self) -> None:
        self.the_ear = FakeEar()
        self.replies: list[tuple[str, dict[str, Any]]] = []
        self.beats: list[dict[str, Any]] = []
        self.left: list[str] = []
        self.down = False
        self.listened = False
        #: what answers must be signed with
        self.signer: Signer | None = None

    def ear(self, node: str) -> FakeEar:
        return self.the_ear

    def reply(self, to: str, payload: bytes) -> None:
        if self.down:
            raise OperationalError("the connection is gone")
        self.replies.append((to, unpackb(payload if self.signer is None else self.signer.unseal(payload, REPLY))))

    def beat(self, node: str, info: bytes, expires_ms: int) -> Beat:
        if self.down:
            raise OperationalError("the connection is gone")
        self.beats.append(unpackb(info))
        return Beat(1_000_000, self.listened)

    def leave(self, node: str) -> None:
        self.left.append(node)

    def nodes(self) -> dict[str, NodeRecord]:
        return {}


class FakeNode:
    def __init__(self) -> None:
        self.name = "w1@host"
        self.loop = Loop()
        self.hello = replace(HELLO, lease_ms=300)
        self.reachable = True
        self.answer: Any = NoAnswer("nobody is there")
        self.asked: list[Mapping[str, Any]] = []

    def ask(self, question: Mapping[str, Any], answer: Callable[[Any], object]) -> None:
        self.asked.append(question)
        answer(self.answer)


def later(node: Any) -> Any:
    return Later(lambda reply: node.loop.after(0.001, lambda: reply("at last")))


def boom(node: Any) -> Any:
    raise ZeroDivisionError("on purpose")


def echo(node: Any, text: str = "", times: int = 1) -> Any:
    return text * times


COMMANDS: dict[str, Callable[..., Any]] = {
    "ping": lambda node: {"ok": "pong"},
    "echo": echo,
    "later": later,
    "boom": boom,
    "odd": lambda node: {"object": object(), "set": {1}, "big": 2**70},
}


class Place:
    """A station, opened."""

    def __init__(self, signer: Signer | None = None, now_ms: int | None = None, lease_ms: int = 60_000) -> None:
        self.node = FakeNode()
        self.node.hello = replace(HELLO, lease_ms=lease_ms)
        self.channel = FakeChannel()
        self.channel.signer = signer
        self.station = Station(self.node, self.channel, signer, lambda: now_ms)  # type: ignore[arg-type]
        self.station.start()

    def tell(self, method: str = "ping", signer: Signer | None = None, **values: Any) -> list[Any]:
        """Broadcast; return the payloads that were answered."""
        self.channel.replies.clear()
        request = {"method": method, "arguments": {}, "reply_to": "me", "ticket": "t1"} | values
        message = bytes(packb(request))
        self.channel.the_ear.say(message if signer is None else signer.seal(message))
        self.node.loop.turn(longest_s=1)
        return [reply["reply"] for _, reply in self.channel.replies]


@pytest.fixture(autouse=True)
def own_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(station_module, "commands", lambda: COMMANDS)
    monkeypatch.setattr(Panel, "data", {})
    monkeypatch.setattr(Panel, "meta", {})


# --- requests ---


def test_a_request_is_answered_to_who_asked_with_ticket_and_node() -> None:
    place = Place()
    assert place.tell() == [{"ok": "pong"}]
    assert place.channel.replies == [("me", {"ticket": "t1", "node": "w1@host", "reply": {"ok": "pong"}})]
    assert place.tell("echo", arguments={"text": "ab", "times": 2}) == ["abab"]
    assert place.tell(reply_to=None) == []


@pytest.mark.parametrize(
    ("values", "meant"),
    [
        ({"destination": ["w1@host"]}, True),
        ({"destination": "w1@host"}, True),
        ({"destination": ["w2@host", "w3@host"]}, False),
        ({"destination": []}, False),
    ],
)
def test_only_the_nodes_that_are_meant_obey(values: dict[str, Any], meant: bool) -> None:
    assert Place().tell(**values) == ([{"ok": "pong"}] if meant else [])


@pytest.mark.parametrize("matcher", ["glob", "pcre", None])
@pytest.mark.parametrize("pattern", ["w*@host", "(a|a?)+$", "(((((w+)+)+)+)+)+$", "*a" * 100, "(", "", 7, ["w"]])
def test_a_node_matches_no_pattern_and_says_who_does(pattern: Any, matcher: str | None, caplog: pytest.LogCaptureFixture) -> None:
    place = Place()
    place.node.name = "w" * 60
    began_s = time.monotonic()
    (reply,) = place.tell(pattern=pattern, matcher=matcher)
    assert "app.control.matching" in reply["error"] and reply["error"].startswith("ping: nodes match no patterns")
    assert place.tell(pattern=pattern, matcher=matcher, destination=["other"]) == []
    assert place.tell(pattern=pattern, matcher=matcher, reply_to=None) == []
    assert time.monotonic() - began_s < 5, "one that takes for ever to match"
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2


def test_no_expression_from_the_wire_reaches_a_node() -> None:
    source = Path(station_module.__file__).read_text()
    assert not re.search(r"^(import|from) (re|fnmatch)\b", source, re.MULTILINE)


def test_what_came_too_late_is_not_obeyed() -> None:
    place = Place(now_ms=1_000)
    assert place.tell(expires_ms=999) == []
    assert place.tell(expires_ms=1_000) == [{"ok": "pong"}]
    assert place.tell(expires_ms=0) == [{"ok": "pong"}]
    assert Place(now_ms=None).tell(expires_ms=1) == [{"ok": "pong"}], "the broker's clock is not known yet"


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\xc1garbage",
        packb([1, 2]),
        packb({"arguments": {}}),
        packb({"method": 5}),
        packb({"method": "ping", "arguments": [1]}),
        packb({"method": "ping", "arguments": {1: 2}}),
        packb({"method": "ping", "destination": 7}),
        packb({"method": "ping", "destination": [7]}),
        packb({"method": "ping", "pattern": "x" * 1000}),
        packb({"method": "ping", "pattern": "(", "matcher": "pcre"}),
        packb({"method": "ping", "ticket": 5}),
        packb({"method": "ping", "expires_ms": "soon"}),
        packb({"method": "ping", "reply_to": 5}),
        packb({"method": "p" * 1000}),
        b"\x81" * 100_000,
        packb({"method": "ping", "arguments": None}) + b"more",
    ],
)
def test_a_damaged_request_costs_one_line_and_nothing_else(message: bytes, caplog: pytest.LogCaptureFixture) -> None:
    place = Place()
    place.channel.the_ear.say(bytes(message))
    place.node.loop.turn(longest_s=1)
    assert place.channel.replies == []
    assert len(caplog.records) == 1 and "was not obeyed" in caplog.text
    assert place.tell() == [{"ok": "pong"}], "the next one is answered"


def test_a_flood_of_damaged_requests_costs_a_few_lines(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(station_module, "QUIET_S", 0.2)
    place = Place()
    for _ in range(1_000):
        place.station.take(b"\xc1garbage")
    assert len(caplog.records) == 10 and "was not obeyed" in caplog.text
    until = time.monotonic() + 30
    while "more" not in caplog.text and time.monotonic() < until:
        place.node.loop.turn(longest_s=0.3)
    assert len(caplog.records) == 11 and "990 more control requests were not obeyed" in caplog.text
    place.station.take(b"")
    assert len(caplog.records) == 12
    assert place.tell() == [{"ok": "pong"}]


def test_a_command_that_fails_is_answered_with_its_error(caplog: pytest.LogCaptureFixture) -> None:
    place = Place()
    assert place.tell("boom") == [{"error": "ZeroDivisionError: on purpose"}]
    assert "boom failed" in caplog.text
    assert place.tell("echo", arguments={"nosuch": 1}) == [{"error": "echo: got an unexpected keyword argument 'nosuch'"}]
    assert place.tell("echo", arguments={"text": "x", "times": "x"})[0]["error"].startswith("TypeError: ")


def test_a_reply_may_come_later() -> None:
    place = Place()
    assert place.tell("later") == []
    place.node.loop.turn(longest_s=1)
    assert [reply["reply"] for _, reply in place.channel.replies] == ["at last"]


def test_a_reply_of_odd_values_arrives_as_text() -> None:
    (reply,) = Place().tell("odd")
    assert reply["set"] == [1] and reply["big"] == str(2**70) and reply["object"].startswith("<object object")


def test_who_asks_for_an_unknown_command_is_told_what_may_be_meant() -> None:
    place = Place()
    (reply,) = place.tell("pnig", arguments={"a": 1})
    assert "did you mean 'ping'?" in reply["error"] and "nobody is there" in reply["error"]
    assert place.node.asked[0]["name"] == "pnig" and place.node.asked[0]["arguments"] == {"a": 1}
    place.node.answer = {"ok": "the application's"}
    assert place.tell("own") == [{"ok": "the application's"}]


def test_an_answer_that_cannot_be_sent_is_a_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    place = Place()
    place.channel.down = True
    assert place.tell() == []
    assert "could not be sent" in caplog.text


def test_a_lost_connection_is_opened_again_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fastq.worker.control")
    place = Place()
    ear = place.channel.the_ear
    ear.down = True
    ear.say(b"")
    for _ in range(6):
        place.node.loop.turn(longest_s=0.05)
    assert caplog.text.count("are not heard for the moment") == 1
    ear.down = False
    deadline = time.monotonic() + 10
    while ear.opened < 2 and time.monotonic() < deadline:
        place.node.loop.turn(longest_s=0.05)
    assert "heard again" in caplog.text
    assert place.tell() == [{"ok": "pong"}]


def test_a_connection_that_died_in_silence_is_found_within_a_lease(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fastq.worker.control")
    place = Place(lease_ms=20)
    ear = place.channel.the_ear

    def turn_until(condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 10
        while not condition() and time.monotonic() < deadline:
            place.node.loop.turn(longest_s=0.05)
        assert condition()

    turn_until(lambda: ear.checked >= 2)
    assert ear.opened == 1
    ear.down = True  # no end of file: nothing becomes readable
    turn_until(lambda: "are not heard for the moment" in caplog.text)
    ear.down = False
    turn_until(lambda: ear.opened == 2)
    assert place.tell() == [{"ok": "pong"}]


def test_a_node_that_has_ended_hears_nothing() -> None:
    place = Place()
    place.station.stop()
    place.station.stop()
    with pytest.raises(AssertionError):
        place.tell()


# --- signatures ---


def test_only_signed_requests_are_obeyed_where_there_is_a_key(caplog: pytest.LogCaptureFixture) -> None:
    signer, other = make_signer(SECRET), make_signer("another secret, as long")
    assert signer is not None and other is not None
    place = Place(signer)
    assert place.tell() == [] and "is not signed" in caplog.text
    caplog.clear()
    assert place.tell(signer=other) == [] and "not trusted here" in caplog.text
    caplog.clear()
    assert place.tell(signer=signer, ticket="a") == [{"ok": "pong"}]
    assert not caplog.records


def test_a_signed_request_that_was_overheard_cannot_be_sent_again(caplog: pytest.LogCaptureFixture) -> None:
    signer = make_signer(SECRET)
    place = Place(signer)
    assert place.tell(signer=signer, ticket="once") == [{"ok": "pong"}]
    assert place.tell(signer=signer, ticket="once") == []
    assert "was heard before" in caplog.text
    assert place.tell(signer=signer, ticket="twice") == [{"ok": "pong"}]


def test_a_changed_request_and_a_signed_task_are_no_signed_requests() -> None:
    signer = make_signer(SECRET)
    assert signer is not None
    sealed = signer.seal(b"do this")
    assert signer.unseal(sealed) == b"do this"
    for at in range(len(sealed)):
        changed = sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]
        with pytest.raises(SecurityError):
            signer.unseal(changed)
    for cut in range(len(sealed)):
        with pytest.raises(SecurityError):
            signer.unseal(sealed[:cut])
    for kind in (REPLY, REQUEST):
        with pytest.raises(SecurityError):
            signer.unseal(signer.seal(b"do this", REPLY if kind == REQUEST else REQUEST), kind)
    task = b"\x99" + b"\xc0" * 9
    with pytest.raises(SecurityError):
        signer.unseal(signer.sign(task))
    with pytest.raises(SecurityError):
        signer.check(signer.seal(task))


# --- heartbeat ---


def test_a_node_beats_at_once_then_every_third_of_a_lease_and_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastq.worker.heartbeat.describe", lambda node, events: {"name": node.name, "events": events})
    node, channel = FakeNode(), FakeChannel()
    node.services = type("S", (), {"events": type("E", (), {"enabled": False})})  # type: ignore[attr-defined]
    heard: list[bool] = []
    heartbeat = Heartbeat(node, channel, heard.append)  # type: ignore[arg-type]
    assert heartbeat.now_ms() is None
    heartbeat.now()
    assert not channel.beats, "it has not begun"
    heartbeat.start()
    assert len(channel.beats) == 1 and 1_000_000 <= (heartbeat.now_ms() or 0) < 1_010_000
    heartbeat.now()
    heartbeat.now()
    node.loop.turn(longest_s=1)
    assert len(channel.beats) == 2, "several changes at once are one beat"
    channel.down = True
    node.loop.turn(longest_s=1)
    channel.down, channel.listened, node.reachable = False, True, False
    node.loop.turn(longest_s=1)
    assert len(channel.beats) == 2, "while the keeper says that nobody answers, nobody is called"
    node.reachable = True
    while len(channel.beats) < 3:
        node.loop.turn(longest_s=1)
    assert heard == [False, False, True]
    heartbeat.stop()
    assert channel.left == ["w1@host"]


# --- asking and answering ---


def test_a_question_is_answered_once_given_up_in_time_or_lost() -> None:
    loop = Loop()
    sent: list[dict[str, Any]] = []

    def send(message: dict[str, Any]) -> bool:
        sent.append(message)
        return len(sent) != 5

    asking = Asking(loop, send)
    answers: list[Any] = []
    for _ in range(4):
        asking.ask({"what": "conf"}, answers.append)
    asking.hear({"answer": sent[0]["ask"], "packed": packed({"reply": {1: b"x"}})})
    asking.hear({"answer": sent[0]["ask"], "packed": packed({"reply": "again"})})
    asking.hear({"answer": sent[1]["ask"], "packed": packed({"failed": "no"})})
    asking.hear({"answer": sent[2]["ask"], "packed": "not base64, nor MessagePack"})
    asking.lose("it died")
    asking.ask({"what": "conf"}, answers.append)
    assert len(answers) == 5 and answers[0] == {1: b"x"}
    assert [str(answers[1]), str(answers[3])] == ["no", "it died"]
    assert "cannot be read" in str(answers[2]) and "could be asked just now" in str(answers[4])
    assert all(isinstance(answer, NoAnswer) for answer in answers[1:])


def application() -> FastQ:
    app = FastQ("answers", broker="redis://:geheim@host/0", set_as_current=False)

    @app.task(name="answers.add", rate_limit="10/m")
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="answers.plain")
    def plain_task() -> None: ...

    app.finalize()
    return app


def test_an_application_answers_what_it_is_asked() -> None:
    app = application()
    ask = lambda **question: answer_of(question, app, "w1@host")  # noqa: E731
    assert ask(what="registered") == ["answers.add [rate_limit=10/m]", "answers.plain"]
    assert ask(what="registered", attributes=["name", "max_retries"])[1] == "answers.plain [name=answers.plain max_retries=3]"
    assert len(ask(what="registered", builtins=True)) > 2
    conf = ask(what="conf")
    assert "geheim" not in str(conf) and "worker_lease" not in conf and conf["broker_url"] == "redis://:**@host/0"
    assert ask(what="conf", with_defaults=True)["worker_lease"] == 15.0
    assert "geheim" not in str(ask(what="report")) and "fastq:" in ask(what="report")["ok"]
    packb([conf, ask(what="conf", with_defaults=True)], None)  # plain without help


def test_commands_of_an_application_run_with_its_state() -> None:
    app = application()

    @control_command(args=[("n", int)], signature="[N=1]")
    def bump(state: Any, n: int = 1) -> Any:
        """Count up.

        And more."""
        assert state.app is app and state.hostname == "w1@host" and "answers.add" in state.tasks
        return {"ok": n}

    @inspect_command(name="look", alias="peer")
    def other(state: Any, **kwargs: Any) -> Any:
        return {"when": (1, 2), **kwargs}

    @Panel.register
    def bad(state: Any) -> Any:
        raise ValueError("wrong")

    @inspect_command(args=[("day", datetime.date.fromisoformat), ("sure", bool)], variadic="rest", visible=False)
    def dates(state: Any, day: Any = None, sure: bool = False, rest: Any = ()) -> Any:
        return {"ok": [day.isoformat(), sure, rest]}

    def run(name: str, **arguments: Any) -> Any:
        return answer_of({"what": "command", "name": name, "arguments": arguments, "known": ["ping"]}, app, "w1@host")

    def typed(name: str, *words: str) -> Any:
        return answer_of({"what": "command", "name": name, "words": list(words), "known": []}, app, "w1@host")

    assert run("bump") == {"ok": 1} and run("bump", n=5) == {"ok": 5}
    assert run("look", a=1)["a"] == 1 and run("peer")["when"] == (1, 2)
    assert run("bad") == {"error": "ValueError: wrong"}
    assert typed("bump", "7") == {"ok": 7} and typed("bump") == {"ok": 1}
    assert typed("bump", "x") == {"error": "bump: n is 'x', expected int. Usage: fastq control bump [N=1]"}
    assert typed("bump", "1", "2")["error"].startswith("bump takes 1 at most") and "unknown" in typed("bmup")["error"]
    assert typed("dates", "2026-11-21", "yes", "x", "y") == {"ok": ["2026-11-21", True, ["x", "y"]]}
    assert "day is 'soon', expected fromisoformat" in typed("dates", "soon")["error"]
    offers = {offer["name"]: offer for offer in answer_of({"what": "panel"}, app, "w1@host")}
    assert set(offers) == {"bump", "look", "bad", "dates"}, "each once, by its own name"
    assert offers["bump"] == {
        "name": "bump", "kind": "control", "help": "Count up.", "signature": "[N=1]", "arguments": [["n", "int"]],
        "variadic": None, "timeout_s": 1.0, "alias": None, "visible": True,
    }  # fmt: skip
    assert (offers["look"]["alias"], offers["dates"]["visible"], offers["dates"]["variadic"]) == ("peer", False, "rest")
    assert run("bump", m=1) == {"error": "bump: got an unexpected keyword argument 'm'"}
    assert run("bmup") == {"error": "unknown command 'bmup' (did you mean 'bump'?)"}
    assert run("pign") == {"error": "unknown command 'pign' (did you mean 'ping'?)"}
    assert (Panel.meta["bump"].type, Panel.meta["bump"].help, Panel.meta["bump"].args) == ("control", "Count up.", (("n", int),))
    assert Panel.meta["look"].type == "inspect" and Panel.data["look"] is other


def test_a_question_that_cannot_be_answered_is_an_error_for_who_asked() -> None:
    message = reply_to({"ask": 3, "packed": packed({"what": "nonsense"})}, application(), "n")
    assert message["answer"] == 3
    answers: list[Any] = []
    asking = Asking(Loop(), lambda sent: True)
    asking.ask({}, answers.append)
    asking.hear({**message, "answer": 1})
    assert "nonsense" in str(answers[0])


def test_a_command_that_is_declared_wrongly_is_refused() -> None:
    with pytest.raises(ValueError, match="'control' or 'inspect'"):
        Panel.register(type="other")(lambda state: None)


def test_declaring_commands_imports_no_worker() -> None:
    import subprocess
    import sys

    code = "import sys, fastq.worker.control; print([m for m in sys.modules if m.startswith('fastq.worker.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "['fastq.worker.control']"


def test_what_is_not_plain_becomes_text() -> None:
    values: Sequence[Any] = [(1, 2), {3}, datetime.date(2026, 1, 2), KeyError("x")]
    assert unpackb(pack(values)) == [[1, 2], [3], "2026-01-02", "KeyError('x')"]
    assert unpackb(pack([*values, {2: 2**70, "d": datetime.date(2026, 1, 2)}])) == [
        [1, 2], [3], "2026-01-02", "KeyError('x')", {"2": str(2**70), "d": "2026-01-02"},
    ]  # fmt: skip
    deep: Any = "core"
    for _ in range(1000):
        deep = [deep]
    assert unpackb(pack(deep)), "as deep as can be shown"
