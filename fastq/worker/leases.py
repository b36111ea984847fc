"""When another node's lease is dead: the look rule.

A renewal's value is compared with itself only, never with a clock: a broker that was away, a failover to a server whose clock
is ahead, or a watcher that was itself frozen takes nothing from the living.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fastq.records import Lease

__all__ = ["LookRule"]

#: looks that must see the same value
LOOKS = 3
#: a look earlier than this share of the interval does not count, one later than that starts over
EARLY, LATE = 0.8, 1.5


@dataclass(slots=True)
class _Sight:
    value: str
    looks: int


class LookRule:
    """Condemn a lease whose value stood still over 3 successive successful looks, lease/3 apart.

    A lease shows up once it is lease/2 old, so a dead one is condemned after 1.2 to 1.5 leases. Pure: the caller says when.
    """

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._last_s: float | None = None
        self._seen: dict[tuple[str, str], _Sight] = {}

    def look(self, leases: Iterable[Lease], now_s: float) -> list[Lease]:
        """Take in the old leases that a renewal returned; return those that are dead. ``now_s``: monotonic."""
        if self._last_s is not None:
            gap_s = now_s - self._last_s
            if gap_s < EARLY * self._interval_s:
                return []
            if gap_s > LATE * self._interval_s:
                self._seen.clear()
        self._last_s = now_s
        seen: dict[tuple[str, str], _Sight] = {}
        dead = []
        for lease in leases:
            key = (lease.queue, lease.process)
            before = self._seen.get(key)
            looks = before.looks + 1 if before is not None and before.value == lease.value else 1
            seen[key] = _Sight(lease.value, looks)
            if looks >= LOOKS:
                dead.append(lease)
        # what is not listed any more was renewed, or reaped by another node
        self._seen = seen
        return dead

    def failed(self) -> None:
        """Start over: a look went wrong."""
        self._seen.clear()
        self._last_s = None
