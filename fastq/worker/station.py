"""Hear what is broadcast to the nodes, carry it out, answer. In the node's loop; whatever comes costs one log line at most.

A request is a MessagePack map: method, arguments, destination (node names, None: all), reply_to and ticket (whom to answer, None:
nobody), expires_ms (the broker's clock, 0: never). A reply is a map too: ticket, node, reply. Patterns are matched by who asks
(``fastq/control/broadcasting.py``): a node reads none, because one that takes for ever to match would stop it.
"""

from __future__ import annotations

import inspect
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastq._core import unpackb
from fastq.exceptions import DecodeError, OperationalError, SecurityError
from fastq.security import REPLY
from fastq.worker.asking import NoAnswer
from fastq.worker.control import Command, Later, commands
from fastq.worker.control.plain import pack
from fastq.worker.reconnect import Backoff

if TYPE_CHECKING:
    from fastq.security import Signer
    from fastq.transports.channel import Channel, Ear
    from fastq.worker.loop import Timer
    from fastq.worker.node import Node

__all__ = ["Request", "Station"]

logger = logging.getLogger("fastq.worker.control")

#: seconds between attempts to hear again, at most
RETRY_S = 1.0
#: what is said to who sends a pattern
PATTERN = "nodes match no patterns: ask for the names of those that live (app.control.matching), and name them as destination"
#: lines about requests that are not obeyed within so many seconds; the others are counted
LINES_MAX, QUIET_S = 10, 10.0
#: signed requests whose tickets are remembered, so that one which was overheard cannot be sent again
TICKETS_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked, checked."""

    method: str
    arguments: dict[str, Any]
    destination: tuple[str, ...] | None
    #: it asks the node to match a pattern; who does is told that nodes do not
    patterned: bool
    reply_to: str | None
    ticket: str
    #: the broker's clock, Unix ms; 0: never
    expires_ms: int

    @classmethod
    def read(cls, data: bytes) -> Request:
        """Read a request; ValueError says what is wrong with it."""
        try:
            values = unpackb(data)
        except DecodeError as exc:
            raise ValueError(f"not MessagePack: {exc}") from exc
        if not isinstance(values, dict):
            raise ValueError(f"a {type(values).__name__}, expected a map")
        method, ticket, reply_to = values.get("method"), values.get("ticket") or "", values.get("reply_to")
        arguments, destination, expires_ms = values.get("arguments") or {}, values.get("destination"), values.get("expires_ms") or 0
        if not isinstance(method, str) or not 0 < len(method) <= 255:
            raise ValueError("it names no method")
        if not isinstance(arguments, dict) or not all(isinstance(name, str) for name in arguments):
            raise ValueError("its arguments are no map of names")
        if isinstance(destination, str):
            destination = [destination]
        if destination is not None and not (isinstance(destination, list) and all(isinstance(one, str) for one in destination)):
            raise ValueError("its destination is no list of node names")
        if not isinstance(ticket, str) or not isinstance(reply_to, str | None) or not isinstance(expires_ms, int):
            raise ValueError("ticket and reply_to must be text, expires_ms a number")
        names = None if destination is None else tuple(destination)
        patterned = values.get("pattern") is not None
        return cls(method, arguments, names, patterned, reply_to or None, ticket, expires_ms)

    def concerns(self, node: str) -> bool:
        """Say whether a node is meant."""
        return self.destination is None or node in self.destination


class Station:
    """A service: see ``Services``."""

    def __init__(self, node: Node, channel: Channel, signer: Signer | None, now_ms: Callable[[], int | None]) -> None:
        """``signer``: only what it finds signed is obeyed. ``now_ms``: the broker's clock, None as long as it is not known."""
        self._node = node
        self._channel = channel
        self._signer = signer
        self._now_ms = now_ms
        self._ear: Ear | None = None
        self._fd = -1
        self._commands: dict[str, Command] = {}
        self._backoff = Backoff(longest_s=RETRY_S)
        self._retry: Timer | None = None
        self._probe_timer: Timer | None = None
        #: something was heard since the last probe
        self._heard = False
        self._deaf = False
        #: requests that were not obeyed in this while, of which the first are told one by one
        self._disobeyed = 0
        self._quiet_timer: Timer | None = None
        self._tickets: OrderedDict[str, None] = OrderedDict()

    # --- hearing ---

    def start(self) -> None:
        self._commands = commands()
        self._ear = self._channel.ear(self._node.name)
        self._open()
        self._probe_later()

    def _probe_later(self) -> None:
        self._probe_timer = self._node.loop.after(self._node.hello.lease_ms / 1000, self._probe)

    def _probe(self) -> None:
        """Find a connection that is dead without having said so: the other end is frozen, or something between has forgotten it."""
        ear, heard, self._heard = self._ear, self._heard, False
        if ear is not None and self._fd >= 0 and not heard and self._node.reachable:
            try:
                ear.check()
            except OperationalError as exc:
                self._lose(exc)
            else:
                self._hear()  # what came with the answer makes no descriptor readable
        self._probe_later()

    def _open(self) -> None:
        ear = self._ear
        if ear is None:
            return
        if not self._node.reachable:  # the keeper tries it, and one that waits for an answer is enough
            self._retry = self._node.loop.after(self._backoff.next_s(), self._open)
            return
        try:
            ear.open()
            self._fd = ear.fileno()
        except OperationalError as exc:
            self._lose(exc)
            return
        self._node.loop.watch(self._fd, self._hear)
        self._backoff.reset()
        if self._deaf:
            self._deaf = False
            logger.info("Control requests are heard again")
        self._hear()  # what came with the confirmation makes no descriptor readable

    def _lose(self, exc: OperationalError) -> None:
        """Take in that nothing is heard just now, and try again later."""
        self._unwatch()
        if not self._deaf:
            self._deaf = True
            logger.warning("Control requests are not heard for the moment: %s", exc)
        if self._ear is not None:
            with suppress(OperationalError):
                self._ear.close()
            self._retry = self._node.loop.after(self._backoff.next_s(), self._open)

    def _unwatch(self) -> None:
        if self._fd >= 0:
            self._node.loop.unwatch(self._fd)
            self._fd = -1

    def _hear(self) -> None:
        ear = self._ear
        if ear is None:
            return
        try:
            messages = ear.read(0)
            fd = ear.fileno()
        except OperationalError as exc:
            self._lose(exc)
            return
        if fd != self._fd:
            self._unwatch()
            self._fd = fd
            self._node.loop.watch(fd, self._hear)
        self._heard = self._heard or bool(messages)
        for message in messages:
            self.take(message)

    def stop(self) -> None:
        self._unwatch()
        self._count_disobeyed()
        for timer in (self._retry, self._probe_timer):
            if timer is not None:
                timer.cancel()
        ear, self._ear = self._ear, None
        if ear is not None:
            with suppress(OperationalError):
                ear.close()

    # --- obeying ---

    def take(self, message: bytes) -> None:
        """Take in what was broadcast."""
        try:
            request = Request.read(message if self._signer is None else self._signer.unseal(message))
            meant = request.concerns(self._node.name)
            if meant and self._signer is not None:
                self._refuse_repeated(request)
        except (ValueError, SecurityError) as exc:
            self._disobey(message, exc)
            return
        if not meant:
            return
        if request.patterned:
            self._disobey(message, ValueError(PATTERN))
            if request.reply_to is not None:
                self._reply(request, {"error": f"{request.method}: {PATTERN}"})
            return
        now_ms = self._now_ms()
        if request.expires_ms and now_ms is not None and now_ms > request.expires_ms:
            logger.debug("The control request %s came too late", request.method)
            return
        try:
            self._run(request)
        except Exception:  # nothing that is asked may stop the node
            logger.exception("The control request %s was not answered", request.method)

    def _disobey(self, message: bytes, exc: Exception) -> None:
        """Say why, but do not fill the log: whoever can reach the broker can send any number of them."""
        self._disobeyed += 1
        if self._disobeyed <= LINES_MAX:
            logger.warning("A control request was not obeyed (%d bytes): %s", len(message), exc)
        if self._quiet_timer is None:
            self._quiet_timer = self._node.loop.after(QUIET_S, self._count_disobeyed)

    def _count_disobeyed(self) -> None:
        timer, self._quiet_timer = self._quiet_timer, None
        if timer is not None:
            timer.cancel()
        number, self._disobeyed = self._disobeyed - LINES_MAX, 0
        if number > 0:
            logger.warning("%d more control requests were not obeyed within %g s", number, QUIET_S)

    def _refuse_repeated(self, request: Request) -> None:
        if request.ticket in self._tickets:
            raise SecurityError(f"the signed request {request.method} was heard before: somebody has sent it again")
        self._tickets[request.ticket] = None
        if len(self._tickets) > TICKETS_MAX:
            self._tickets.popitem(last=False)

    def _run(self, request: Request) -> None:
        command = self._commands.get(request.method)
        if command is None:
            question = {"what": "command", "name": request.method, "arguments": request.arguments, "known": [*self._commands]}
            self._node.ask(question, lambda reply: self._reply(request, self._asked(request, reply)))
            return
        payload = self._carry_out(command, request)
        if isinstance(payload, Later):
            try:
                payload.start(lambda later: self._reply(request, later))
            except Exception as exc:  # the same as of a command
                self._reply(request, _failure(request.method, exc))
            return
        self._reply(request, payload)

    def _asked(self, request: Request, reply: Any) -> Any:
        if not isinstance(reply, Exception):
            return reply
        if isinstance(reply, NoAnswer):
            known = f"{request.method!r} is no command of this node{_meant(request.method, self._commands)}"
            return {"error": f"{known}, and the application was not asked: {reply}"}
        return {"error": f"{type(reply).__name__}: {reply}"}

    def _carry_out(self, command: Command, request: Request) -> Any:
        try:
            inspect.signature(command).bind(self._node, **request.arguments)
        except TypeError as exc:
            return {"error": f"{request.method}: {exc}"}
        try:
            return command(self._node, **request.arguments)
        except Exception as exc:  # who asked is told
            return _failure(request.method, exc)

    def _reply(self, request: Request, payload: Any) -> None:
        if request.reply_to is None:
            if isinstance(payload, Mapping) and "error" in payload:
                logger.warning("The control request %s failed: %s", request.method, payload["error"])
            return
        try:
            data = pack({"ticket": request.ticket, "node": self._node.name, "reply": payload})
        except Exception as exc:  # not plain, for all that was done
            data = pack({"ticket": request.ticket, "node": self._node.name, "reply": _failure(request.method, exc)})
        if self._signer is not None:
            data = self._signer.seal(data, REPLY)
        try:
            self._channel.reply(request.reply_to, data)
        except Exception as exc:  # whoever asked may be gone, or the broker; the node goes on
            logger.warning("The answer to the control request %s could not be sent: %s", request.method, exc)


def _failure(method: str, exc: Exception) -> dict[str, str]:
    if isinstance(exc, OperationalError | ValueError):  # said in words for who asked
        return {"error": str(exc)}
    logger.warning("The control command %s failed", method, exc_info=exc)
    return {"error": f"{type(exc).__name__}: {exc}"}


def _meant(name: str, known: Iterable[str]) -> str:
    import difflib  # lazy: only where a name is wrong

    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
