"""The memory transport runs on any clock."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fastq.records import RETRY, Drop, Effects, Joined, Opening, StoredResult
from fastq.transports import memory
from tests.contract.conftest import Transport, asleep, publication, record, woken


def test_time_passes_when_the_clock_says_so() -> None:
    transport = Transport("memory", "memory://simulated")
    clock = [1_000.0]
    memory.store("simulated").clock = lambda: clock[0]
    try:
        broker, backend = transport.broker(), transport.backend(result_expires_s=100)
        worker = transport.worker(broker=broker)
        broker.publish("p", 1, [publication("a", delay_ms=60_000)])
        assert worker.look().next_due_ms == 1_060_000
        clock[0] += 59.9
        assert worker.ids() == []
        clock[0] += 0.1
        (a,) = worker.fetch()
        worker.settle(a.settled(result=record()))
        broker2 = transport.broker(result_expires_s=50)
        assert broker2.now_ms() == 1_060_000
        clock[0] += 10_000
        assert [lease.process for lease in broker.renew(["q"], [], 15_000)] == [worker.process]
        assert backend.get(["a"]) == [record()], "kept for a day, as the settling broker was told"
        clock[0] += 86_400
        assert backend.get(["a"]) == [None]
    finally:
        transport.close()
        memory.reset("simulated")


def test_stores_of_other_names_are_other_stores() -> None:
    one, two = Transport("memory", "memory://one"), Transport("memory", "memory://two")
    try:
        one.broker().publish("p", 1, [publication("a")])
        assert two.worker().ids() == []
        assert one.worker().ids() == ["a"]
    finally:
        memory.reset("one")
        memory.reset("two")


@pytest.fixture
def still() -> Iterator[Transport]:
    """A store whose clock stands still at 1,000 s."""
    memory.store("still").clock = lambda: 1_000.0
    transport = Transport("memory", "memory://still")
    try:
        yield transport
    finally:
        transport.close()
        memory.reset("still")


def test_advancing_the_clock_wakes_for_what_is_due(still: Transport) -> None:
    worker, wake = still.sleeper()
    broker, store = still.broker(), memory.store("still")
    broker.publish("p", 1, [publication("a", delay_ms=3_600_000), publication("b", delay_ms=7_200_000)])
    assert woken(wake), "to keep the time"
    assert worker.look().next_due_ms == store.next_due_ms() == 4_600_000
    store.advance(3_599_999)
    assert asleep(wake)
    store.advance(1)
    assert woken(wake)
    assert worker.ids() == ["a"]
    assert broker.now_ms() == 4_600_000
    assert store.next_due_ms() == 8_200_000
    store.advance(3_600_000)
    assert worker.ids() == ["b"]
    assert store.next_due_ms() == 0


def test_a_replaced_clock_wakes_when_it_ticks(still: Transport) -> None:
    worker, wake = still.sleeper()
    broker, store = still.broker(), memory.store("still")
    broker.publish("p", 1, [publication(str(i), delay_ms=1_000 + i) for i in range(300)])
    assert woken(wake)
    assert worker.ids() == []
    store.clock = lambda: 2_000.0
    store.tick()
    assert woken(wake)
    assert worker.ids(1_000) == [str(i) for i in range(300)], "all that is due, in order"


def test_an_advanced_clock_wakes_as_many_as_there_is_work_for(still: Transport) -> None:
    sleepers = [still.sleeper() for _ in range(3)]
    still.broker().publish("p", 1, [publication("a", delay_ms=60_000), publication("b", delay_ms=60_000)])
    assert sum(not asleep(wake) for _, wake in sleepers) == 1, "one keeps the time"
    for worker, _ in sleepers:
        worker.fetch()
    memory.store("still").advance(60_000)
    assert sum(not asleep(wake) for _, wake in sleepers) == 2


def test_retries_wait_for_the_advanced_clock(still: Transport) -> None:
    worker, store = still.worker(), memory.store("still")
    worker.broker.publish("p", 1, [publication("a")])
    (a,) = worker.fetch()
    worker.settle(a.settled(RETRY, message=a.message, delay_ms=180_000))
    assert worker.ids() == []
    store.advance(180_000)
    assert worker.ids() == ["a"]


def test_rate_limits_go_by_the_advanced_clock(still: Transport) -> None:
    broker, store = still.broker(), memory.store("still")
    assert broker.reserve("b", 3, 60_000_000, 1) == [0, 60_000, 120_000]
    store.advance(60_000)
    assert broker.reserve("b", 1, 60_000_000, 1) == [120_000]
    store.advance(240_000)
    assert store.buckets
    broker.renew(["q"], [], 15_000)
    assert not store.buckets, "as good as new"
    assert broker.reserve("b", 1, 60_000_000, 1) == [0]


def test_results_and_joins_expire_by_the_advanced_clock(still: Transport) -> None:
    backend, worker, store = still.backend(result_expires_s=100), still.worker(), memory.store("still")
    backend.store([StoredResult("a", record())])
    worker.broker.publish("p", 1, [publication("body")], [Opening("j", 1, publication("unused"))])
    (body,) = worker.fetch()
    worker.settle(body.settled(effects=Effects(drops=[Drop("q", "j", 50)])))
    store.advance(49_999)
    assert backend.joined("q", "j") == Joined(1, [None])
    store.advance(1)
    assert backend.joined("q", "j") is None
    assert backend.get(["a"]) == [record()]
    store.advance(50_000)
    assert backend.get(["a"]) == [None]
    worker.broker.renew(["q"], [worker.process], 15_000)
    assert store.results == {}
