"""The places a node has for processes, and the numbers by which its processes are told apart.

A *place* is one process' worth of the node: what ends there is replaced there, and young deaths are counted there. While a spent
process runs on beside its successor, two processes share one. A node that grows has more of them, one that shrinks fewer.

An *index* names a region of the board, and is in a process' name. It belongs to one process for as long as that lives.
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["Places"]


class Places:
    """Count places and give out indexes, the lowest that are free: a node that never grows keeps those it began with."""

    def __init__(self) -> None:
        self._places: set[int] = set()
        self._indexes: set[int] = set()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, place: object) -> bool:
        return place in self._places

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self._places))

    def add(self) -> int:
        """Make one more place; return its number."""
        place = _lowest(self._places)
        self._places.add(place)
        return place

    def remove(self, place: int) -> None:
        """Give a place up: nothing is started there any more."""
        self._places.discard(place)

    def take_index(self) -> int:
        """Return an index for a process that is going to be started."""
        index = _lowest(self._indexes)
        self._indexes.add(index)
        return index

    def free_index(self, index: int) -> None:
        """Take in that the process with this index has ended."""
        self._indexes.discard(index)


def _lowest(used: set[int]) -> int:
    number = 0
    while number in used:
        number += 1
    return number
