"""Queues, leases and dead letters on Redis. What is atomic happens in the scripts beside this file; here they are fed and answered."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from typing import Any

from fastq._core import DEAD, DONE, RETRY, RETURN, task_id
from fastq.exceptions import EnvelopeError, Fenced, ImproperlyConfigured, OperationalError
from fastq.records import Fetch, Fetched, Lease, Leased, Publication, Settled, Settlement
from fastq.transports.base import TransportOptions
from fastq.transports.redis.channel import RedisWake
from fastq.transports.redis.connection import Connection, parse
from fastq.transports.redis.keys import LEVELS, Keys, QueueKeys
from fastq.transports.redis.scripts import script
from fastq.transports.redis.settling import SettleCalls

__all__ = ["RedisBroker"]

#: messages of one call at most: the server runs one script at a time, and 1,000 take it about 1 ms
CALL_MESSAGES = 1_000

#: bytes of messages of one call at most, about; a larger message travels alone
CALL_BYTES = 1 << 20

#: how long a producer's last call number is remembered: longer than any retry
SENT_TTL_S = 600

#: calls of one publish on their way at once: the server works on one while the next is packed
PIPELINE = 4

#: one publish may have that many parts; a call number times this stays exact in Lua's doubles for 137 billion calls
PARTS = 1 << 16

#: deliveries that one step of a release moves
RELEASE_STEP = 100


class RedisBroker:
    """A Broker on one Redis server. One connection, opened at the first call."""

    def __init__(self, url: str, options: TransportOptions) -> None:
        self.address = parse(url)
        self.url = self.address.display
        self.keys = Keys(options.prefix)
        self.options = options
        self._connection = Connection(self.address, options, "broker")
        #: the server's clock minus this machine's, ms; None: never seen
        self._offset_ms: float | None = None
        #: queues on which a process was registered as idle by its last fetch there
        self._idle: dict[str, set[str]] = {}
        #: leases entered by this instance: from then on they are renewed, never entered again
        self._entered: set[tuple[str, str]] = set()
        self._settling = SettleCalls(self.keys, options)

    def __repr__(self) -> str:
        return f"<RedisBroker {self.url}>"

    def now_ms(self) -> int:
        if self._offset_ms is None:
            sent = time.time()
            self._see(self._connection.clock_ms(), sent)
        return int(time.time() * 1000 + (self._offset_ms or 0.0))

    def _see(self, server_ms: int, sent: float) -> None:
        """Keep the offset of the clocks: the server read its own about half way between sending and now."""
        self._offset_ms = server_ms - (sent + time.time()) * 500.0

    # --- publish ---

    def publish(self, producer: str, number: int, publications: Sequence[Publication]) -> None:
        if not publications:
            return
        queues: dict[str, list[Publication]] = {}
        if len(publications) == 1:
            queues[publications[0].queue] = list(publications)
        else:
            for publication in publications:
                queues.setdefault(publication.queue, []).append(publication)
        parts = [part for queue, items in queues.items() for part in self._parts(queue, producer, number, items)]
        kept = 0
        try:
            for start in range(0, len(parts), PIPELINE):
                window = parts[start : start + PIPELINE]
                sent = time.time()
                replies = self._connection.call([command for command, _ in window])
                for (command, _), reply in zip(window, replies, strict=True):
                    if reply < 0:
                        # Its predecessor in this pipeline met a server that had forgotten the script, and was sent again behind
                        # it. Now it is in, so this one can follow.
                        reply = self._connection.call([command])[0]
                        if reply < 0:
                            raise OperationalError(f"Redis at {self.url} lost a part of this call in between: publish it again.")
                    kept += 1
                self._see(replies[-1] if replies[-1] > 0 else reply, sent)
        except OperationalError as error:
            lost = [task_ids for _, task_ids in parts[kept:]]
            raise OperationalError(str(error), task_ids=_ids(lost)) from error.__cause__ or error

    def _parts(
        self, queue: str, producer: str, number: int, publications: list[Publication]
    ) -> Iterable[tuple[tuple[Any, ...], list[Publication]]]:
        """Split one queue's messages into calls of bounded size, the same way each time.

        Parts are numbered within their call, and a part is refused unless its predecessor was kept. Without that: part 1 is refused
        (out of memory), part 2, sent with it, is kept; the repeat of the call finds number 2 noted and drops part 1 as known.
        """
        keys = self.keys.queue(queue)
        nonce = f"{producer}.{number}."
        start = part = 0
        while start < len(publications):
            end, size = start, 0
            while end < len(publications) and end - start < CALL_MESSAGES:
                size += len(publications[end].message)
                if size > CALL_BYTES and end > start:
                    break
                end += 1
            batch = publications[start:end]
            yield self._publish_command(keys, producer, number * PARTS + part, part > 0, f"{nonce}{part}.", batch), batch
            start, part = end, part + 1

    @staticmethod
    def _publish_command(
        keys: QueueKeys, producer: str, sequence: int, follows: bool, nonce: str, batch: list[Publication]
    ) -> tuple[Any, ...]:
        raise NotImplementedError
