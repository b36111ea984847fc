"""Scale a node between MIN and MAX by itself (``--autoscale MAX,MIN``): up when work waits and no slot is idle, down when slots are
idle for long.

``decide`` is the whole policy, and pure. Sizes are in the unit of ``-c``: processes of prefork, slots in each process elsewhere.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fastq.exceptions import ImproperlyConfigured, OperationalError
from fastq.worker.capacity import Capacity, CapacityError

if TYPE_CHECKING:
    from fastq.transports.base import Inspector
    from fastq.worker.loop import Loop, Timer
    from fastq.worker.node import WorkerProcess

__all__ = ["Autoscaler", "Bounds", "Look", "Past", "decide", "keepalive_s"]

logger = logging.getLogger("fastq.worker.autoscale")

#: seconds between two looks
LOOK_S = 0.5
#: seconds that work may wait while no slot is idle: to be seen at two looks
WAIT_S = 0.4
#: seconds that a slot must have been idle before the node shrinks, unless AUTOSCALE_KEEPALIVE in the environment says otherwise
KEEPALIVE_S = 30.0


def keepalive_s() -> float:
    """Return the seconds that a slot stays, idle. Raises ImproperlyConfigured."""
    text = os.environ.get("AUTOSCALE_KEEPALIVE", "")
    try:
        seconds = float(text) if text else KEEPALIVE_S
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise ImproperlyConfigured(f"AUTOSCALE_KEEPALIVE={text!r} in the environment: expected seconds, such as 30")
    return seconds


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the size stays between."""

    most: int
    fewest: int


@dataclass(frozen=True, slots=True)
class Look:
    """What one look has seen."""

    #: monotonic
    now_s: float
    size: int
    #: slots that run nothing, of all processes; those of a process that is being started too
    idle: int
    #: messages ready in the queues; 0 also where nobody asked, as a slot is idle or the broker is away
    ready: int
    #: processes that are resized together: 1 of prefork, where the size counts them
    processes: int = 1


@dataclass(frozen=True, slots=True)
class Past:
    """What is kept from look to look."""

    #: since when work has waited at every look, with no slot idle; None: it does not
    waiting_s: float | None = None
    #: since when slots have been idle at every look, and how many of them (for each process) at all of these; None: none
    idle_s: float | None = None
    spare: int = 0


def decide(bounds: Bounds, look: Look, past: Past, keep_s: float) -> tuple[int, Past]:
    """Return the size that the node is to have now, and what to keep for the next look."""
    size = min(max(look.size, bounds.fewest), bounds.most)
    if size != look.size:
        return size, Past()
    if look.idle <= 0:
        if not look.ready or size >= bounds.most:
            return size, Past()
        since_s = look.now_s if past.waiting_s is None else past.waiting_s
        if look.now_s - since_s < WAIT_S:
            return size, Past(waiting_s=since_s)
        wanted = -(-look.ready // look.processes)
        return min(size + wanted, bounds.most), Past()
    idle = look.idle // look.processes
    if not idle or size <= bounds.fewest:
        return size, Past()
    since_s = look.now_s if past.idle_s is None else past.idle_s
    spare = idle if past.idle_s is None else min(past.spare, idle)
    if look.now_s - since_s < keep_s:
        return size, Past(idle_s=since_s, spare=spare)
    return max(size - spare, bounds.fewest), Past()


class Autoscaler:
    """Scale one node. Runs in its loop; a service (see ``Services``), which does nothing while it has no bounds."""

    def __init__(
        self,
        loop: Loop,
        capacity: Capacity,
        *,
        bounds: Sequence[int],
        processes: Callable[[], Sequence[WorkerProcess]],
        queues: Callable[[], Sequence[str]],
        reachable: Callable[[], bool],
        inspector: Callable[[], Inspector],
        paused: Callable[[], Container[str]] = tuple,
    ) -> None:
        """``bounds``: (most, fewest), or () for none. ``inspector`` opens one, with a supervisor's timeouts, when work may wait.
        ``paused`` asks the broker which queues rest: what is in them does not wait for slots."""
        self._loop = loop
        self._capacity = capacity
        self._processes = processes
        self._queues = queues
        self._reachable = reachable
        self._open = inspector
        self._paused = paused
        self._inspector: Inspector | None = None
        self._keep_s = keepalive_s() if bounds else KEEPALIVE_S
        self._past = Past()
        self._timer: Timer | None = None
        self.bounds = Bounds(*bounds) if bounds else None

    def start(self) -> None:
        self._next()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._inspector is not None:
            self._inspector.close()
            self._inspector = None

    def info(self) -> dict[str, dict[str, int]]:
        """Return what ``inspect stats`` shows, as Celery does; nothing if it does not scale itself."""
        if self.bounds is None:
            return {}
        busy = sum(len(process.board.active()) for process in self._processes())
        return {"autoscaler": {"max": self.bounds.most, "min": self.bounds.fewest, "current": self._capacity.size, "qty": busy}}

    def update(self, most: int | None, fewest: int | None) -> Bounds:
        """Scale between these from now on; None: as it was. Raises CapacityError for what this node cannot have."""
        known = self.bounds or Bounds(self._capacity.size, self._capacity.size)
        bounds = Bounds(known.most if most is None else most, known.fewest if fewest is None else fewest)
        if most is not None and fewest is None:
            bounds = replace(bounds, fewest=min(bounds.fewest, bounds.most))
        elif fewest is not None and most is None:
            bounds = replace(bounds, most=max(bounds.fewest, bounds.most))
        if bounds.fewest > bounds.most:
            raise CapacityError(f"min={bounds.fewest} is more than max={bounds.most}")
        if bounds.fewest < 1:
            raise CapacityError(f"min={bounds.fewest}: at least 1 is needed")
        self._capacity.check(bounds.most)
        try:
            self._keep_s = keepalive_s()
        except ImproperlyConfigured as exc:
            raise CapacityError(str(exc)) from None
        self.bounds, self._past = bounds, Past()
        self._capacity.resize(min(max(self._capacity.size, bounds.fewest), bounds.most))
        self._next()
        return bounds

    def stretch(self, size: int) -> None:
        """Make room in the bounds for a size that was asked for by hand: it stays until the work says otherwise."""
        if self.bounds is not None:
            self.bounds = Bounds(max(self.bounds.most, size), min(self.bounds.fewest, size))
            self._past = Past()

    def _next(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self.bounds is not None:
            # as often as it takes to keep a short time that was asked for
            self._timer = self._loop.after(min(LOOK_S, max(self._keep_s / 2, 0.05)), self._look)

    def _look(self) -> None:
        self._next()
        bounds, capacity = self.bounds, self._capacity
        if bounds is None:
            return
        idle, count = self._idle()
        ready = self._ready() if idle <= 0 and capacity.size < bounds.most else 0
        look = Look(time.monotonic(), capacity.size, idle, ready, 1 if capacity.counts_processes else max(1, count))
        size, self._past = decide(bounds, look, self._past, self._keep_s)
        if size == capacity.size:
            return
        what = "processes" if capacity.counts_processes else "slots in each process"
        if size > capacity.size:
            logger.info("Scaling up %d %s, to %d: %d tasks wait", size - capacity.size, what, size, ready)
        else:
            logger.info("Scaling down %d %s, to %d: idle for %g s", capacity.size - size, what, size, self._keep_s)
        capacity.resize(size)

    def _idle(self) -> tuple[int, int]:
        """Return how many slots run nothing, and how many processes there are; those that end are left out."""
        slots = self._capacity.slots
        processes = [process for process in self._processes() if not process.spent]
        missing = self._capacity.size - len(processes) if self._capacity.counts_processes else 0  # held back, to be started later
        busy = sum(
            min(slots, len(process.board.active()) + process.board.counter("held")) for process in processes if process.ready
        )
        return len(processes) * slots - busy + max(0, missing), len(processes)

    def _ready(self) -> int:
        if not self._reachable():
            return 0
        try:
            if self._inspector is None:
                self._inspector = self._open()
            ready = {queue: count for queue in self._queues() if (count := self._inspector.depth(queue)["ready"])}
            paused = self._paused() if ready else ()
            return sum(count for queue, count in ready.items() if queue not in paused)
        except OperationalError as exc:
            logger.debug("The broker does not say what waits: %s", exc)  # the keeper says what is wrong, once
            return 0
