"""The status board of a node: one shared descriptor with one region per process index.

A descriptor, not an anonymous map, because the children of gevent and eventlet are fresh interpreters. The supervisor makes
the board and reads it; each process maps its own region only. What a region holds is the core's business (``Tally``, which is
never cleared: the successor of a process goes on counting, and ``ProcessBoard``).
"""

from __future__ import annotations

import mmap
import os

from fastq._core import ProcessBoard, Tally
from fastq.worker.deadlines import Deadlines
from fastq.worker.flight import Flight

__all__ = ["Board", "capacity", "open_deadlines", "open_flight", "open_region"]

#: records for held deliveries beyond two per slot: one batch being settled (1,000 at most) and the next one held
HELD_RECORDS = 2048
#: rows of a tally for task names and for queues; the last of each stands for all others
TALLIED_TASKS, TALLIED_QUEUES = 512, 128
TALLY_SIZE = Tally.size(TALLIED_TASKS, TALLIED_QUEUES)


def capacity(slots: int) -> int:
    """Return how many held deliveries a process of so many slots can have on the board."""
    return HELD_RECORDS + 2 * slots


def region_size(slots: int) -> int:
    """Return the bytes of one region, in whole pages: each is mapped by itself."""
    page = mmap.ALLOCATIONGRANULARITY
    return -(-(TALLY_SIZE + _board_size(slots) + Deadlines.size(slots) + Flight.SIZE) // page) * page


def _board_size(slots: int) -> int:
    return ProcessBoard.size(slots, capacity(slots))


def open_region(fd: int, index: int, slots: int) -> ProcessBoard:
    """Map the region of one process index; the map lives as long as the ProcessBoard."""
    region = _map(fd, index, slots)
    tally = Tally(region[:TALLY_SIZE], TALLIED_TASKS, TALLIED_QUEUES)
    return ProcessBoard(region[TALLY_SIZE:], slots, capacity(slots), tally)


def open_deadlines(fd: int, index: int, slots: int) -> Deadlines:
    """Map the table of hard time limits behind the region of one process index."""
    return Deadlines(_map(fd, index, slots)[TALLY_SIZE + _board_size(slots) :], slots)


def open_flight(fd: int, index: int, slots: int) -> Flight:
    """Map what says whether a fetch of one process index is on its way, behind both."""
    return Flight(_map(fd, index, slots)[TALLY_SIZE + _board_size(slots) + Deadlines.size(slots) :])


def _map(fd: int, index: int, slots: int) -> memoryview:
    size = region_size(slots)
    return memoryview(mmap.mmap(fd, size, offset=index * size))


class Board:
    """The supervisor's side: owns the descriptor, maps regions as they are needed."""

    def __init__(self) -> None:
        self.fd = _shared_descriptor()
        self._regions: dict[int, ProcessBoard] = {}
        self._deadlines: dict[int, Deadlines] = {}
        self._flights: dict[int, Flight] = {}

    def region(self, index: int, slots: int) -> ProcessBoard:
        """Return the region of a process index, the board growing as needed. ``slots`` is the same for all."""
        region = self._regions.get(index)
        if region is None:
            size = region_size(slots)
            if os.fstat(self.fd).st_size < (index + 1) * size:
                os.ftruncate(self.fd, (index + 1) * size)
            region = self._regions[index] = open_region(self.fd, index, slots)
        return region

    def deadlines(self, index: int, slots: int) -> Deadlines:
        """Return the table of hard time limits of a process index, which has a region already."""
        table = self._deadlines.get(index)
        if table is None:
            table = self._deadlines[index] = open_deadlines(self.fd, index, slots)
        return table

    def flight(self, index: int, slots: int) -> Flight:
        """Return what says whether a fetch of a process index is on its way; the index has a region already."""
        flight = self._flights.get(index)
        if flight is None:
            flight = self._flights[index] = open_flight(self.fd, index, slots)
        return flight

    def tallies(self) -> list[Tally]:
        """Return what each process index has counted since the node began, of those that have ended too."""
        return [region.tally for region in self._regions.values() if region.tally is not None]

    def close(self) -> None:
        self._regions.clear()
        self._deadlines.clear()
        self._flights.clear()
        os.close(self.fd)


def _shared_descriptor() -> int:
    """Return a descriptor of memory without a name, closed on exec unless passed on by intent."""
    memfd_create = getattr(os, "memfd_create", None)
    if memfd_create is not None:
        fd: int = memfd_create("fastq-board")
        return fd
    # lazy: other systems than Linux
    import tempfile

    with tempfile.TemporaryFile(prefix="fastq-board-") as file:
        return os.dup(file.fileno())
