"""Which run must have ended by when: a table beside the status board, for runs with a hard time limit only.

A worker process writes it, its supervisor reads it. It stands in shared memory because a process that is blocked, or holds the GIL,
could not say anything any more. The process calls the supervisor only if what it writes is due before the supervisor's next look.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Deadline", "Deadlines"]

#: numbers of 8 bytes: when the supervisor looks next (monotonic ns, 0: it does not)
HEAD = 1
#: deadline (monotonic ns, 0: free), record on the board, limit in us, check sum of the task id
FIELDS = 4


class Deadline(NamedTuple):
    """One run with a hard limit."""

    #: monotonic ns: when its process is to be killed if it has not ended
    due_ns: int
    #: of its delivery on the board
    record: int
    hard_s: float
    #: CRC-32 of the task id: a tag alone may be that of another delivery under a former name of the process
    check: int


class Deadlines:
    """The table of one process, zeros at first."""

    def __init__(self, buffer: memoryview, slots: int) -> None:
        self._numbers = buffer[: self.size(slots)].cast("q")
        self._slots = slots
        #: worker's side: rows not in use; list operations are atomic, slots are threads
        self._free = list(range(slots))

    @staticmethod
    def size(slots: int) -> int:
        return 8 * (HEAD + FIELDS * slots)

    # --- the worker process ---

    def put(self, deadline: Deadline) -> tuple[int, bool]:
        """Enter a run; return its row (-1: there is none left), and whether the supervisor must be called."""
        try:
            row = self._free.pop()
        except IndexError:
            return -1, False
        numbers, at = self._numbers, HEAD + FIELDS * row
        numbers[at + 1] = deadline.record
        numbers[at + 2] = round(deadline.hard_s * 1e6)
        numbers[at + 3] = deadline.check
        numbers[at] = deadline.due_ns  # the last: it makes the row count
        look_ns = numbers[0]
        return row, not look_ns or deadline.due_ns < look_ns

    def drop(self, row: int) -> None:
        self._numbers[HEAD + FIELDS * row] = 0
        self._free.append(row)

    # --- the supervisor ---

    def look(self, now_ns: int) -> tuple[list[Deadline], int]:
        """Return what is overdue, and when to look again (0: nothing is entered)."""
        while True:
            rows = self._rows()
            next_ns = min((row.due_ns for row in rows if row.due_ns > now_ns), default=0)
            # two actors: the process writes a row, then reads when we look next; we write that, then read the rows again.
            # Whoever comes second sees the other
            self._numbers[0] = next_ns
            if min((row.due_ns for row in self._rows() if row.due_ns > now_ns), default=0) == next_ns:
                return [row for row in rows if row.due_ns <= now_ns], next_ns

    def clear(self) -> None:
        for at in range(len(self._numbers)):
            self._numbers[at] = 0

    def _rows(self) -> list[Deadline]:
        numbers = self._numbers
        found = []
        for at in range(HEAD, HEAD + FIELDS * self._slots, FIELDS):
            if due_ns := numbers[at]:
                found.append(Deadline(due_ns, numbers[at + 1], numbers[at + 2] / 1e6, numbers[at + 3]))
        return found
