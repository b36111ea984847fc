"""Which queues a node takes tasks from, while it runs.

The status board names a queue by its number, so a queue that was once taken from keeps that for as long as the node lives.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["Queues"]


class Queues:
    """Three views of the queues of one node."""

    def __init__(self, names: Iterable[str]) -> None:
        #: all that were ever taken from, by number; it only grows, and whoever holds it sees that
        self.known: list[str] = list(dict.fromkeys(names))
        #: what is taken from now
        self.taken: tuple[str, ...] = tuple(self.known)
        #: where the node's processes have leases: also where they still finish something
        self.leased: tuple[str, ...] = tuple(self.known)
        #: how often ``taken`` has changed
        self.changes = 0

    def take(self, names: Iterable[str]) -> None:
        """Take from these too; there are leases on them already."""
        added = [name for name in names if name not in self.taken]
        self.known += [name for name in added if name not in self.known]
        self.taken += tuple(added)
        self.changes += 1

    def drop(self, names: Iterable[str]) -> None:
        """Take from these no more."""
        gone = set(names)
        self.taken = tuple(name for name in self.taken if name not in gone)
        self.changes += 1

    def lease(self, names: Iterable[str]) -> None:
        """Keep leases on these too."""
        self.leased = tuple(dict.fromkeys((*self.leased, *names)))

    def release(self, name: str) -> None:
        """Note that there are no leases on this one any more."""
        self.leased = tuple(one for one in self.leased if one != name)
