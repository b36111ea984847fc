"""Random chords on workers that are fenced, repeat their calls and run members twice: every body is published once."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from fastq.records import Count, Drop, Effects, Growth, Lease, Opening, Settlement
from fastq.transports import Broker
from tests.contract.conftest import Held, Transport, Worker, publication, record

QUEUES = ("q", "other")


class Chords:
    """What was sent, and what should come of it."""

    def __init__(self, chance: random.Random, broker: Broker) -> None:
        self._chance = chance
        self._broker = broker
        self._number = 0
        #: per join: its queue, and its members that succeed and those that do not
        self.joins: dict[str, tuple[str, set[str], set[str]]] = {}
        #: tasks that bring one member more into their join
        self.growing: set[str] = set()
        self.bodies: Counter[str] = Counter()

    def send(self) -> None:
        """Publish some chords in one call, perhaps twice, and some of their members twice over."""
        chance = self._chance
        self._number += 1
        openings, members = [], []
        for _ in range(chance.randint(1, 3)):
            name, queue, size = f"join {len(self.joins)}", chance.choice(QUEUES), chance.randint(1, 12)
            bad = {str(i) for i in range(size) if chance.random() < 0.02}
            self.joins[name] = (queue, {str(i) for i in range(size)} - bad, bad)
            openings.append(Opening(name, size, publication(f"body {name}", queue, chance.choice([0, 0, 5]))))
            for i in range(size):
                if str(i) not in bad and chance.random() < 0.05:
                    self.growing.add(f"{name}/{i}")
                for _ in range(1 + (chance.random() < 0.1)):
                    members.append(publication(f"{name}/{i}", chance.choice(QUEUES)))
        chance.shuffle(members)
        for _ in range(1 + (chance.random() < 0.3)):
            self._broker.publish("p", self._number, members, openings)

    def settlements(self, batch: list[Held]) -> list[Settlement]:
        """Return how deliveries end. A task that grows its join does so once, also where it is twice in the batch."""
        grew: set[str] = set()
        ends = []
        for one in batch:
            ends.append(self._settlement(one, one.id in self.growing and one.id not in grew))
            grew.add(one.id)
        return ends

    def _settlement(self, one: Held, grows: bool) -> Settlement:
        if one.id.startswith("body "):
            name = one.id.removeprefix("body ")
            return one.settled(effects=Effects(drops=[Drop(self.joins[name][0], name, 100)]))
        name, member = one.id.split("/")
        queue, _, bad = self.joins[name]
        count = Count(queue, name, member, one.id, record("FAILURE" if member in bad else "SUCCESS"), member in bad)
        if grows:
            added = f"{one.id}+"
            self.joins[name][1].add(added.split("/")[1])
            more = publication(added, self._chance.choice(QUEUES))
            return one.settled(effects=Effects(growths=[Growth(queue, name)], publications=[more], counts=[count]))
        return one.settled(effects=Effects(counts=[count]))


def step(chance: random.Random, chords: Chords, worker: Worker, transport: Transport) -> Worker:
    """Let a worker take and settle something; return it, or the one that stands in for it."""
    held = worker.fetch(chance.choice([1, 3, 50]), idle=False)
    if held and chance.random() < 0.15:
        for queue in QUEUES:
            worker.broker.condemn([Lease(queue, worker.process, "")])
            worker.broker.release(queue, worker.process, {})
        assert len(worker.settle(*chords.settlements(held)).skipped) == len(held)
        return transport.worker(*QUEUES, broker=worker.broker)
    chance.shuffle(held)
    while held:
        n = chance.randint(1, 20)
        batch, held = held[:n], held[n:]
        settlements = chords.settlements(batch)
        assert worker.settle(*settlements).skipped == ()
        chords.bodies.update(one.id for one in batch if one.id.startswith("body "))
        if chance.random() < 0.2:
            assert len(worker.settle(*settlements).skipped) == len(batch)
        chords.growing.difference_update(one.id for one in batch)
    return worker


@pytest.mark.parametrize("seed", range(8))
def test_every_body_is_published_once(transport: Transport, broker: Broker, seed: int) -> None:
    chance = random.Random(seed)
    chords = Chords(chance, broker)
    workers = [transport.worker(*QUEUES, broker=broker) for _ in range(3)]
    for _ in range(12):
        chords.send()
        for _ in range(chance.randint(0, 4)):
            i = chance.randrange(len(workers))
            workers[i] = step(chance, chords, workers[i], transport)
    inspector = transport.inspector()
    while any(inspector.depth(queue)["ready"] for queue in QUEUES):
        i = chance.randrange(len(workers))
        workers[i] = step(chance, chords, workers[i], transport)
    assert chords.bodies == Counter({f"body {name}": 1 for name in chords.joins}), f"seed {seed}"
    backend = transport.backend()
    for name, (queue, good, bad) in chords.joins.items():
        joined = backend.joined(queue, name)
        assert joined is not None
        if bad:
            assert joined.failed is not None
            task_id, failure = joined.failed
            assert failure == record("FAILURE")
            assert task_id in {f"{name}/{member}" for member in bad}
        else:
            assert joined.failed is None
            assert list(joined.records) == [record()] * len(good)
            assert joined.size == len(good)
