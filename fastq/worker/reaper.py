"""What becomes of the deliveries of a process that died.

Everything goes back to the head of its queue. What is known (board) or must be assumed (node lost, no board) to have been
running is charged: its delivery count rises by one, and at ``task_max_deliveries`` it becomes a dead letter with the reason
``worker-lost`` instead. The aim is that a poisonous task is stopped and its neighbours are not.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from fastq import _core
from fastq._core import FINISHED, STARTED, ProcessBoard
from fastq.exceptions import EnvelopeError, WorkerLostError
from fastq.records import DEAD, Delivery, Lease, Settlement, StoredResult
from fastq.transports.base import Backend, Broker
from fastq.worker.effects import effects_of, ended
from fastq.worker.ends import LOST, End

__all__ = ["Lost", "Plan", "Reaper", "Snapshot", "plan"]

logger = logging.getLogger("fastq.worker.reaper")

#: dead letters settled in one call at most; each may carry a result
BATCH = 200


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the board said when a process died: by queue, the tags that were running, and those that had run."""

    started: Mapping[str, AbstractSet[str]] = field(default_factory=dict)
    finished: Mapping[str, AbstractSet[str]] = field(default_factory=dict)
    #: what became of the process, for people
    how: str = "died"

    @classmethod
    def of(cls, board: ProcessBoard, queues: Sequence[str], how: str = "died") -> Snapshot:
        started: dict[str, set[str]] = {}
        finished: dict[str, set[str]] = {}
        for _record, tag, queue_index, state, _held_ms, _started_ms in board.held():
            if queue_index >= len(queues):
                continue  # a region that was never written to the end: its process died while writing
            if state == STARTED:
                started.setdefault(queues[queue_index], set()).add(tag)
            elif state == FINISHED:
                finished.setdefault(queues[queue_index], set()).add(tag)
        return cls(started, finished, how)


@dataclass(frozen=True, slots=True)
class Lost:
    """A delivery that will not run again."""

    tag: str
    delivery: Delivery
    #: how often its process died under it, this time included
    deaths: int


@dataclass(slots=True)
class Plan:
    """What to do with everything one dead process had leased from one queue."""

    #: tag -> message with its new redelivery mark
    marks: dict[str, bytes] = field(default_factory=dict)
    dead: list[Lost] = field(default_factory=list)


def plan(
    leased: Iterable[tuple[str, bytes]],
    *,
    started: AbstractSet[str] | None,
    finished: AbstractSet[str] = frozenset(),
    charge: bool = True,
    max_deliveries: int,
    run_once: AbstractSet[str] = frozenset(),
) -> Plan:
    """Decide over what a dead process had leased from one queue, oldest first. Pure.

    ``started``: tags that were running; None: unknown, so all count as such. ``finished``: tags that had run, but whose outcome was
    not settled: not charged, but marked as paid. ``charge`` False: nobody is to blame (this node was told to stop at once).
    ``max_deliveries`` 0: no limit. ``run_once``: names that must not run again once started, whatever the count.
    """
    result = Plan()
    charged: list[tuple[str, Delivery]] = []
    for tag, message in leased:
        running = started is None or tag in started
        if not running and tag not in finished:
            continue
        try:
            delivery = _core.peek(message)
        except EnvelopeError:
            continue  # nothing ran that cannot be read: a worker will make it a dead letter
        if delivery.name in run_once:
            result.dead.append(Lost(tag, delivery, delivery.deliveries + 1))
        elif running and charge:
            charged.append((tag, delivery))
        elif tag in finished and not running:
            # its result may be stored, if that is on another server: it is looked for before the task runs again (see Finished).
            # And it has had its turn, should its rate be limited
            result.marks[tag] = _core.remark(message, delivery.deliveries, True)
    last_chance = [c for c in charged if max_deliveries and c[1].deliveries >= max_deliveries - 1]
    # the protocol lets a process hold one delivery on its last chance; were there two, the older one alone is blamed
    for tag, delivery in last_chance[:1] or charged:
        deaths = delivery.deliveries + 1
        if max_deliveries and deaths >= max_deliveries:
            result.dead.append(Lost(tag, delivery, deaths))
        else:
            result.marks[tag] = _core.remark(delivery.message, deaths, delivery.paid)
    return result


class Reaper:
    """Carry plans out. Every step may be repeated, by this node or another: a half-done reaping is resumed, not undone."""

    def __init__(
        self,
        broker: Broker,
        backend: Callable[[], Backend | None],
        *,
        max_deliveries: int,
        run_once: Iterable[str] = (),
        unstored: Iterable[str] = (),
        encode: Callable[[BaseException], tuple[str, bytes, str | None]],
    ) -> None:
        """``backend`` opens the result store at first use (None: results are disabled); ``encode`` writes an exception as
        (content type, body, traceback)."""
        self._broker = broker
        self._backend = backend
        self._max_deliveries = max_deliveries
        self._run_once = frozenset(run_once)
        self._unstored = frozenset(unstored)
        self._encode = encode
        #: told of every task that ends here, and how
        self.told: Callable[[Delivery, End], object] | None = None

    def bury(self, process: str, queues: Sequence[str], snapshot: Snapshot | None, *, charge: bool = True) -> int:
        """Condemn a process of this node and hand back what it had leased; return how many deliveries went back to their queues.

        ``snapshot`` None: nothing is known of what was running. Raises OperationalError; call again then.
        """
        # first of all: from here on nothing is leased to that name
        self._broker.condemn([Lease(queue, process, "") for queue in queues])
        return sum(self._hand_back(queue, process, snapshot, charge) for queue in queues)

    def reap(self, leases: Sequence[Lease]) -> int:
        """Condemn dead leases of other nodes and hand back what they held; those renewed meanwhile are left alone."""
        moved = 0
        for lease in self._broker.condemn(leases):
            n = self._hand_back(lease.queue, lease.process, None, True)
            logger.warning("Process %s is dead: what it held goes back to queue %s (%d)", lease.process, lease.queue, n)
            moved += n
        return moved

    def _hand_back(self, queue: str, process: str, snapshot: Snapshot | None, charge: bool) -> int:
        leased = self._broker.leased(queue, process)
        how = "was lost with its node" if snapshot is None else snapshot.how
        marks: dict[str, bytes] = {}
        if leased:
            decided = plan(
                leased,
                started=None if snapshot is None else snapshot.started.get(queue, frozenset()),
                finished=frozenset() if snapshot is None else snapshot.finished.get(queue, frozenset()),
                charge=charge,
                max_deliveries=self._max_deliveries,
                run_once=self._run_once,
            )
            marks = decided.marks
            for at in range(0, len(decided.dead), BATCH):
                self._settle_dead(queue, process, decided.dead[at : at + BATCH], how)
        return self._broker.release(queue, process, marks)

    def _settle_dead(self, queue: str, process: str, lost: Sequence[Lost], how: str) -> None:
        """Make dead letters, under the dead process' own name: if another node was faster, nothing happens. ``how`` it died."""
        backend = self._backend()
        shared = backend is not None and backend.shares(self._broker)
        now_ms = self._broker.now_ms()
        settlements = []
        results: list[StoredResult] = []
        # one that must not run twice may have ended, and its result have been stored, before its process died
        known = backend.get([item.delivery.id for item in lost]) if backend is not None and not shared else [None] * len(lost)
        for item, found in zip(lost, known, strict=True):
            d = item.delivery
            if (settlement := ended(d, found, now_ms, queue=queue, tag=item.tag)) is not None:
                settlements.append(settlement)
                continue
            text = self._describe(item, process, how)
            content_type, body, _ = self._encode(WorkerLostError(text))
            record = _core.encode_result("FAILURE", content_type, body, None, now_ms, None)
            effects = effects_of(d, record, now_ms)
            stored = backend is not None and self._stores(d)
            if stored:
                results.append(StoredResult(d.id, record, d.inbox))
            if effects is not None:
                results.extend(effects.results)
            error = f"WorkerLostError: {text}"
            detail = {"id": d.id, "name": d.name, "error": error, "deliveries": item.deaths, "process": process}
            settlements.append(
                Settlement(
                    queue,
                    item.tag,
                    d.id,
                    DEAD,
                    result=record if stored and shared else None,
                    inbox=d.inbox,
                    reason="worker-lost",
                    detail=_core.packb(detail),
                    effects=effects,
                )
            )
            logger.error("Task %s[%s] raised unexpected: WorkerLostError(%r)", d.name, d.id, text)
        if backend is not None and not shared and results:
            # stored first: a result without its dead letter is repeated, a dead letter without its result would be waited for
            backend.store(results)
        skipped = self._broker.settle(process, settlements, results=shared).skipped
        if self.told is not None:
            for settlement, item in zip(settlements, lost, strict=True):
                if settlement.verdict == DEAD and settlement.tag not in skipped:
                    self.told(item.delivery, End(LOST, queue, self._describe(item, process, how)))

    def _describe(self, item: Lost, process: str, how: str) -> str:
        if item.delivery.name in self._run_once:
            return (
                f"the process of this task {how}; the task had started and must not run twice (acks_late=False, or "
                f"reject_on_worker_lost=False). The process was {process}"
            )
        count = f"This was the {_ordinal(item.deaths)} death under it, task_max_deliveries allows {self._max_deliveries}"
        return f"the process of this task {how}. {count}. The process was {process}"

    def _stores(self, delivery: Delivery) -> bool:
        options = delivery.options
        own = None if options is None else options.get("ignore_result")
        return not own if own is not None else delivery.name not in self._unstored


def _ordinal(n: int) -> str:
    return f"{n}{'th' if 10 <= n % 100 <= 20 else {1: 'st', 2: 'nd', 3: 'rd'}.get(n % 10, 'th')}"
