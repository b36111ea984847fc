"""What a broker must hold, in plain Python, and the comparison with what it holds: the ground of ``broker_machine``."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant

from fastq import _core
from fastq.records import DEAD, DONE, RETRY, RETURN, Fetch, Publication
from fastq.transports import Broker, TransportOptions, Wake, open_backend, open_broker, open_inspector
from tests.broker_stores import Store

__all__ = [
    "LAST",
    "LEASE_MS",
    "MOST",
    "PROCESSES",
    "QUEUES",
    "Leasehold",
    "Model",
    "Process",
    "Producer",
    "bare",
    "charged",
    "index",
    "is_last",
    "verdicts",
]

QUEUES = ("q", "other")
LEASE_MS = 15_000
#: charges after which the next delivery is the last, with the default of task_max_deliveries
LAST = 2
#: the most messages that wait in one queue, so that all that is due is promoted in one step
MOST = 80
PROCESSES = 6

#: an index into whatever there is to choose from
index = st.integers(0, 11)
verdicts = st.lists(st.sampled_from([DONE, RETRY, DEAD, DEAD, RETURN]), min_size=1, max_size=5)


@dataclass
class Leasehold:
    """A delivery as the model knows it."""

    level: int
    message: bytes
    number: int


@dataclass
class Process:
    """A worker process, as the model knows it."""

    name: str
    node: int
    queues: tuple[str, ...]
    broker: Broker
    wake: Wake
    number: int = 0
    #: the last call, to be repeated
    last: Fetch | None = None
    #: the queues on which it waits for a wake, and when it wakes by itself (0: it does not)
    idle: tuple[str, ...] = ()
    due_ms: int = 0
    #: it will fetch: it was woken, or its time has come
    woken: bool = False
    spare: bool = False
    #: where its lease was taken away
    condemned: set[str] = field(default_factory=set)
    released: set[str] = field(default_factory=set)
    killed: bool = False
    #: it was told that it is taken for dead
    fenced: bool = False
    #: every delivery it ever had: queue, tag, id
    ever: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def running(self) -> bool:
        return not self.killed and not self.fenced


@dataclass
class Producer:
    name: str
    number: int = 0
    sent: list[tuple[int, list[Publication]]] = field(default_factory=list)


def charged(message: bytes) -> int:
    return _core.peek(message).deliveries


def is_last(message: bytes) -> bool:
    return charged(message) >= LAST


def bare(message: bytes) -> bytes:
    return message[2:] if message[:1] == b"\xc1" else message


class Model(RuleBasedStateMachine):
    """``make`` opens an empty store."""

    def __init__(self, make: Callable[[], Store]) -> None:
        super().__init__()
        self.store = make()
        self.opened: list[Any] = []
        self.counter = itertools.count(1)
        self.hours = 0
        self.inspector = open_inspector(self.store.url, TransportOptions())
        self.backend = open_backend(self.store.url, TransportOptions())
        self.nodes = [self.broker() for _ in range(2)]
        self.opened += [self.inspector, self.backend]
        self.producers = [Producer("producer 0"), Producer("producer 1")]
        self.processes: list[Process] = []
        # where everything must be
        self.ready: dict[str, dict[int, list[bytes]]] = {queue: {} for queue in QUEUES}
        #: (due after so many hours, place, level, message)
        self.delayed: dict[str, list[tuple[int, int, int, bytes]]] = {queue: [] for queue in QUEUES}
        self.leased: dict[tuple[str, str], dict[str, Leasehold]] = {}
        self.dead: dict[str, list[tuple[int, bytes, str]]] = {queue: [] for queue in QUEUES}
        self.results: dict[str, tuple[str, bytes | None]] = {}
        self.revocation = 0
        #: what a node saw of the others' leases
        self.seen: list[dict[tuple[str, str], str]] = [{}, {}]
        #: the call that fetches settles too
        self.settling = False
        #: queues where a wake may be lost until the next renewal: somebody who was to come is dead or fenced
        self.doubt: set[str] = set()

    # --- opening and closing ---

    def broker(self) -> Broker:
        self.opened.append(open_broker(self.store.url, TransportOptions()))
        return self.opened[-1]  # type: ignore[no-any-return]

    def start(self, node: int, queues: tuple[str, ...]) -> Process:
        name = f"node{node}.{next(self.counter)}"
        broker = self.broker()
        wake = broker.wake(name)
        process = Process(name, node, queues, broker, wake)
        self.renew(node, (process,), queues)
        wake.open()
        self.opened.append(wake)
        self.processes.append(process)
        return process

    @initialize(both=st.booleans())
    def begin(self, both: bool) -> None:
        self.start(0, QUEUES)
        self.start(1, QUEUES if both else ("q",))

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:  # after a failure there is nothing to be learned
                self.finish()
        finally:
            for opened in reversed(self.opened):
                opened.close()
            self.store.close()

    # --- choosing ---

    def running(self) -> list[Process]:
        return [process for process in self.processes if process.running]

    def pick(self, which: int) -> Process:
        running = self.running()
        return running[which % len(running)]

    # --- the laws ---

    @invariant()
    def every_message_is_where_it_must_be(self) -> None:
        view = self.store.view(QUEUES)
        for queue in QUEUES:
            assert view.ready[queue] == {level: messages for level, messages in self.ready[queue].items() if messages}
            assert [one[1:] for one in view.delayed[queue]] == [one[2:] for one in self.delayed[queue]]
            letters = [(letter.message, letter.reason) for letter in self.inspector.dead(queue)]
            assert letters[::-1] == [one[1:] for one in self.dead[queue]]
            depth = {
                "ready": sum(map(len, self.ready[queue].values())),
                "delayed": len(self.delayed[queue]),
                "leased": sum(len(held) for key, held in self.leased.items() if key[0] == queue),
                "dead": len(self.dead[queue]),
            }
            assert self.inspector.depth(queue) == depth
            alive = [p.name for p in self.processes if queue in p.queues and queue not in p.condemned]
            assert sorted(self.inspector.listeners(queue)) == sorted(alive)
        found = {key: held for key, held in view.leased.items() if held}
        assert found == {key: {tag: one.message for tag, one in held.items()} for key, held in self.leased.items() if held}

    @invariant()
    def whoever_is_needed_has_been_woken(self) -> None:
        for process in self.processes:
            if process.running:
                process.wake.check()
                process.woken = process.wake.drain() or process.woken
        view = self.store.view(QUEUES)
        for queue in set(QUEUES) - self.doubt:
            waiting = [process for process in self.processes if queue in process.idle and process.running]
            woken = sum(process.woken for process in waiting)
            ready = self.order(queue)
            if any(map(is_last, ready)):
                able = [p for p in waiting if not p.spare] if all(map(is_last, ready)) else waiting
                need = min(1, len(able))
            else:
                need = min(len(ready), len(waiting))
            ghosts = [process for process in self.processes if queue in process.idle and not process.running]
            if not any(ghost.woken for ghost in ghosts) or self.store.name == "redis":
                assert woken >= need, f"{len(ready)} are ready in {queue}, {len(waiting)} wait, {woken} were woken"
            due_ms = min((one[0] for one in view.delayed[queue]), default=0)
            if due_ms and waiting and not woken and not ghosts:
                assert any(0 < process.due_ms <= due_ms for process in waiting), f"nobody keeps the time of {queue}"
