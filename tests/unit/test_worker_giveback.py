"""Give-back by the supervisor, for a process that cannot."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fastq import _core
from fastq._core import HELD, RETURNED, STARTED, ProcessBoard
from fastq.exceptions import OperationalError
from fastq.worker.board import Board
from fastq.worker.giveback import Watch
from tests.unit.worker_fakes import FakeBroker, message

QUEUES = ("default", "other")


@pytest.fixture
def region() -> Iterator[ProcessBoard]:
    board = Board()
    yield board.region(0, 1)
    board.close()


def hold(region: ProcessBoard, broker: FakeBroker, n: int, queue: str = "default") -> list[_core.Delivery]:
    messages = [message(id=str(i)) for i in range(n)]
    tags = broker.lease(queue, "p", *messages)
    batch = _core.deliveries(queue, tags, messages, _core.Registry([]))
    region.hold(batch, QUEUES.index(queue), 1)
    region.set_counter("watched", 1)
    return batch


def states(region: ProcessBoard) -> dict[str, int]:
    return {r[1]: r[3] for r in region.held()}


def test_what_waits_behind_a_running_task_goes_back_in_order(region: ProcessBoard) -> None:
    broker = FakeBroker()
    batch = hold(region, broker, 4)
    region.claim(batch[0].record, 2)
    watch = Watch(region, QUEUES, broker)
    assert watch.look("p") and "settle" not in broker.calls, "one look proves nothing"
    assert watch.look("p")
    assert [_core.peek(m).id for m in broker.ready["default"]] == ["1", "2", "3"]
    assert list(broker.held["default", "p"]) == [batch[0].tag]
    assert states(region) == {batch[0].tag: STARTED, **{d.tag: RETURNED for d in batch[1:]}}
    assert not region.claim(batch[1].record, 3), "the process, going on now, skips it"


def test_nothing_goes_back_while_the_process_gets_on(region: ProcessBoard) -> None:
    broker = FakeBroker()
    batch = hold(region, broker, 4)
    watch = Watch(region, QUEUES, broker)
    for d in batch:
        region.claim(d.record, 2)
        watch.look("p")
        region.finish(d.record)
    assert "settle" not in broker.calls


def test_nothing_goes_back_when_nothing_runs(region: ProcessBoard) -> None:
    """The process is about to start it: it has just fetched, or its host was frozen."""
    broker = FakeBroker()
    hold(region, broker, 2)
    watch = Watch(region, QUEUES, broker)
    assert all(watch.look("p") for _ in range(5)) and "settle" not in broker.calls


def test_looking_ends_with_the_last_one_held(region: ProcessBoard) -> None:
    broker = FakeBroker()
    batch = hold(region, broker, 1)
    watch = Watch(region, QUEUES, broker)
    assert watch.look("p")
    region.claim(batch[0].record, 2)
    assert not watch.look("p")
    assert region.counter("watched") == 0


def test_what_the_broker_did_not_take_is_returned_later(region: ProcessBoard) -> None:
    broker = FakeBroker()
    batch = hold(region, broker, 2)
    region.claim(batch[0].record, 2)
    watch = Watch(region, QUEUES, broker)
    watch.look("p")
    broker.down = True
    with pytest.raises(OperationalError):
        watch.look("p")
    broker.down = False
    assert watch.look("p"), "nothing is held any more, but something is still to be returned"
    assert [_core.peek(m).id for m in broker.ready["default"]] == ["1"]
    assert not watch.look("p")


def test_each_goes_back_to_its_own_queue(region: ProcessBoard) -> None:
    broker = FakeBroker()
    first = hold(region, broker, 1)
    hold(region, broker, 2, "other")
    region.claim(first[0].record, 2)
    watch = Watch(region, QUEUES, broker)
    watch.look("p")
    watch.look("p")
    assert len(broker.ready["other"]) == 2 and "default" not in broker.ready
    assert HELD not in states(region).values()
