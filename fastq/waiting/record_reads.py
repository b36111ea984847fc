"""Read result records in batches, with patience for a server that starts."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from fastq.exceptions import OperationalError

__all__ = ["READ_BATCH", "Records"]

logger = logging.getLogger("fastq.waiting.waiter")

#: records read in one call
READ_BATCH = 1_000
#: seconds between attempts to read records: the first attempt finds a dead connection, the others a server that starts
READ_PAUSES_S = (0.0, 0.1, 0.2, 0.4, 0.8)


class Records:
    """The backend's records, as those who wait read them. Any thread."""

    __slots__ = ("_read",)

    def __init__(self, read: Callable[[Sequence[str]], list[bytes | None]]) -> None:
        self._read = read

    def of(self, ids: Sequence[str]) -> list[tuple[str, bytes | None]]:
        """Return (id, record or None), a call for each batch."""
        found: list[tuple[str, bytes | None]] = []
        for start in range(0, len(ids), READ_BATCH):
            part = ids[start : start + READ_BATCH]
            found.extend(zip(part, self._patiently(part), strict=True))
        return found

    def _patiently(self, ids: Sequence[str]) -> list[bytes | None]:
        # a connection that a restarted server has dropped shows at its next use, so try a few times
        for pause_s in READ_PAUSES_S:
            try:
                return self._read(ids)
            except OperationalError as exc:
                logger.info("Could not read results, trying again in %g s: %s", pause_s, exc)
                time.sleep(pause_s)
        return self._read(ids)
