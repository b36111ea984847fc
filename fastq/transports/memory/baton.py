"""Wake idle processes: as many as there is work for. Both functions expect the store's lock to be held."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from fastq.transports.memory.queue import Queue

if TYPE_CHECKING:
    from fastq.transports.memory.stores import MemoryStore

__all__ = ["pass_baton"]


def pass_baton(
    memory: MemoryStore, queues: Iterable[Queue], *, me: str = "", again: bool = False, any_message: bool = False
) -> None:
    """Wake as many idle processes as there is work for, the timekeeper last; whoever is gone is replaced by the next.

    ``me`` is not woken. ``again``: those woken before and not come are candidates too, after the others. ``any_message``: only
    those that may take any message are woken for work (two that may not would wake each other for ever).
    """
    for queue in queues:
        waiting = [p for p, idle in queue.idle.items() if p != me and (again or not idle.woken)]
        waiting.sort(key=lambda p: (queue.idle[p].woken, queue.idle[p].due_ms > 0, -queue.idle[p].due_ms))
        coming = sum(p != me for p in queue.idle) - len(waiting)
        need = len(queue) - coming
        for process in [p for p in waiting if not (any_message and queue.idle[p].no_last_chance)]:
            if need <= 0:
                break
            waiting.remove(process)
            woken = wake(memory, process)
            need -= woken
            coming += woken
        due_ms = queue.due_ms()
        while waiting and not coming and due_ms and not queue.covered(due_ms):
            coming += wake(memory, waiting.pop())


def wake(memory: MemoryStore, process: str) -> bool:
    """Wake a process; False, and it leaves every queue, if it is gone."""
    signals = memory.wakes.get(process, ())
    for queue in memory.queues.values():
        if process in queue.idle:
            if signals:
                queue.idle[process].woken = True
            else:
                del queue.idle[process]
    for signal in signals:
        signal.set()
    return bool(signals)
