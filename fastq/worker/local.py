"""The one ``Node`` there is: put together by the supervisor, by the keeper of a solo worker, and by a test's worker."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastq.worker.node import WorkerProcess
from fastq.worker.services import Services
from fastq.worker.steering import Single, Steering
from fastq.worker.tallies import Tallies
from fastq.worker.untold import Untold

if TYPE_CHECKING:
    from fastq.worker.asking import Asks
    from fastq.worker.hello import Hello
    from fastq.worker.keeper import Keeper
    from fastq.worker.loop import Loop
    from fastq.worker.queues import Queues
    from fastq.worker.shutdown import Shutdown, Stage
    from fastq.worker.steering import Crew
    from fastq.worker.timeouts import Overrun

__all__ = ["LocalNode"]


class LocalNode:
    """See ``fastq.worker.node.Node``."""

    def __init__(
        self,
        name: str,
        *,
        loop: Loop,
        hello: Hello,
        shutdown: Shutdown,
        keeper: Keeper,
        queues: Queues,
        processes: Callable[[], list[WorkerProcess]],
        order: Callable[..., int],
        asking: Asks,
        stop: Callable[[str], object],
        pid: int = 0,
        crew: Crew | None = None,
        tallies: Tallies | None = None,
        restarts: Callable[[], Mapping[str, int]] = dict,
        kill: Callable[[int, Sequence[Overrun]], bool] = lambda index, runs: False,
    ) -> None:
        self.name = name
        self.pid = pid or os.getpid()
        self.started_at = time.time()
        self.loop = loop
        self.hello = hello
        self._shutdown = shutdown
        self._keeper = keeper
        self._queues = queues
        self.processes = processes
        self._order = order
        self._asking = asking
        self._stop = stop
        self.replaces = crew is not None
        self.tallies = Tallies(list) if tallies is None else tallies
        keeper.count(self.tallies.own.add)
        self._restarts = restarts
        self._kill = kill
        self.steering = Steering(
            loop,
            hello,
            name,
            queues=queues,
            keeper=keeper,
            crew=crew or Single(),
            order=self.order,
            processes=processes,
        )
        self.services = Services(self)
        keeper.tell(self.services.events.ended)
        #: has the application told of what the supervisor settles
        self.untold = Untold(self)
        keeper.tell_end(self.untold.ended)

    @property
    def stage(self) -> Stage:
        return self._shutdown.stage

    @property
    def queues(self) -> tuple[str, ...]:
        return self._queues.taken

    @property
    def known_queues(self) -> Sequence[str]:
        return self._queues.known

    @property
    def reachable(self) -> bool:
        return self._keeper.reachable

    @property
    def renewed_s(self) -> float:
        return self._keeper.renewed_s

    @property
    def wanted(self) -> int:
        capacity = self.steering.capacity
        return capacity.size if capacity.counts_processes else self.hello.processes

    @property
    def restarts(self) -> Mapping[str, int]:
        return self._restarts()

    def leased(self, names: Sequence[str]) -> list[tuple[str, str, bytes]]:
        return self._keeper.leased(names)

    def terminated(self, since: int) -> tuple[int, dict[str, str]]:
        return self._keeper.terminated(since)

    def revoke(self, ids: Sequence[str], signal: str) -> None:
        self._keeper.revoke(ids, signal)

    def kill(self, index: int, runs: Sequence[Overrun]) -> bool:
        return self._kill(index, runs)

    def revoked(self) -> list[str]:
        return self._keeper.revoked()

    def order(self, order: Mapping[str, Any], *, standing: str = "", only: int | None = None) -> int:
        return self._order(order, standing=standing, only=only)

    def ask(self, question: Mapping[str, Any], answer: Callable[[Any], object]) -> None:
        self._asking.ask(question, answer)

    def stop(self, how: str) -> None:
        self._stop(how)
