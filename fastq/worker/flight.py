"""The fetch of a process that is on its way: two numbers in shared memory, beside the status board.

A process that reads the answer of a fetch enters what it leased on its board. While the answer is still under way, nobody sees what
was leased: a task that takes the GIL (or blocks the hub) at that moment keeps the process from reading, for as long as it likes. So
the process marks that a fetch is under way, and the supervisor, if that lasts while a task runs, returns what is leased and not on
the board (``giveback``). The two agree on who has a delivery as readers and writers do with a sequence number:

- The supervisor makes the number odd, then asks the broker what is leased, then looks at the board, returns the difference, and
  makes the number even again.
- The process enters the answer on the board, then looks at the number. If it is the one from before the fetch, then whoever begins
  to search later finds the answer on the board. If it is not, the process waits until it is even, and drops what is not leased any
  more, before it starts anything of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Flight"]


class Flight:
    """The two numbers, zeros at first: the number of the fetch under way (0: none), and how often a search began or ended."""

    #: bytes
    SIZE = 16

    def __init__(self, buffer: memoryview | None = None) -> None:
        self._numbers = (memoryview(bytearray(self.SIZE)) if buffer is None else buffer[: self.SIZE]).cast("q")
        self._seen = 0

    # --- the worker process ---

    def leave(self, number: int) -> None:
        """Note that a fetch is going to be sent; one that was not answered stays under way."""
        if not self._numbers[0]:
            self._seen = self._numbers[1]
        self._numbers[0] = number

    def land(self) -> bool:
        """Note that its answer stands on the board; return whether the supervisor has searched meanwhile, or still does."""
        self._numbers[0] = 0
        return self._numbers[1] != self._seen

    @property
    def searched(self) -> bool:
        """The supervisor is searching now."""
        return self._numbers[1] % 2 == 1

    # --- the supervisor ---

    @property
    def number(self) -> int:
        return self._numbers[0]

    @contextmanager
    def search(self) -> Iterator[None]:
        self._numbers[1] += 1
        try:
            yield
        finally:
            self._numbers[1] += 1

    def clear(self) -> None:
        self._numbers[0] = self._numbers[1] = 0
