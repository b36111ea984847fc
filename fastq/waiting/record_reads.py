"""Read result records in batches, with patience for a server that starts."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from fastq import patience
from fastq.exceptions import OperationalError

__all__ = ["READ_BATCH", "Records"]

logger = logging.getLogger("fastq.waiting.waiter")

#: records read in one call
READ_BATCH = 1_000
#: seconds between attempts to read records: the first attempt finds a dead connection, the others a server that starts; the last
#: pause is repeated
READ_PAUSES_S = (0.0, 0.1, 0.2, 0.4, 0.8, 1.0)
#: how long the records may be unreadable before who waits is told
GIVE_UP_S = 30.0


class Records:
    """The backend's records, as those who wait read them. Any thread."""

    __slots__ = ("_read",)

    def __init__(self, read: Callable[[Sequence[str]], list[bytes | None]]) -> None:
        self._read = read

    def of(self, ids: Sequence[str]) -> list[tuple[str, bytes | None]]:
        """Return (id, record or None), a call for each batch. Where the caller's time is over before they can be read: None."""
        found: list[tuple[str, bytes | None]] = []
        for start in range(0, len(ids), READ_BATCH):
            part = ids[start : start + READ_BATCH]
            found.extend(zip(part, self._patiently(part), strict=True))
        return found

    def _patiently(self, ids: Sequence[str]) -> list[bytes | None]:
        """Try again for as long as the caller has time, or else for GIVE_UP_S; at least twice."""
        began = time.monotonic()
        attempt = 0
        while True:
            try:
                return self._read(ids)
            except OperationalError as exc:
                if patience.is_over():
                    return [None] * len(ids)
                pause_s = READ_PAUSES_S[min(attempt, len(READ_PAUSES_S) - 1)]
                if attempt and time.monotonic() - began > GIVE_UP_S:
                    raise
                logger.info("Could not read results, trying again in %g s: %s", pause_s, exc)
            attempt += 1
            deadline = patience.deadline()
            time.sleep(pause_s if deadline is None else min(pause_s, max(0.0, deadline - time.monotonic())))
