"""End tasks that run on this node because they were revoked with a signal: the supervisor's side.

It hears of them at once where remote control is on, and asks the broker at every renewal besides: so a node that was cut off, or
that takes no requests, ends them too. It looks at the board who runs them, has their processes interrupt them, and looks again:
what still runs in a prefork process then is killed with it. Elsewhere the process has other tasks, and what could not be
interrupted is left alone and said.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from fastq._core import STARTED, peek
from fastq.exceptions import EnvelopeError, OperationalError
from fastq.stamps import MARK, stamps_of
from fastq.worker.limits import check
from fastq.worker.timeouts import Overrun

if TYPE_CHECKING:
    from fastq.worker.loop import Timer
    from fastq.worker.node import Node, WorkerProcess

__all__ = ["AT_ONCE", "GRACE_S", "Cancelling", "Running"]

logger = logging.getLogger("fastq.worker")

#: seconds that a task has to end after it was interrupted
GRACE_S = 1.0
#: signals that leave a task no time
AT_ONCE = frozenset({"SIGKILL", "SIGQUIT"})
#: bytes of an id that the board shows
SHOWN = 72


class Running(NamedTuple):
    """A run that is to end."""

    id: str
    name: str
    signal: str
    #: index and pid of its process
    process: int
    pid: int
    slot: int
    started_ms: int


class Cancelling:
    """A service: see ``Services``."""

    def __init__(self, node: Node) -> None:
        self._node = node
        #: of the last revocation with a signal that was carried out here
        self._number = 0
        self._timer: Timer | None = None
        self._interval_s = node.hello.lease_ms / 3000

    def start(self) -> None:
        # What was revoked before does not start here. If the broker does not answer, the next look finds all of it.
        with suppress(OperationalError):
            self._number, _ = self._node.terminated(0)
        self._again()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _again(self) -> None:
        self._timer = self._node.loop.after(self._interval_s, self._look)

    def _look(self) -> None:
        """Ask the broker: the safety net."""
        try:
            if self._node.reachable:
                self._number, signals = self._node.terminated(self._number)
                if signals:
                    self.cancel(signals)
        except OperationalError as exc:
            logger.debug("Revocations cannot be read now: %s", exc)
        finally:
            self._again()

    # --- carrying out ---

    def cancel(self, signals: Mapping[str, str]) -> list[Running]:
        """End the tasks with these ids, or stamps, each as its signal asks for; return those that run here.

        Doing it twice is harmless: what is being ended is interrupted once more at most.
        """
        node = self._node
        signals = self._with_stamps(signals)
        running = self._running(signals)
        if not running and not any(process.board.counter("held") for process in node.processes()):
            return running
        at_once = []
        for run in running:
            logger.info("Terminating task %s[%s] (%s): it was revoked", run.name, run.id, run.signal, extra=_about(run))
            if run.signal in AT_ONCE and self._kill(run):
                at_once.append(run)
        node.order({"do": "cancel", "ids": dict(signals)})
        if left := [run for run in running if run not in at_once]:
            node.loop.after(GRACE_S, lambda: self._look_again(left))
        return running

    def _with_stamps(self, signals: Mapping[str, str]) -> dict[str, str]:
        """Add the ids of what is leased here with one of these stamps."""
        found = dict(signals)
        if any(id.startswith(MARK) for id in signals):
            names = [name for process in self._node.processes() for name in process.names]
            for _, _, message in self._node.leased(names):
                try:
                    d = peek(message)
                except EnvelopeError:
                    continue
                for stamp in stamps_of(d.options):
                    if stamp in signals:
                        found.setdefault(d.id, signals[stamp])
        return found

    def _running(self, signals: Mapping[str, str]) -> list[Running]:
        shown = {_shown(id): id for id in signals}
        return [
            Running(shown[id], name, signals[shown[id]], process.index, process.pid, slot, started_ms)
            for process in self._node.processes()
            for slot, id, name, started_ms in process.board.active()
            if id in shown
        ]

    def _look_again(self, runs: Sequence[Running]) -> None:
        for run in runs:
            if self._still(run) is None or self._kill(run):
                continue
            logger.warning(
                "Task %s[%s] was revoked with %s, and goes on: the pool %s could not interrupt it (it blocks, it is in C code, or "
                "it caught the exception), and its process is not killed for it",
                run.name,
                run.id,
                run.signal,
                self._node.hello.pool,
                extra=_about(run),
            )

    def _still(self, run: Running) -> WorkerProcess | None:
        """Return the process of a run that has not ended."""
        for process in self._node.processes():
            if (process.index, process.pid) == (run.process, run.pid):
                active = {(slot, started_ms, id) for slot, id, _, started_ms in process.board.active()}
                return process if (run.slot, run.started_ms, _shown(run.id)) in active else None
        return None

    def _kill(self, run: Running) -> bool:
        """Kill the process of a run, where that has no other task; False: not here, or it has ended meanwhile.

        The run is looked for once more behind everything else: what has ended by then keeps its outcome, and what the process has
        begun since is not killed in its place.
        """
        if self._node.hello.pool != "prefork" or (process := self._still(run)) is None:
            return False
        queues = self._node.known_queues
        killed = [
            Overrun(queues[queue], tag, 0.0, check(run.id), run.signal)
            for _, tag, queue, state, _, _ in process.board.held()
            if state == STARTED and queue < len(queues)
        ]
        return bool(killed) and self._still(run) is not None and self._node.kill(run.process, killed)


def _shown(id: str) -> str:
    """Return an id as the board shows it."""
    return id.encode("utf-8", "surrogatepass")[:SHOWN].decode("utf-8", "ignore")


def _about(run: Running) -> dict[str, str]:
    return {"task_id": run.id, "task_name": run.name}
