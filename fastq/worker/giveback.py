"""Give back what waits behind a task that turned out long, when its process cannot do so itself.

A task that holds the GIL, or blocks the hub, keeps its process from looking. So the process announces that it holds deliveries, and
from then until it holds none the supervisor looks at its board every 50 ms. What is seen waiting (HELD) at two looks, with the same
delivery running (STARTED) at both, goes back to the head of its queue. No clock is compared: two looks are 50 ms apart anyway.
So does what the answer of a fetch brings that the process cannot read just now (``flight``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fastq._core import HELD, STARTED, ProcessBoard
from fastq.exceptions import OperationalError
from fastq.records import RETURN, Settlement
from fastq.transports.base import Broker
from fastq.worker.flight import Flight
from fastq.worker.loop import Loop

__all__ = ["LOOK_S", "Watch", "Watches"]

#: seconds between looks, and what a held delivery may wait behind a started one
LOOK_S = 0.05
#: looks from one search to the next for what an unread answer brings: it asks the broker, and one is enough but for a request that
#: was itself sent late
SEARCH_LOOKS = 20


class Watch:
    """Look at one process' board while it holds something."""

    def __init__(self, board: ProcessBoard, queues: Sequence[str], broker: Broker, flight: Flight | None = None) -> None:
        self._board = board
        self._flight = Flight() if flight is None else flight
        #: number of the fetch that the last look saw under way, and how many looks have seen it
        self._under_way, self._seen = 0, 0
        self._queues = queues
        self._broker = broker
        #: (record, tag) of what the last look saw waiting and running
        self._waiting: set[tuple[int, str]] = set()
        self._running: set[tuple[int, str]] = set()
        #: claimed, but the broker has not confirmed: (queue, tag)
        self._claimed: list[tuple[str, str]] = []

    def glance(self) -> None:
        """Look for the first time: only a later look gives back, or ends the looking.

        A busy process holds something anew every few milliseconds; were it let go as often, it would call us as often.
        """
        records = self._board.held()
        self._waiting = {(r[0], r[1]) for r in records if r[3] == HELD}
        self._running = {(r[0], r[1]) for r in records if r[3] == STARTED}
        self._under_way = self._flight.number

    def look(self, process: str) -> bool:
        """Give back what waited since the last look; False when nothing is held any more, so that looking can end.

        Raises OperationalError if the broker did not take something back; look again then.
        """
        board = self._board
        if not self._claimed and self._nothing():
            # the process counts "held" up, or marks a fetch, then reads "watched" and calls us if it is 0; we clear "watched", then
            # look at both again: whoever comes second sees the other
            board.set_counter("watched", 0)
            if self._nothing():
                self._waiting.clear()
                self._running.clear()
                return False
            board.set_counter("watched", 1)
        records = board.held()
        waiting = {(r[0], r[1]): self._queues[r[2]] for r in records if r[3] == HELD and r[2] < len(self._queues)}
        running = {(r[0], r[1]) for r in records if r[3] == STARTED}
        if running & self._running:
            self._claim([(key, queue) for key, queue in waiting.items() if key in self._waiting])
            self._search(process)
        self._waiting, self._running = set(waiting), running
        self._return(process)
        return True

    def _nothing(self) -> bool:
        return self._board.counter("held") == 0 and self._flight.number == 0

    def _search(self, process: str) -> None:
        """Return what a fetch has leased whose answer the process does not read."""
        number = self._flight.number
        self._seen = self._seen + 1 if number and number == self._under_way else 0
        self._under_way = number
        if self._seen % SEARCH_LOOKS != 1:
            return
        with self._flight.search():
            leased = [(queue, tag) for queue in dict.fromkeys(self._queues) for tag, _ in self._broker.leased(queue, process)]
            known = {(self._queues[at], tag) for _, tag, at, *_ in self._board.held() if at < len(self._queues)}
            unread = [Settlement(queue, tag, "", RETURN) for queue, tag in leased if (queue, tag) not in known]
            if unread:
                self._broker.settle(process, unread, results=False)

    def _claim(self, overdue: list[tuple[tuple[int, str], str]]) -> None:
        """Claim from the tail: the process, should it go on just now, starts at the head."""
        overdue.sort(key=lambda item: _age(item[0][1]), reverse=True)
        claimed = [(queue, tag) for (record, tag), queue in overdue if self._board.give_back(record)]
        if claimed and self._board.tally is not None:
            self._board.tally.count("taken_back", len(claimed))
        self._claimed += reversed(claimed)

    def _return(self, process: str) -> None:
        if not self._claimed:
            return
        batch = [Settlement(queue, tag, "", RETURN) for queue, tag in self._claimed]
        self._broker.settle(process, batch, results=False)
        self._claimed.clear()


class Watches:
    """The processes of one node that hold something, each looked at until it holds nothing."""

    def __init__(
        self,
        loop: Loop,
        queues: Sequence[str],
        broker: Broker,
        *,
        trouble: Callable[[], bool],
        fail: Callable[[OperationalError], object],
    ) -> None:
        """``trouble`` says whether the broker has failed to answer; ``fail`` is told that it has."""
        self._loop = loop
        self._queues = queues
        self._broker = broker
        self._trouble = trouble
        self._fail = fail
        self._watches: dict[str, Watch] = {}

    def drop(self, process: str) -> None:
        """Look at a process no more: it has died, or goes on under another name."""
        self._watches.pop(process, None)

    def add(self, process: str, board: ProcessBoard, flight: Flight | None = None) -> None:
        """Look at the board of a process that holds deliveries, until it holds none."""
        if process not in self._watches:
            self._watches[process] = watch = Watch(board, self._queues, self._broker, flight)
            watch.glance()
            self._loop.after(LOOK_S, lambda: self._look_at(process, watch))

    def _look_at(self, process: str, watch: Watch) -> None:
        if self._watches.get(process) is not watch:
            return  # it has died meanwhile, or was renamed
        try:
            more = self._trouble() or watch.look(process)  # while the broker is away, the beats alone try it
        except OperationalError as exc:
            self._fail(exc)
            more = True
        if more:
            self._loop.after(LOOK_S, lambda: self._look_at(process, watch))
        else:
            del self._watches[process]


def _age(tag: str) -> tuple[int, ...]:
    """Order tags as they were leased: ``<level>:<call>:<i>``, or one rising number."""
    parts = tag.split(":")
    return tuple(int(part) for part in parts[1:] or parts)
