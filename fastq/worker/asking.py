"""Questions of a node to a process that has the application: numbered, sent, answered or given up."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from fastq._core import unpackb
from fastq.exceptions import FastQError
from fastq.worker.control.plain import pack

if TYPE_CHECKING:
    from fastq.worker.loop import Loop, Timer

__all__ = ["APART", "ASK_S", "Asking", "Asks", "NoAnswer", "NotAsked", "packed", "unpacked"]

#: seconds until a question is given up; who asked from outside has gone long before that, unless told to wait
ASK_S = 60.0
#: questions under way at most: a process that answers none must not fill the node's memory
ASKED_MAX = 1_000
#: questions that run code of the application for as long as that takes: in a process, or a thread, of their own
APART = frozenset({"ended"})


class NoAnswer(FastQError):
    """Say why a question has no answer."""


class NotAsked(NoAnswer):
    """Say why a question was not even asked: asking again does nothing twice."""


class Asks(Protocol):
    """What can ask a process that has the application."""

    def ask(self, question: Mapping[str, Any], answer: Callable[[Any], object]) -> None:
        """See ``Node.ask``."""
        ...


class Asking:
    """What has been asked and not been answered. In the node's loop."""

    def __init__(self, loop: Loop, send: Callable[[dict[str, Any]], bool]) -> None:
        """``send`` sends ``{"ask": number, "packed": question}``, for ``answer_of`` there; False: there is nobody."""
        self._loop = loop
        self._send = send
        self._number = 0
        self._asked: dict[int, tuple[Callable[[Any], object], Timer]] = {}

    def ask(self, question: Mapping[str, Any], answer: Callable[[Any], object]) -> None:
        """See ``Node.ask``."""
        if len(self._asked) >= ASKED_MAX:
            answer(NotAsked(f"{ASKED_MAX} questions to the application's process wait for an answer: ask again later"))
            return
        self._number += 1
        number = self._number
        timer = self._loop.after(ASK_S, lambda: self._give_up(number, f"the application's process gave no answer in {ASK_S:g} s"))
        self._asked[number] = answer, timer
        try:
            message = {"ask": number, "packed": packed(question)}
            sent = self._send({**message, "apart": True} if question.get("what") in APART else message)
        except Exception as exc:  # a link that takes no more; the node must live
            self._give_up(number, f"the application's process cannot be asked: {exc}", NotAsked)
            return
        if not sent:
            self._give_up(number, "there is no process with the application that could be asked just now", NotAsked)

    def hear(self, message: Mapping[str, Any]) -> None:
        """Take in ``{"answer": number, "packed": {"reply": ...} or {"failed": text}}``."""
        answer, timer = self._asked.pop(message["answer"], (None, None))
        if answer is None or timer is None:
            return  # it was given up
        timer.cancel()
        try:
            told = unpacked(message["packed"])
            reply = NoAnswer(told["failed"]) if "failed" in told else told.get("reply")
        except Exception as exc:  # never seen from our own code: a task that writes to descriptors it does not own
            reply = NoAnswer(f"the application's process has answered what cannot be read: {exc}")
        answer(reply)

    def lose(self, why: str) -> None:
        """Give all up: who was asked is gone."""
        for number in list(self._asked):
            self._give_up(number, why)

    def _give_up(self, number: int, why: str, error: type[NoAnswer] = NoAnswer) -> None:
        answer, timer = self._asked.pop(number, (None, None))
        if answer is not None and timer is not None:
            timer.cancel()
            answer(error(why))


def packed(value: Any) -> str:
    """Write a value for its way over a link, whose messages are JSON: bytes and numbers as keys survive."""
    return base64.b64encode(pack(value)).decode()


def unpacked(text: str) -> Any:
    """Read what ``packed`` wrote."""
    return unpackb(base64.b64decode(text))
