"""The Channel on Redis: requests and answers by PUBLISH, nodes in a hash, events in a stream."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

from fastq.exceptions import OperationalError
from fastq.transports.base import TransportOptions
from fastq.transports.channel import Beat, NodeRecord
from fastq.transports.redis.address import parse
from fastq.transports.redis.channel import RedisEar
from fastq.transports.redis.connection import Connection
from fastq.transports.redis.keys import Keys
from fastq.transports.redis.limits import CALL_BYTES
from fastq.transports.redis.scripts import script

__all__ = ["RedisChannel"]

#: seconds within which a call on a connection fails that was closed while nobody used it; a server that is silent takes longer
STALE_S = 1.0
#: longest single wait of a reader of events, seconds: word of a new primary does not end it
BLOCK_S = 5.0
#: the position in front of all events
START = "0-0"


class RedisChannel:
    """``Channel`` on one Redis server. One connection for all calls, which take turns, and one for the reader of events."""

    def __init__(self, url: str, options: TransportOptions) -> None:
        self.address = parse(url, options.extra)
        self.url = self.address.display
        self.keys = Keys(options.prefix)
        self.options = options
        self._line = _Line(Connection(self.address, options, "channel"))
        self._reading = _Line(Connection(self.address, options, "events"))

    def __repr__(self) -> str:
        return f"<RedisChannel {self.url}>"

    # --- control ---

    def broadcast(self, message: bytes) -> int:
        # Not repeated after an error: nodes would do it twice.
        return int(self._line.once([("PUBLISH", self.keys.control(self.address.db), message)])[0])

    def ear(self, node: str) -> RedisEar:
        """All nodes listen to one channel."""
        return RedisEar(self.address, self.options, self.keys.control(self.address.db))

    def reply(self, to: str, payload: bytes) -> None:
        self._line.call([("PUBLISH", self.keys.reply(to), payload)])

    def replies(self, name: str) -> RedisEar:
        return RedisEar(self.address, self.options, self.keys.reply(name))

    # --- nodes ---

    def beat(self, node: str, info: bytes, expires_ms: int) -> Beat:
        keys = self.keys
        now_ms, listened = self._line.run("beat", (keys.nodes, keys.nodes_until, keys.listeners), (node, info, expires_ms))
        return Beat(int(now_ms), bool(listened))

    def leave(self, node: str) -> None:
        self._line.call([("ZREM", self.keys.nodes_until, node), ("HDEL", self.keys.nodes, node)])

    def nodes(self) -> dict[str, NodeRecord]:
        now_ms, *found = self._line.run("nodes", (self.keys.nodes, self.keys.nodes_until), ())
        records: dict[str, NodeRecord] = {}
        for name, record in sorted(zip(found[0::2], found[1::2], strict=True)):
            said_ms, _, info = record.partition(b":")
            records[name.decode(errors="replace")] = NodeRecord(info, max(0, int(now_ms) - int(said_ms)))
        return records

    # --- events ---

    def send_events(self, batches: Sequence[bytes], *, keep: int, expires_s: int) -> None:
        step: list[bytes] = []
        size = 0
        for batch in batches:
            if step and size + len(batch) > CALL_BYTES:
                self._line.run("send_events", (self.keys.events,), (keep, expires_s, *step))
                step, size = [], 0
            step.append(batch)
            size += len(batch)
        if step:
            self._line.run("send_events", (self.keys.events,), (keep, expires_s, *step))

    def events(self, after: str, timeout_s: float, n: int = 1000) -> list[tuple[str, bytes]]:
        position = after
        if not position:
            last = self._reading.call([("XREVRANGE", self.keys.events, "+", "-", "COUNT", 1)])[0]
            # An empty stream: those from now on are all.
            position = last[0][0].decode() if last else START
        deadline = time.monotonic() + timeout_s
        while True:
            left_s = deadline - time.monotonic()
            # The server's answer must come before this side gives up waiting for it.
            block_s = min(left_s, BLOCK_S, self.options.socket_timeout_s / 2)
            wait = ("BLOCK", max(1, int(block_s * 1000))) if block_s > 0 else ()
            reply = self._reading.call([("XREAD", "COUNT", n, *wait, "STREAMS", self.keys.events, position)])[0]
            if reply:
                return [(name.decode(), fields[1]) for name, fields in reply[0][1] if fields]
            if left_s <= 0:
                return [] if after else [(position, b"")]

    def listen(self, name: str, expires_s: float) -> None:
        self._line.run("listen", (self.keys.listeners,), (name, round(expires_s * 1000)))

    def listened(self) -> bool:
        # The key lives as long as the last of them.
        return bool(self._line.call([("EXISTS", self.keys.listeners)])[0])

    def close(self) -> None:
        self._line.close()
        self._reading.close()


class _Line:
    """One connection for several threads."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._turn = threading.Lock()

    def once(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        with self._turn:
            return self._connection.call(commands)

    def call(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        """Call; once more on a new connection if this one had been closed since it was last used."""
        with self._turn:
            began_s = time.monotonic()
            was_open = self._connection.is_open
            try:
                return self._connection.call(commands)
            except OperationalError:
                if not was_open or time.monotonic() - began_s > STALE_S:
                    raise
                return self._connection.call(commands)

    def run(self, verb: str, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        return self.call([(script(verb), len(keys), *keys, *arguments)])[0]

    def close(self) -> None:
        with self._turn:
            self._connection.close()
