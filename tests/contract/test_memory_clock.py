"""The memory transport runs on any clock."""

from __future__ import annotations

from fastq.transports import memory
from tests.contract.conftest import Transport, publication, record


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
