"""Ends of tasks whose process was killed: at most once, and to whoever listens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fastq import FastQ, Task, _core, signals
from fastq.exceptions import TimeLimitExceeded, WorkerLostError
from fastq.records import Registry
from fastq.worker.asking import NoAnswer, NotAsked, packed, unpacked
from fastq.worker.ends import LOST, REVOKED, TIMED_OUT, End
from fastq.worker.loop import Loop
from fastq.worker.telling import tell_ends, wanted
from fastq.worker.untold import ENDS_MAX, GATHER_S, Untold


class Node:
    """What ``Untold`` sees of a node: the answers are given by the test."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.asked: list[tuple[Any, Callable[[Any], object]]] = []
        self.answers: list[Any] = []

    def ask(self, question: Any, answer: Callable[[Any], object]) -> None:
        self.asked.append((unpacked(packed(question)), answer))
        if self.answers:
            answer(self.answers.pop(0))

    def turn(self) -> None:
        self.loop.turn(longest_s=1)


def message(id: str = "a", name: str = "ends.add", args: tuple[Any, ...] = (1, 2), **options: Any) -> bytes:
    return _core.encode(id, name, "application/x-msgpack", _core.packb([list(args), {"k": 1}]), 1, None, 0, None, options or None)


def delivery(id: str = "a", **options: Any) -> _core.Delivery:
    return _core.deliveries("q", ["0:1:1"], [message(id, **options)], Registry([]))[0]


def ids(question: Any) -> list[str]:
    assert question["what"] == "ended"
    return [_core.peek(end[0]).id for end in question["ends"]]


LATE = End(TIMED_OUT, "q", "", 2.5)


def test_ends_of_one_moment_are_one_question() -> None:
    node = Node()
    untold = Untold(node)  # type: ignore[arg-type]
    for id in "ab":
        untold.ended(delivery(id), LATE)
    assert node.asked == [], f"they are gathered for {GATHER_S} s"
    node.turn()
    ((question, _),) = node.asked
    assert ids(question) == ["a", "b"]
    assert question["ends"][0][1:] == [TIMED_OUT, "q", "", 2.5]


def test_who_cannot_be_asked_is_asked_again_and_who_may_have_told_is_not(caplog: pytest.LogCaptureFixture) -> None:
    node = Node()
    node.answers = [NotAsked("nobody is there"), NotAsked("nobody is there"), NoAnswer("it has died")]
    untold = Untold(node)  # type: ignore[arg-type]
    untold.ended(delivery(), LATE)
    for _ in range(3):
        node.turn()
    assert [ids(question) for question, _ in node.asked] == [["a"]] * 3
    assert "may not have been told that 1 tasks have ended: it has died (a)" in caplog.text
    untold.finish(0.1)
    assert len(node.asked) == 3


def test_a_node_that_ends_waits_for_who_tells_but_not_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    node = Node()
    untold = Untold(node)  # type: ignore[arg-type]
    slow = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.5)"])
    node.answers = [slow.pid]
    untold.ended(delivery(), LATE)
    untold.finish(30)
    with pytest.raises(ChildProcessError):
        os.waitpid(slow.pid, os.WNOHANG)
    slow.returncode = 0
    assert caplog.text == ""
    untold.ended(delivery(), LATE)
    untold.finish(0.1)
    assert len(node.asked) == 2 and "the node ends without it" in caplog.text


def test_what_nobody_can_be_told_does_not_fill_the_memory(caplog: pytest.LogCaptureFixture) -> None:
    node = Node()
    untold = Untold(node)  # type: ignore[arg-type]
    for n in range(ENDS_MAX + 1):
        untold.ended(delivery(str(n)), LATE)
    assert f"The application is not told that task ends.add[{ENDS_MAX}] has ended" in caplog.text
    node.answers = [NotAsked("nobody is there")] * 20
    untold.finish(0.1)
    assert len(node.asked) == 10, "a node that ends asks once"


# --- who tells


@pytest.fixture
def seen() -> Iterator[list[Any]]:
    found: list[Any] = []

    def failed(**told: Any) -> None:
        found.append(("failure", told))

    def revoked(**told: Any) -> None:
        found.append(("revoked", told))

    signals.task_failure.connect(failed)
    signals.task_revoked.connect(revoked)
    try:
        yield found
    finally:
        signals.task_failure.disconnect(failed)
        signals.task_revoked.disconnect(revoked)


@pytest.fixture
def app() -> Iterator[FastQ]:
    with FastQ("ends", broker="memory://ends", set_as_current=False) as app:
        yield app


def test_hook_and_signal_are_told_what_was_called_and_how_it_ended(app: FastQ, seen: list[Any]) -> None:
    class Watched(Task[..., Any]):
        def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
            seen.append(("hook", (self.request.id, self.request.retries, task_id, args, kwargs, exc, einfo.exception)))
            raise RuntimeError("a hook changes nothing")

    @app.task(base=Watched, name="ends.add")
    def add(x: int, y: int) -> None: ...

    before = ["application/x-msgpack", _core.packb(0)]
    tell_ends(app, [[message(flow={"args": [before]}), *LATE], [message("b"), *End(LOST, "q", "it died")]])
    assert [kind for kind, _ in seen] == ["hook", "failure"] * 2
    id, retries, task_id, args, kwargs, exc, shown = seen[0][1]
    assert (id, retries, task_id, args, kwargs) == ("a", 0, "a", (0, 1, 2), {"k": 1}), "with what came before it in its chain"
    assert isinstance(exc, TimeLimitExceeded) and exc.args == (2.5,) and shown is exc
    told = seen[3][1]
    assert (told["sender"].name, told["task_id"], told["args"]) == ("ends.add", "b", (1, 2))
    assert isinstance(told["exception"], WorkerLostError) and str(told["exception"]) == "it died"
    seen.clear()
    tell_ends(app, [[message(), *End(REVOKED, "q", "SIGKILL")]])
    ((kind, told),) = seen
    assert kind == "revoked" and told["request"].id == "a" and told["sender"].name == "ends.add"
    assert (told["terminated"], told["signum"], told["expired"]) == (True, signal.SIGKILL, False)


def test_a_task_of_another_application_and_a_damaged_message_keep_nobody_from_being_told(app: FastQ, seen: list[Any]) -> None:
    tell_ends(app, [[b"\x00", *LATE], [message(name="elsewhere"), *LATE]])
    ((_, told),) = seen
    assert told["sender"] is None and told["args"] == (1, 2)


def test_where_nobody_listens_nobody_is_bothered(app: FastQ) -> None:
    @app.task(name="ends.add")
    def add(x: int, y: int) -> None: ...

    assert not wanted(app, [[message(), *LATE], [message(), *End(REVOKED, "q", "SIGTERM")]])
