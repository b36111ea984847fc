"""What has lost its owner: how to be sure of it, and how to put it right without losing a message."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from fastq import _core
from fastq.exceptions import EnvelopeError
from fastq.transports.base import Broker, TransportOptions
from fastq.transports.judging import counted
from fastq.transports.redis.connection import Connection
from fastq.transports.redis.keys import Keys
from fastq.transports.redis.keyspace import place
from fastq.transports.redis.queue_look import look
from fastq.transports.redis.scripts import script

__all__ = ["Mender", "ownerless", "unreferenced"]

#: messages read in one round trip, and how many of them again in the next
STEP, OVERLAP = 500, 50

#: seconds after which the last number of a producer, or a bucket of a rate limit, is of no use
SHORT_TTL_S, BUCKET_TTL_S = 600, 86_400


def ownerless(connection: Connection, keys: Keys, queue: str, process: str) -> int | None:
    """Return how many messages a process without a lease holds; None: it has a lease, or the hash is gone.

    Two actors: we see the hash; the process ends, which removes hash and lease; we see no lease. So the hash is looked at between
    two looks at the lease: a name is entered once and never again, so without a lease at both it had none in between.
    """
    names = keys.queue(queue)
    leased = names.leased(process)
    before, there, held, marked, after = connection.call(
        [
            ("ZSCORE", names.leases, process),
            ("EXISTS", leased),
            ("HLEN", leased),
            ("HEXISTS", leased, "#"),
            ("ZSCORE", names.leases, process),
        ]
    )
    if before is not None or after is not None or not there:
        return None
    return int(held) - int(marked)


def unreferenced(
    connection: Connection, keys: Keys, queues: Sequence[str], joins: Sequence[tuple[str, str]], limit: int
) -> tuple[list[tuple[str, str]], bool]:
    """Return the joins that no message mentions, and whether all messages could be read; ``limit``: messages read at most.

    A join is owned by its members while it is open and by its body afterwards, and each carries its name in plain bytes. Messages
    move from delayed to ready to leased, so they are read in this order; one that moves the other way (a retry, a release) may be
    missed, so a caller looks more than once.
    """
    bodies = [("HGET", keys.queue(queue).join(join), "body") for queue, join in joins]
    there = [("HEXISTS", keys.queue(queue).join(join), "#") for queue, join in joins]
    replies = connection.call([*bodies, *there])
    waiting = replies[: len(joins)]
    left = {join: queue for (queue, join), exists in zip(joins, replies[len(joins) :], strict=True) if exists}
    _strike(left, (body for body in waiting if body))
    read = 0
    for messages in _messages(connection, keys, queues):
        read += len(messages)
        if read > limit:
            return [], False
        _strike(left, messages)
        if not left:
            break
    return [(queue, join) for join, queue in left.items()], True


def _strike(left: dict[str, str], messages: Iterator[bytes] | Sequence[bytes]) -> None:
    """Take out the joins that messages mention. Only what has a flow can: the text "join" is the name of its field."""
    for message in messages:
        if b"join" in message:
            for join in [join for join in left if join.encode() in message]:
                del left[join]


def _messages(connection: Connection, keys: Keys, queues: Sequence[str]) -> Iterator[list[bytes]]:
    for queue in queues:
        yield from _steps(connection, "ZRANGE", keys.queue(queue).delayed)
    for queue in queues:
        for ready in keys.queue(queue).ready:
            yield from _steps(connection, "LRANGE", ready)
    for queue in queues:
        names = keys.queue(queue)
        for process in connection.call([("ZRANGE", names.leases, 0, -1)])[0]:
            yield connection.call([("HVALS", names.leased(process.decode(errors="replace")))])[0]


def _steps(connection: Connection, command: str, key: str) -> Iterator[list[bytes]]:
    at = 0
    while messages := connection.call([(command, key, at, at + STEP - 1)])[0]:
        yield messages
        # what is taken at the head meanwhile moves the rest towards it, so that steps overlap
        at += STEP - OVERLAP


class Mender:
    """Put right what an examination has found."""

    def __init__(self, connection: Connection, keys: Keys, url: str, options: TransportOptions) -> None:
        self._connection = connection
        self._keys = keys
        self._url = url
        self._options = options
        #: (queue, process) of hashes without a lease
        self.holders: list[tuple[str, str]] = []
        #: with entries that belong to nobody
        self.queues: list[str] = []
        self.without_ttl: list[str] = []

    def mend(self, open_broker: Callable[[str, TransportOptions], Broker]) -> list[str]:
        done = [*self._entries(), *self._ttls()]
        if self.holders:
            broker = open_broker(self._url, self._options)
            try:
                for queue, process in self.holders:
                    done += self._hand_back(broker, queue, process)
            finally:
                broker.close()
        return done

    def _hand_back(self, broker: Broker, queue: str, process: str) -> list[str]:
        if ownerless(self._connection, self._keys, queue, process) is None:
            return []
        # Nobody knows what ran: all is charged, as after the loss of a node. The last chance is left to each.
        most = self._options.max_deliveries - 1 if self._options.max_deliveries > 0 else 127
        marks = {}
        for tag, message in broker.leased(queue, process):
            try:
                delivery = _core.peek(message)
            except EnvelopeError:
                continue
            marks[tag] = _core.remark(delivery.message, min(delivery.deliveries + 1, max(most, 0)), delivery.paid)
        moved = broker.release(queue, process, marks)
        back = f", {counted(moved, 'message')} back in queue {queue}" if moved else ""
        return [f"removed {self._keys.queue(queue).leased(process)}{back}"]

    def _entries(self) -> Iterator[str]:
        for queue in self.queues:
            names = self._keys.queue(queue)
            unmatched = look(self._connection, self._keys, queue, STEP * 100).dead_unmatched
            totals = [0] * 5
            for start in range(0, max(len(unmatched), 1), STEP):
                counts = self._connection.run(
                    script("mend"),
                    (names.leases, names.idle, names.levels, names.dead, names.dead_messages, *names.ready),
                    (self._options.dead_letter_expires_s, self._keys.wake_prefix, *unmatched[start : start + STEP]),
                )
                totals = [total + int(count) for total, count in zip(totals, counts, strict=True)]
            for count, what in zip(totals, _DONE, strict=True):
                if count:
                    yield f"queue {queue}: {what} ({count:,})"

    def _ttls(self) -> Iterator[str]:
        for name in self.without_ttl:
            at = place(self._keys, name)
            if at is None:
                continue
            if at.kind.startswith("result"):
                ttl_s = self._options.result_expires_s or 0
            elif at.kind.startswith("dead"):
                ttl_s = self._options.dead_letter_expires_s
            else:
                ttl_s = SHORT_TTL_S if at.kind == "from" else BUCKET_TTL_S
            ttl, type = self._connection.call([("PTTL", name), ("TYPE", name)])[0:2]
            if ttl_s > 0 and ttl == -1 and type.decode() == at.of.type:
                self._connection.call([("EXPIRE", name, ttl_s)])
                yield f"{name} expires in {ttl_s:,} s"


_DONE = (
    "noted levels at which messages wait",
    "took out levels at which nothing waits",
    "took out idle entries of processes without a lease",
    "dead letters shown again",
    "took out entries of dead letters without a record",
)
