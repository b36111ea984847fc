"""The server's clock, as this machine knows it from answers that tell the time."""

from __future__ import annotations

import time

from fastq.transports.redis.connection import Connection

__all__ = ["ServerClock"]

#: a clock that goes wrong by a second in this many is taken for granted
DRIFT = 1_000


class ServerClock:
    """This machine's clock, plus an offset that is learnt by the way."""

    def __init__(self, connection: Connection) -> None:
        """``connection``: by which the answers come."""
        self._connection = connection
        #: the server's clock minus this machine's, ms; None: never seen
        self._offset_ms: float | None = None
        #: by how much that may be wrong, s, and when it was seen
        self._doubt_s = 0.0
        self._seen_at = 0.0

    def now_ms(self) -> int:
        """Return the server's time, Unix ms; asks for it if it was never seen."""
        if self._offset_ms is None:
            self.ask()
        return int(time.time() * 1000 + (self._offset_ms or 0.0))

    def ask(self) -> None:
        """Learn it anew."""
        sent = time.time()
        server_ms = self._connection.clock_ms()
        self.forget()
        self.see(server_ms, sent)

    def forget(self) -> None:
        """Believe the next answer, whatever it took."""
        self._offset_ms = None

    def see(self, server_ms: int, sent: float) -> None:
        """Learn from an answer to a call that began at ``sent``: the server read its clock about half way between then and now.

        Not if it took so much longer than an earlier one that it tells less. Connecting does not count: nothing was sent before.
        """
        now = time.time()
        opened = self._connection.opened_at
        if sent < opened <= now:
            sent = opened
        doubt_s = (now - sent) / 2
        first = self._offset_ms is None or self._seen_at < opened  # a new connection may lead to another server
        if first or not 0 <= now - self._seen_at < (doubt_s - self._doubt_s) * DRIFT:
            self._offset_ms = server_ms - (sent + now) * 500.0
            self._doubt_s, self._seen_at = doubt_s, now
