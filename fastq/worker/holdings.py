"""What a worker process has leased, under its name and its former ones, and how it lets go of it."""

from __future__ import annotations

import time
from collections.abc import Sequence

from fastq import _core
from fastq._core import RETURNED, ProcessBoard
from fastq.exceptions import EnvelopeError
from fastq.records import DEAD, DONE, RETURN, Delivery, Leased, Settlement
from fastq.transports.base import Broker
from fastq.worker.feeder import Feeder
from fastq.worker.held import Held
from fastq.worker.idleness import Idleness
from fastq.worker.reporter import Reporter
from fastq.worker.settler import Settler

__all__ = ["Holdings"]

#: seconds between looks for what the supervisor has given back (1 ms each at 2,000 records)
SWEEP_S = 1.0


class Holdings:
    """Keep what is leased and not settled, and its records on the board. Owned by the consumer's loop."""

    def __init__(
        self,
        queues: Sequence[str],
        *,
        board: ProcessBoard,
        settler: Settler,
        feeder: Feeder,
        idleness: Idleness,
        last_chance: int,
    ) -> None:
        """``last_chance``: so many deliveries before this one make it the last."""
        self._queues = list(queues)
        self._queue_index = {q: i for i, q in enumerate(queues)}
        self._board = board
        self._settler = settler
        self._feeder = feeder
        self._idleness = idleness
        self._last_chance = last_chance
        #: everything leased under this name and not settled
        self.held = Held(queues)
        #: what was running under a name that was taken away since: (queue, tag, record) -> that name
        self.former: dict[tuple[str, str, int], str] = {}
        #: those of both that are on their last chance
        self.last_chances: set[Delivery] = set()
        #: deliveries that have run, or are going to
        self.taken = 0
        #: how many deliveries this process has given back itself
        self.returned = 0
        #: records of what is being given back by this process itself
        self._returning: set[int] = set()
        #: the supervisor looks at the board, and may give back
        self.watched = False
        self._sweep_at = 0.0
        #: told of what ends without a run, while somebody listens
        self.reporter: Reporter | None = None

    def __len__(self) -> int:
        return len(self.held) + len(self.former)

    def know(self, queues: Sequence[str]) -> None:
        """Take in all queues that deliveries may be of, by number: those known before, and more."""
        for queue in queues[len(self._queues) :]:
            self._queue_index[queue] = len(self._queues)
            self._queues.append(queue)
            self.held.know(queue)

    def add(self, leased: Leased, batch: Sequence[Delivery], now_ms: int) -> None:
        """Enter what a fetch has leased."""
        self._board.hold(batch, self._queue_index[leased.queue], now_ms)
        self.held.add(leased.queue, leased.tags, batch)
        if len(batch) == 1 and batch[0].deliveries >= self._last_chance > 0:  # such a one is leased alone
            self.last_chances.add(batch[0])

    def refuse(self, settlement: Settlement) -> None:
        """Settle what must not run; on the board it has ended, so nobody gives it back."""
        self._board.claim(settlement.record, 0)
        self._board.finish(settlement.record)
        self.tell(settlement)
        self._settler.emit(settlement)

    def tell(self, settlement: Settlement) -> None:
        """Count a delivery that ends without a run, and tell whoever listens. What goes back, or is put off, has not ended."""
        if settlement.verdict not in (DONE, DEAD):
            return
        d = self.held.get(settlement.queue, settlement.tag)
        if d is None:
            return
        if self._board.tally is not None:
            self._board.tally.refused(d, settlement)
        if self.reporter is not None and self.reporter.on:
            self.reporter.refused(d, settlement)

    # --- giving back ---

    def give_back(self, batch: Sequence[Delivery]) -> None:
        """Return deliveries to the head of their queue, unless they were claimed meanwhile."""
        before = self.returned
        for d in self._claim(batch):
            self.returned += 1
            self._returning.add(d.record)
            self._settler.emit(Settlement(d.queue, d.tag, d.id, RETURN, record=d.record))
        if self._board.tally is not None and self.returned > before:
            self._board.tally.count("given_back", self.returned - before)

    def drop(self, batch: Sequence[Delivery]) -> None:
        """Forget what is not this process' any more, unless a slot has started it."""
        gone = self._claim(batch)
        self.held.drop(gone)
        self._free([d.record for d in gone])

    def ask_for_looks(self) -> bool:
        """Note that the supervisor is to look at the board; return whether it must be told, because it does not do so already."""
        if self._board.counter("watched"):
            return False
        self._board.set_counter("watched", 1)
        self.watched = True
        return True

    def _claim(self, batch: Sequence[Delivery]) -> list[Delivery]:
        """Return those that neither a slot nor the supervisor has claimed, and that now nobody else will.

        One without a record is never offered while it is in a slot (see ``Feeder``).
        """
        board = self._board
        claimed = [d for d in batch if d.record < 0 or board.give_back(d.record)]
        self.taken -= len(claimed)
        return claimed

    # --- forgetting ---

    def forget(self, settled: Sequence[Settlement]) -> None:
        """Forget what is settled."""
        if not settled:
            return
        former = self.former
        self.held.settled([s for s in settled if former.pop(_key(s), None) is None] if former else settled)
        self._free([s.record for s in settled])

    def forget_all(self) -> None:
        """Forget what the supervisor gave back, and all that is left then: a slot has lost it."""
        self.sweep()
        lost = [d.record for d in self.held] + [record for _, _, record in self.former]
        self.held.clear()
        self.former.clear()
        self._free(lost)

    def sweep_if_due(self) -> None:
        """Look now and then for what the supervisor has given back, while it may do so."""
        if self.watched and time.monotonic() >= self._sweep_at:
            self.sweep()

    def sweep(self) -> None:
        """Forget what the supervisor gave back because this process could not (see ``giveback``)."""
        self._sweep_at = time.monotonic() + SWEEP_S
        self.watched = self._board.counter("watched") > 0  # read first: what it gives back later is found next time
        records = []
        for record, tag, queue_index, state, _, _ in self._board.held():
            if state == RETURNED and record not in self._returning:
                records.append(record)
                d = self.held.get(self._queues[queue_index], tag)
                if d is not None and d.record == record:  # else it has been leased again since
                    self.held.drop((d,))
        if records:
            self.taken -= len(records)
            self._free(records)

    def _free(self, records: Sequence[int]) -> None:
        self._board.free(records)
        if self._returning:
            self._returning.difference_update(records)
        if self.last_chances:
            self.last_chances = {d for d in self.last_chances if d in self.held or _key(d) in self.former}
            if not self.last_chances:
                self._idleness.idle = False  # what was passed over may be taken now

    # --- names ---

    def fenced(self, name: str) -> None:
        """Start nothing held, for the lease of this name was taken away, and remember what runs as leased under it."""
        self.sweep()
        self.drop(self._feeder.drop(self.held))
        self.former.update((_key(d), name) for d in self.held)
        self.held.clear()

    def split_former(self, settlements: list[Settlement]) -> tuple[str, list[Settlement], list[Settlement]]:
        """Return a former name that something of this was leased under, what was, and the rest; "": none."""
        former = self.former
        name = next((name for s in settlements if (name := former.get(_key(s)))), "")
        if not name:
            return "", [], settlements
        theirs = [s for s in settlements if former.get(_key(s)) == name]
        return name, theirs, [s for s in settlements if former.get(_key(s)) != name]

    def compare(self, broker: Broker, process: str) -> None:
        """After a reconnect, bring both sides' view of the leases together.

        Leased but unknown here (a failover rolled a settlement back, or the reply was lost for good): given back. Held here,
        not started and not leased any more: dropped.
        """
        leased: set[tuple[str, str]] = set()
        unknown: list[Settlement] = []
        for queue in self._queues:
            tags = self.held.tags(queue)
            for tag, message in broker.leased(queue, process):
                leased.add((queue, tag))
                if tag not in tags:
                    unknown.append(Settlement(queue, tag, _id(message), RETURN))
        self.drop(self._feeder.drop(self.held, leased))
        if unknown:
            broker.settle(process, unknown, results=False)


def _key(of: Delivery | Settlement) -> tuple[str, str, int]:
    """Return what names one use of a tag: a store may give a message the same tag again."""
    return of.queue, of.tag, of.record


def _id(message: bytes) -> str:
    try:
        return _core.task_id(message)
    except EnvelopeError:
        return ""  # it is given back by its tag alone
