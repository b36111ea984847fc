"""What the worker process that this code runs in has in its hands: Celery's ``celery.worker.state``, as far as it can be true here.

Tasks, their hooks and receivers of signals run in a worker process, and see that process' tasks: ``active_requests`` (those that
run), ``reserved_requests`` (those, and what waits behind them), ``requests`` (the same by id), ``total_count`` (runs by task name
since the node began, of this process and those before it in its place), ``all_total_count`` and ``revoked`` (ids that must not
start, as this process knows them). Each look makes a copy. A process that runs no tasks (the one that answers commands of an
application, a producer) knows none of this: AttributeError says whom to ask.
"""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fastq import __version__
from fastq._core import HELD, STARTED

if TYPE_CHECKING:
    from fastq._core import ProcessBoard
    from fastq.records import Delivery

__all__ = ["SOFTWARE_INFO", "Request", "enter"]

SOFTWARE_INFO = {"sw_ident": "fastq", "sw_ver": __version__, "sw_sys": platform.system()}


@dataclass(frozen=True, slots=True)
class Request:
    """A task that this process has."""

    id: str
    name: str = field(compare=False)
    #: the node's name
    hostname: str = field(compare=False)
    #: Unix seconds; None: it has not started
    time_start: float | None = field(compare=False)
    worker_pid: int = field(compare=False)

    @property
    def task_id(self) -> str:
        return self.id

    @property
    def task_name(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True, eq=False)
class _Worker:
    """One worker of this process; a test may have several."""

    node: str
    board: ProcessBoard
    held: Iterable[Delivery]
    revoked: Collection[str]

    def requests(self) -> list[Request]:
        records = {record: (state, started_ms) for record, _, _, state, _, started_ms in self.board.held()}
        found = []
        for d in _copied(self.held):
            state, started_ms = records.get(d.record, (0, 0))
            if state in (HELD, STARTED):
                start_s = started_ms / 1000 if state == STARTED else None
                found.append(Request(d.id, d.name, self.node, start_s, os.getpid()))
        return found

    def counts(self) -> Counter[str]:
        tally = self.board.tally
        rows = () if tally is None else tally.task_totals()
        counts = Counter({name: sum(runs) for name, _, _, _, runs in rows})
        counts.update(name for _, _, name, _ in self.board.active())
        return +counts


_workers: list[_Worker] = []


def enter(node: str, board: ProcessBoard, held: Iterable[Delivery], revoked: Collection[str]) -> Callable[[], object]:
    """Note that a worker has begun in this process; return what notes its end."""
    worker = _Worker(node, board, held, revoked)
    _workers.append(worker)
    return lambda: _workers.remove(worker) if worker in _workers else None


def _copied(items: Iterable[Any]) -> list[Any]:
    """Return what is there, while another thread may change it."""
    while True:
        try:
            return list(items)
        except RuntimeError:  # it has grown or shrunk meanwhile
            continue


def _requests() -> list[Request]:
    return [request for worker in _workers for request in worker.requests()]


def _total_count() -> Counter[str]:
    return sum((worker.counts() for worker in _workers), Counter())


#: what is known where tasks run: name -> (what says it, what else to ask)
_KNOWN: dict[str, tuple[Callable[[], Any], str]] = {
    "active_requests": (lambda: {one for one in _requests() if one.time_start is not None}, "active()"),
    "reserved_requests": (lambda: set(_requests()), "active() and reserved()"),
    "requests": (lambda: {one.id: one for one in _requests()}, "active() and reserved()"),
    "total_count": (_total_count, 'stats(), which has "total"'),
    "all_total_count": (lambda: [_total_count().total()], 'stats(), which has "total"'),
    "revoked": (lambda: {id for worker in _workers for id in _copied(worker.revoked)}, "revoked()"),
}

#: names of Celery's module that nothing here answers to, each with what to use instead
_ADVICE = {
    "successful_requests": "a task that ran is settled in the broker, which remembers it; look at its result",
    "should_stop": "connect to the signal worker_shutting_down",
    "should_terminate": "connect to the signal worker_shutting_down",
    "maybe_shutdown": "a worker looks after its end itself; app.control.shutdown() asks for it",
    "task_reserved": "connect to the signal task_received",
    "task_accepted": "connect to the signal task_prerun",
    "task_ready": "connect to the signal task_postrun",
    "Persistent": "revoked ids are kept in the broker, and survive restarts",
}


def __getattr__(name: str) -> Any:
    if name in _ADVICE:
        raise AttributeError(f"fastq.worker.state has no {name}: {_ADVICE[name]}")
    if name not in _KNOWN:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    look, ask = _KNOWN[name]
    if not _workers:
        raise AttributeError(
            f"fastq.worker.state.{name}: this process runs no tasks, so it has none to tell of: ask the nodes, with "
            f"app.control.inspect().{ask}"
        )
    return look()
