"""Ask the nodes of an application, and gather their answers until nobody is left to wait for."""

from __future__ import annotations

import fnmatch
import logging
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fastq._core import packb, unpackb
from fastq.exceptions import DecodeError, EncodeError, SecurityError
from fastq.security import REPLY
from fastq.transports import open_channel

if TYPE_CHECKING:
    from fastq.app import FastQ
    from fastq.security import Signer
    from fastq.transports.channel import Channel, Ear

__all__ = ["TIMEOUT_S", "Broadcasting", "Reply", "open_app_channel"]

logger = logging.getLogger("fastq.control")

#: one node's answer: {node: payload}
Reply = dict[str, Any]

#: seconds that a node may take to answer, unless told otherwise
TIMEOUT_S = 1.0
#: seconds that the broker itself may take: whoever asks how the nodes are wants to hear soon that nobody can be asked
ANSWER_S = 5.0
#: the same where ``timeout=None`` sets no limit: as long as a node waits for its application's process
LONGEST_S = 60.0
#: seconds after which nobody is waited for who is not known to live: a connection that died unnoticed is still counted as one
#: that listens, and a node that starts listens a moment before, or after, it says that it is there
GRACE_S = 0.25


def open_app_channel(app: FastQ) -> Channel:
    """Return a channel to the application's nodes, the caller's to close."""
    options = app.transport_options()
    return open_channel(app.broker_url, replace(options, socket_timeout_s=min(ANSWER_S, options.socket_timeout_s)))


class Broadcasting:
    """The part of ``app.control`` that speaks to nodes."""

    app: FastQ

    def broadcast(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        destination: str | Iterable[str] | None = None,
        connection: Any = None,
        reply: bool = False,
        timeout: float | None = TIMEOUT_S,
        limit: int | None = None,
        callback: Callable[[Reply], object] | None = None,
        channel: Any = None,
        pattern: str | None = None,
        matcher: str | None = None,
        **extra: Any,
    ) -> list[Reply] | None:
        """Tell all nodes to do something: those that listen now, nothing is kept for later ones.

        ``destination``: only these nodes, by name; or those that ``matching`` finds by ``pattern`` and ``matcher``. ``extra`` is
        added to the arguments. With ``reply`` returns the answers, one ``{node: payload}`` per node: as soon as every node that was
        asked has answered, at the latest after ``timeout`` seconds (None: 60), or when ``limit`` have answered. ``callback`` is
        shown each as it comes. Without ``reply`` returns None at once.
        """
        chosen = _fitting(pattern, matcher)
        request = _Request(command, {**(arguments or {}), **extra}, destination)
        there = open_app_channel(self.app)
        try:
            if chosen is not None:
                request.destination = sorted(filter(chosen, there.nodes()))
                if not request.destination:
                    return [] if reply else None
            if not reply:
                there.broadcast(request.written(self.app, None))
                return None
            ear = there.replies(request.ticket)
            try:
                ear.open()
                heard = there.broadcast(request.written(self.app, request.ticket))
                timeout_s = LONGEST_S if timeout is None else float(timeout)
                return _Gathering(there, ear, request, heard, limit, callback, self.app.signer).run(timeout_s)
            finally:
                ear.close()
        finally:
            there.close()

    def matching(self, pattern: str, matcher: str | None = None) -> list[str]:
        """Return the names of the live nodes that fit a pattern, sorted. ``matcher``: "glob", or "pcre" for a regular expression
        (of Python) from the name's beginning. A node is there as soon as it is ready."""
        chosen = _fitting(pattern, matcher)
        there = open_app_channel(self.app)
        try:
            return sorted(filter(chosen, there.nodes()))
        finally:
            there.close()


def _fitting(pattern: str | None, matcher: str | None) -> Callable[[str], bool] | None:
    """Return what says whether a node's name fits, None without a pattern. Here, and never in a node: an expression can take for
    ever to match."""
    matcher = matcher or "glob"
    if matcher not in ("glob", "pcre"):
        raise ValueError(f"matcher is {matcher!r}: expected 'glob', or 'pcre' for a regular expression")
    if not pattern:
        return None
    if matcher == "glob":
        return lambda node: fnmatch.fnmatchcase(node, pattern)
    try:
        expression = re.compile(pattern)
    except re.error as exc:
        raise ValueError(f"pattern {pattern!r} is no regular expression: {exc}") from exc
    return lambda node: expression.match(node) is not None


class _Request:
    """What is asked of whom."""

    def __init__(
        self,
        method: str,
        arguments: dict[str, Any],
        destination: str | Iterable[str] | None,
    ) -> None:
        self.method = method
        self.arguments = arguments
        self.destination = None if destination is None else [destination] if isinstance(destination, str) else list(destination)
        if self.destination == []:
            raise ValueError("destination is empty: name the nodes that are meant, or leave it out for all of them")
        self.ticket = secrets.token_hex(12)

    def written(self, app: FastQ, reply_to: str | None) -> bytes:
        """Return the request as it travels, signed where messages are."""
        values = {
            "method": self.method,
            "arguments": self.arguments,
            "destination": self.destination,
            "reply_to": reply_to,
            "ticket": self.ticket,
            # Nothing waits anywhere: who hears it hears it now.
            "expires_ms": 0,
        }
        try:
            data = bytes(packb(values))
        except EncodeError as exc:
            raise EncodeError(f"The arguments of {self.method} must be plain values (text, numbers, lists, dicts): {exc}") from exc
        return data if app.signer is None else app.signer.seal(data)

    def means(self, node: str) -> bool:
        return self.destination is None or node in self.destination


class _Gathering:
    """The answers to one request."""

    def __init__(
        self,
        channel: Channel,
        ear: Ear,
        request: _Request,
        heard: int,
        limit: int | None,
        callback: Callable[[Reply], object] | None,
        signer: Signer | None,
    ) -> None:
        """``signer``: only an answer that it finds signed is one."""
        self._channel = channel
        self._ear = ear
        self._request = request
        self._heard = heard
        self._most = heard if limit is None else min(limit, heard)
        self._callback = callback
        self._signer = signer
        self._replies: list[Reply] = []
        #: answers that could not be believed: the first is told, whoever can write to the broker can send any number
        self._unbelieved = 0
        #: nodes that are known to live, were asked and have not answered; None: not looked for yet
        self._missing: set[str] | None = None

    def run(self, timeout_s: float) -> list[Reply]:
        began_s = time.monotonic()
        if self._request.destination is not None and self._heard:  # the others stay silent
            self._look()
        while len(self._replies) < self._most:
            waited_s = time.monotonic() - began_s
            if waited_s >= timeout_s or self._complete(waited_s):
                break
            step_s = timeout_s - waited_s
            if waited_s < GRACE_S:
                step_s = min(step_s, GRACE_S - waited_s)
            self._take(self._ear.read(step_s))
        return self._replies

    def _complete(self, waited_s: float) -> bool:
        """Say whether all have answered who will."""
        if self._missing is None:
            if waited_s < GRACE_S:
                return False
            self._look()
        if self._missing:
            return False
        if waited_s >= GRACE_S:
            return True
        # Names that were asked for and are not known may be of nodes that have just started.
        named = self._request.destination
        return bool(self._replies) if named is None else set(named) <= self._answered()

    def _look(self) -> None:
        live = self._channel.nodes()
        self._missing = {node for node in live if self._request.means(node)} - self._answered()

    def _answered(self) -> set[str]:
        return {node for reply in self._replies for node in reply}

    def _take(self, messages: Sequence[bytes]) -> None:
        for message in messages:
            try:
                values = unpackb(message if self._signer is None else self._signer.unseal(message, REPLY))
                ticket, node, payload = values["ticket"], values["node"], values["reply"]
            except SecurityError as exc:
                self._unbelieved += 1
                if self._unbelieved == 1:
                    logger.warning("An answer to %s was not believed: %s", self._request.method, exc)
                continue
            except (DecodeError, TypeError, KeyError):
                continue  # not an answer of a node
            if ticket != self._request.ticket or len(self._replies) >= self._most:
                continue
            reply = {node: payload}
            self._replies.append(reply)
            if self._missing is not None:
                self._missing.discard(node)
            if self._callback is not None:
                self._callback(reply)
