"""Several connections and several processes on one store."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from fastq.records import DONE, Lease, Settlement
from tests.contract.conftest import DEADLINE_S, Transport, publication, record, until

#: memory:// is one process
between_processes = pytest.mark.parametrize("transport", ["redis", "sqlite"], indirect=True)

WORKER = """
import sys
from fastq.records import DONE, Fetch, Settlement
from fastq.transports import TransportOptions, open_broker

url, process, total = sys.argv[1], sys.argv[2], int(sys.argv[3])
broker = open_broker(url, TransportOptions())
broker.renew(["q"], [process], 15_000)
number, settled, empty = 0, [], 0
while empty < 20:
    number += 1
    fetched = broker.settle(process, settled, results=True, fetch=Fetch(process, number, ("q",), 7, idle=False)).fetched
    settled = [
        Settlement("q", tag, message.hex(), DONE, result=message + process.encode())
        for leased in fetched.leased
        for tag, message in zip(leased.tags, leased.messages)
    ]
    empty = 0 if settled else empty + 1
broker.close()
print("done")
"""

PRODUCER = """
import sys
from fastq.records import Publication
from fastq.transports import TransportOptions, open_broker

url, producer, calls = sys.argv[1], sys.argv[2], int(sys.argv[3])
broker = open_broker(url, TransportOptions())
for number in range(1, calls + 1):
    broker.publish(producer, number, [Publication("q", f"{producer} {number} {i}".encode()) for i in range(3)])
broker.close()
print("done")
"""


def run(script: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> None:
    out, err = process.communicate(timeout=DEADLINE_S * 2)
    assert (process.returncode, out) == (0, "done\n"), err


def test_two_brokers_share_one_store(transport: Transport) -> None:
    one, two = transport.broker(), transport.broker()
    one.publish("p", 1, [publication("a")])
    worker = transport.worker(broker=two)
    assert worker.ids() == ["a"]


def test_a_closed_broker_may_be_used_again(transport: Transport) -> None:
    broker = transport.broker()
    broker.publish("p", 1, [publication("a")])
    broker.close()
    broker.publish("p", 2, [publication("b")])
    assert transport.worker().ids() == ["a", "b"]


@between_processes
def test_processes_produce_and_consume_at_once_and_nothing_is_lost(transport: Transport) -> None:
    producers = [run(PRODUCER, transport.url, f"producer{i}", "60") for i in range(2)]
    workers = [run(WORKER, transport.url, f"node.{i}.x", "0") for i in range(2)]
    for process in producers + workers:
        finish(process)
    ids = [f"producer{i} {number} {k}".encode().hex() for i in range(2) for number in range(1, 61) for k in range(3)]
    heir = transport.worker()
    # What was published after both workers had looked in vain is left.
    while left := heir.look(1_000).leased:
        for leased in left:
            heir.settle(
                *(
                    Settlement("q", tag, message.hex(), DONE, result=message + heir.process.encode())
                    for tag, message in zip(leased.tags, leased.messages, strict=True)
                )
            )
    results = transport.backend().get(ids)
    assert all(result is not None and result.startswith(bytes.fromhex(id)) for id, result in zip(ids, results, strict=True))
    assert transport.inspector().depth("q") == {"ready": 0, "delayed": 0, "leased": 0, "dead": 0}


def test_threads_with_brokers_of_their_own_lose_nothing(transport: Transport) -> None:
    calls, threads = 25, 4

    def produce(thread: int) -> None:
        broker = transport.broker()
        for number in range(1, calls + 1):
            broker.publish(f"p{thread}", number, [publication(f"{thread}.{number}")])

    def consume(thread: int) -> list[str]:
        worker = transport.worker()
        got: list[str] = []

        def some() -> bool:
            held = worker.fetch(3, idle=False)
            got.extend(one.id for one in held)
            worker.settle(*(one.settled(result=record()) for one in held))
            return len(transport_done) == threads and not held

        until(some)
        return got

    transport_done: list[int] = []
    with ThreadPoolExecutor(2 * threads) as pool:
        consumers = [pool.submit(consume, i) for i in range(threads)]
        for i, producer in enumerate([pool.submit(produce, i) for i in range(threads)]):
            producer.result(DEADLINE_S)
            transport_done.append(i)
        got = sorted(id for consumer in consumers for id in consumer.result(DEADLINE_S))
    assert got == sorted(f"{thread}.{number}" for thread in range(threads) for number in range(1, calls + 1))


@between_processes
@pytest.mark.parametrize("n", [1, 300])
def test_what_a_killed_process_had_leased_is_released(transport: Transport, n: int) -> None:
    transport.broker().publish("p", 1, [publication(f"{i:03}") for i in range(n)])
    holder = run(
        """
import sys, time
from fastq.records import Fetch
from fastq.transports import TransportOptions, open_broker
broker = open_broker(sys.argv[1], TransportOptions())
broker.renew(["q"], ["node.killed"], 15_000)
print(sum(len(leased.tags) for leased in broker.fetch(Fetch("node.killed", 1, ("q",), 1_000)).leased), flush=True)
time.sleep(60)
""",
        transport.url,
    )
    assert holder.stdout is not None and holder.stderr is not None
    assert holder.stdout.readline() == f"{n}\n"
    holder.kill()
    holder.wait(DEADLINE_S)
    holder.stdout.close()
    holder.stderr.close()
    broker = transport.broker()
    broker.condemn([Lease("q", "node.killed", "")])
    assert broker.release("q", "node.killed", {}) == n
    assert transport.worker().ids(1_000) == [f"{i:03}" for i in range(n)]
