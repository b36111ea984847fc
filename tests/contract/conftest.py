"""The transports under contract, and the few words in which the laws are written."""

from __future__ import annotations

import itertools
import select
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fastq import _core
from fastq.records import DONE, Fetch, Fetched, Publication, Settled, Settlement
from fastq.transports import (
    Backend,
    Broker,
    Channel,
    Inbox,
    Inspector,
    Timetable,
    TransportOptions,
    Wake,
    open_backend,
    open_broker,
    open_channel,
    open_inspector,
    open_timetable,
)

__all__ = ["DEADLINE_S", "Held", "Transport", "Worker", "envelope", "publication", "record", "until"]

#: how long anything may take before a test fails
DEADLINE_S = 20.0
LEASE_MS = 15_000

_numbers = itertools.count(1)


def envelope(id: str, *, charged: int = 0, paid: bool = False, size: int = 0) -> bytes:
    """Return a message; ``charged`` is its delivery count so far."""
    message = _core.encode(id, "task", "application/x-msgpack", b"\x92\x90\x80" + bytes(size), 0, None, 0, None, None)
    return _core.remark(message, charged, paid) if charged or paid else message


def publication(id: str, queue: str = "q", level: int = 0, **times: int) -> Publication:
    return Publication(queue, envelope(id), level, **times)


def record(state: str = "SUCCESS", size: int = 1) -> bytes:
    return _core.encode_result(state, "application/x-msgpack", b"x" * size, None, 0, None)


def until(condition: Callable[[], Any], what: str = "the condition") -> Any:
    """Return the first true answer; fail after the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"{what} did not come true within {DEADLINE_S} s"
        time.sleep(0.005)
    return answer


@dataclass(frozen=True)
class Held:
    """A delivery that a worker holds."""

    queue: str
    tag: str
    message: bytes

    @property
    def id(self) -> str:
        return _core.peek(self.message).id

    @property
    def charged(self) -> int:
        return _core.peek(self.message).deliveries

    def settled(self, verdict: int = DONE, **what: Any) -> Settlement:
        return Settlement(self.queue, self.tag, self.id, verdict, **what)


def held(fetched: Fetched | None) -> list[Held]:
    assert fetched is not None
    return [
        Held(leased.queue, tag, message)
        for leased in fetched.leased
        for tag, message in zip(leased.tags, leased.messages, strict=True)
    ]


@dataclass
class Worker:
    """A worker process as the broker sees it: a name, a lease, numbered calls."""

    broker: Broker
    process: str
    queues: tuple[str, ...]
    number: int = 0

    def ask(self, n: int = 100, *, number: int | None = None, idle: bool = True, no_last_chance: bool = False) -> Fetch:
        if number is None:
            self.number += 1
        return Fetch(self.process, self.number if number is None else number, self.queues, n, idle, no_last_chance)

    def look(self, n: int = 100, **how: Any) -> Fetched:
        return self.broker.fetch(self.ask(n, **how))

    def fetch(self, n: int = 100, **how: Any) -> list[Held]:
        return held(self.look(n, **how))

    def ids(self, n: int = 100, **how: Any) -> list[str]:
        return [one.id for one in self.fetch(n, **how)]

    def settle(self, *settlements: Settlement, results: bool = True, fetch: Fetch | None = None) -> Settled:
        return self.broker.settle(self.process, settlements, results=results, fetch=fetch)

    def awake(self) -> Wake:
        """Open the wake channel."""
        wake = self.broker.wake(self.process)
        wake.open()
        return wake


def woken(wake: Wake, wait_s: float = DEADLINE_S) -> bool:
    """Wait for a wake."""
    deadline = time.monotonic() + wait_s
    while not wake.drain():
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            return False
        select.select([wake.fileno()], [], [], left_s)
    return True


def asleep(wake: Wake) -> bool:
    """Say that no wake has been sent: what was sent before the probe has come before its answer."""
    wake.check()
    return not wake.drain()


@dataclass
class Transport:
    """One technology: opens any number of brokers, backends and inspectors on one store."""

    name: str
    url: str
    opened: list[Any] = field(default_factory=list)

    def broker(self, **options: Any) -> Broker:
        self.opened.append(open_broker(self.url, TransportOptions(**options)))
        return self.opened[-1]

    def backend(self, **options: Any) -> Backend:
        self.opened.append(open_backend(self.url, TransportOptions(**options)))
        return self.opened[-1]

    def inspector(self, **options: Any) -> Inspector:
        self.opened.append(open_inspector(self.url, TransportOptions(**options)))
        return self.opened[-1]

    def channel(self, **options: Any) -> Channel:
        self.opened.append(open_channel(self.url, TransportOptions(**options)))
        return self.opened[-1]

    def timetable(self, scope: str = "app", **options: Any) -> Timetable:
        self.opened.append(open_timetable(self.url, TransportOptions(**options), scope))
        return self.opened[-1]

    def worker(self, *queues: str, broker: Broker | None = None, lease: bool = True, **options: Any) -> Worker:
        """Return a new process, with a lease on its queues."""
        worker = Worker(broker or self.broker(**options), f"node.{next(_numbers)}", queues or ("q",))
        if lease:
            worker.broker.renew(worker.queues, [worker.process], LEASE_MS)
        return worker

    def sleeper(self, *queues: str, broker: Broker | None = None) -> tuple[Worker, Wake]:
        """Return a new process that found nothing and waits."""
        worker = self.worker(*queues, broker=broker)
        wake = worker.awake()
        self.opened.append(wake)
        assert worker.fetch(idle=True) == []
        return worker, wake

    def inbox(self, backend: Backend, name: str) -> Inbox:
        inbox = backend.inbox(name)
        inbox.open()
        self.opened.append(inbox)
        return inbox

    def close(self) -> None:
        for opened in reversed(self.opened):
            opened.close()


@pytest.fixture(params=["redis", "sqlite", "memory"])
def transport(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Transport]:
    match request.param:
        case "redis":
            url = request.getfixturevalue("redis_url")
        case "sqlite":
            url = f"sqlite:///{tmp_path}/contract.db"
        case _:
            url = f"memory://{tmp_path}"
    transport = Transport(request.param, url)
    try:
        yield transport
    finally:
        transport.close()


@pytest.fixture
def broker(transport: Transport) -> Broker:
    return transport.broker()


@pytest.fixture
def publish(broker: Broker) -> Callable[..., None]:
    """Publish ids or publications, one numbered call each time."""
    numbers = itertools.count(1)

    def publish(*what: str | Publication, queue: str = "q", level: int = 0, **times: int) -> None:
        broker.publish(
            "producer",
            next(numbers),
            [publication(one, queue, level, **times) if isinstance(one, str) else one for one in what],
        )

    return publish


@pytest.fixture
def worker(transport: Transport) -> Worker:
    return transport.worker()


def ids(messages: Sequence[bytes]) -> list[str]:
    return [_core.task_id(message) for message in messages]
