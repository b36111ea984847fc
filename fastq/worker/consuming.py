"""Take tasks from more queues, or from fewer, while the node runs.

One more: the leases of all processes are entered there first, then the processes are told. One less: the processes are told, each
says that it fetches from there no more (an answer on its way included), and when what they had leased there is settled the leases
end. Until then they are renewed like all others, so a long task that came from there is as safe as any.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from fastq.queues import copy_queue
from fastq.worker.hello import Hello
from fastq.worker.keeper import Keeper
from fastq.worker.loop import Loop
from fastq.worker.queues import Queues

__all__ = ["Consuming", "Order"]

#: seconds to the first look whether the leases on a queue can end; twice as long each time, up to a third of a lease
LOOK_S = 0.1


class Order(Protocol):
    """``Node.order``."""

    def __call__(self, order: Mapping[str, Any], *, standing: str = "", only: int | None = None) -> int: ...


class Consuming:
    """Change the queues of one node. Called in its loop."""

    def __init__(
        self, loop: Loop, hello: Hello, node: str, queues: Queues, keeper: Keeper, *, order: Order, took_in: Callable[[int], bool]
    ) -> None:
        """``took_in``: whether every process knows of a change with this number."""
        self._loop = loop
        self._node = node
        self._queues = queues
        self._keeper = keeper
        self._order = order
        self._took_in = took_in
        self._lease_s = hello.lease_ms / 1000
        self._broadcasts = frozenset((*hello.broadcasts, *hello.declared_broadcasts))
        #: queues whose leases are to end -> the change that the processes must know of
        self._ending: dict[str, int] = {}
        self._looking = False

    def add(self, name: str) -> bool:
        """Take from a queue too; False if it is taken from already. Raises ConnectionError while the broker does not answer."""
        names = self._names(name)
        if set(names) <= set(self._queues.taken):
            return False
        # where its leases have ended, a process needs a new name to be entered again
        anew = any(one in self._queues.known and one not in self._queues.leased for one in names)
        if not self._keeper.cover(names, broadcast=name in self._broadcasts):
            raise ConnectionError("the broker does not answer this node now: nothing has changed, try again")
        for one in names:
            self._ending.pop(one, None)
        self._queues.take(names)
        self._tell(anew)
        return True

    def cancel(self, name: str) -> bool:
        """Take from a queue no more; False if it is not taken from."""
        names = [one for one in self._names(name) if one in self._queues.taken]
        if not names:
            return False
        self._queues.drop(names)
        self._tell()
        self._ending.update(dict.fromkeys(names, self._queues.changes))
        if not self._looking:
            self._looking = True
            self._loop.after(LOOK_S, lambda: self._look(LOOK_S))
        return True

    def _names(self, name: str) -> tuple[str, ...]:
        return (name, copy_queue(name, self._node)) if name in self._broadcasts else (name,)

    def _tell(self, anew: bool = False) -> None:
        known, taken, change = self._queues.known, self._queues.taken, self._queues.changes
        order = {"do": "queues", "known": list(known), "taken": list(taken), "change": change, "anew": anew}
        self._order(order, standing="queues")

    def _look(self, waited_s: float) -> None:
        for name, change in list(self._ending.items()):
            if self._took_in(change) and self._keeper.uncover(name):
                del self._ending[name]
        self._looking = bool(self._ending)
        if self._looking:
            delay_s = min(2 * waited_s, self._lease_s / 3)
            self._loop.after(delay_s, lambda: self._look(delay_s))
