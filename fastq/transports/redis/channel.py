"""Subscriptions: the wake channel of a worker process, the inbox of a producer process, the ear of a node or of who asks one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from fastq._core import unpackb
from fastq.exceptions import DecodeError, OperationalError
from fastq.transports.base import TransportOptions
from fastq.transports.redis.address import Address
from fastq.transports.redis.connection import Connection

__all__ = ["RedisEar", "RedisInbox", "RedisWake", "Subscription"]

#: how often an inbox looks whether the primary is where it was, seconds
PLACE_CHECK_S = 1.0


class Subscription:
    """One subscribed connection to one channel. Nothing is sent on it but SUBSCRIBE and PING."""

    def __init__(self, address: Address, options: TransportOptions, role: str, channel: str) -> None:
        self.channel = channel
        self._connection = Connection(address, options, role)
        self._timeout_s = options.socket_timeout_s

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.channel} at {self._connection.address.display}>"

    def open(self) -> None:
        self._connection.close()
        self._connection.call([("SUBSCRIBE", self.channel)])

    def fileno(self) -> int:
        raw = self._connection.raw_or_none()
        if raw is None or raw._sock is None:
            raise self._not_open()
        return int(raw._sock.fileno())

    def close(self) -> None:
        self._connection.close()

    def _not_open(self) -> OperationalError:
        return OperationalError(f"The subscription to {self.channel} at {self._connection.address.display} is not open: open() it.")

    def _received(self, timeout_s: float) -> Iterator[bytes | None]:
        """Yield the payload of every message that has come, None for the answer to a PING; wait up to ``timeout_s`` for the first.

        hiredis reads ahead: a message in its buffer makes no descriptor readable, so everything must be taken in at once.
        """
        connection = self._connection
        raw = connection.raw_or_none()
        if raw is None:
            raise self._not_open()
        connection.check_place()
        try:
            wait_s = timeout_s
            while raw.can_read(timeout=wait_s):
                wait_s = 0
                reply = raw.read_response()
                if reply[0] == b"message":
                    yield reply[2]
                elif reply[0] == b"pong":
                    yield None
        except GeneratorExit:
            raise
        except Exception as error:
            connection.close()
            raise connection.explained(error) from error
        except BaseException:
            # Interrupted in the middle of a message: the stream is out of step.
            connection.close()
            raise


    def _probed(self, on_silence: Callable[[], object] | None = None) -> Iterator[bytes]:
        """Send PING and wait for its answer; yield the payloads that come meanwhile. OperationalError if there is none."""
        self._connection.send("PING")
        deadline = time.monotonic() + self._timeout_s
        while (left_s := deadline - time.monotonic()) > 0:
            answered = False
            for payload in self._received(left_s):
                if payload is None:
                    answered = True
                else:
                    yield payload
            if answered:
                return
        self._connection.close()
        if on_silence is not None:
            on_silence()
        raise OperationalError(
            f"Redis at {self._connection.address.display} did not answer a PING within {self._timeout_s:g} s: "
            "check the server's load and the network."
        )


class RedisWake(Subscription):
    """The wake channel of a process: any message is a wake."""

    def __init__(
        self, address: Address, options: TransportOptions, channel: str, on_silence: Callable[[], object] | None = None
    ) -> None:
        """``on_silence`` is called when a PING was not answered: what else leads there is silent too, most likely."""
        super().__init__(address, options, "wake", channel)
        self._on_silence = on_silence
        #: a wake came while ``check`` waited for its answer
        self._woken = False

    def open(self) -> None:
        self._woken = False
        super().open()

    def drain(self) -> bool:
        woken, self._woken = self._woken, False
        for payload in self._received(0):
            woken = woken or payload is not None
        return woken

    def check(self) -> None:
        """Send PING and wait for its answer. Call ``drain`` after it: a wake may have come meanwhile."""
        for _ in self._probed(self._on_silence):
            self._woken = True


class RedisInbox(Subscription):
    """A producer's inbox: each message is an array [id, record or nil, id, record or nil, ...]."""

    def __init__(self, address: Address, options: TransportOptions, channel: str) -> None:
        super().__init__(address, options, "inbox", channel)

    def read(self, timeout_s: float | None) -> list[tuple[str, bytes | None]]:
        results: list[tuple[str, bytes | None]] = []
        # None means "as long as it takes": an hour at a time. Where sentinels may move the primary, a second at a time: word of
        # that makes nothing readable here, and results are announced at the new one.
        longest_s = PLACE_CHECK_S if self._connection.watches else 3600.0
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not results:
            left_s = longest_s if deadline is None else max(0.0, deadline - time.monotonic())
            for payload in self._received(min(left_s, longest_s)):
                if payload is not None:
                    results += _notice(payload)
            if left_s <= longest_s and deadline is not None:
                break
        return results


class RedisEar(Subscription):
    """``Ear``: whatever is said on one channel."""

    def __init__(self, address: Address, options: TransportOptions, channel: str) -> None:
        super().__init__(address, options, "ear", channel)
        #: came while ``check`` waited for its answer
        self._early: list[bytes] = []

    def open(self) -> None:
        self._early.clear()
        super().open()

    def read(self, timeout_s: float | None) -> list[bytes]:
        messages, self._early = self._early, []
        longest_s = PLACE_CHECK_S if self._connection.watches else 3600.0
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left_s = longest_s if deadline is None else max(0.0, deadline - time.monotonic())
            messages += [payload for payload in self._received(0 if messages else min(left_s, longest_s)) if payload is not None]
            if messages or (deadline is not None and time.monotonic() >= deadline):
                return messages

    def check(self) -> None:
        self._early += self._probed()


def _notice(payload: bytes) -> list[tuple[str, bytes | None]]:
    """Read an inbox message; what is none is dropped: the waiter finds its result by its slow poll."""
    try:
        items = unpackb(payload)
    except DecodeError:
        return []
    if not isinstance(items, list):
        return []
    return [(str(task_id), record) for task_id, record in zip(items[::2], items[1::2], strict=False)]
