"""Give-back by the supervisor, for a process that cannot."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fastq import _core
from fastq._core import HELD, RETURNED, STARTED, ProcessBoard
from fastq.exceptions import OperationalError
from fastq.worker.board import Board, open_flight
from fastq.worker.flight import Flight
from fastq.worker.giveback import SEARCH_LOOKS, Watch
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


def leased_unread(broker: FakeBroker, n: int) -> list[str]:
    """Lease what stands on no board: the answer of the fetch is still to be read."""
    return broker.lease("other", "p", *[message(id=f"unread-{i}") for i in range(n)])


def test_what_an_unread_answer_brings_goes_back_while_a_task_keeps_the_process_from_reading(region: ProcessBoard) -> None:
    broker, flight = FakeBroker(), Flight()
    batch = hold(region, broker, 1)
    region.claim(batch[0].record, 2)
    flight.leave(7)
    leased_unread(broker, 3)
    watch = Watch(region, QUEUES, broker, flight)
    watch.glance()
    assert watch.look("p")
    assert [_core.peek(m).id for m in broker.ready["other"]] == ["unread-0", "unread-1", "unread-2"]
    assert list(broker.held["default", "p"]) == [batch[0].tag], "what runs stays"
    assert flight.land() and not flight.searched, "the process is told to look again at what it has"
    asked = broker.calls.count("leased")
    flight.leave(8)
    for _ in range(SEARCH_LOOKS):
        assert watch.look("p")
    assert broker.calls.count("leased") <= asked + 2 * len(QUEUES), "the broker is not asked at every look"


def test_an_answer_under_way_is_left_alone_while_the_process_gets_on(region: ProcessBoard) -> None:
    broker, flight = FakeBroker(), Flight()
    batch = hold(region, broker, 4)
    leased_unread(broker, 1)
    watch = Watch(region, QUEUES, broker, flight)
    watch.glance()
    for number, d in enumerate(batch, 1):  # another task runs at every look
        flight.leave(number)
        region.claim(d.record, 2)
        assert watch.look("p")
        region.finish(d.record)
        assert not flight.land()
    region.claim(hold(region, broker, 1)[0].record, 2)
    for number in range(5, 9):  # another fetch is under way at every look
        flight.leave(number)
        assert watch.look("p")
        assert not flight.land()
    assert "leased" not in broker.calls and "settle" not in broker.calls


def test_looking_goes_on_while_an_answer_is_under_way(region: ProcessBoard) -> None:
    broker, flight = FakeBroker(), Flight()
    watch = Watch(region, QUEUES, broker, flight)
    flight.leave(1)
    assert watch.look("p")
    flight.land()
    assert not watch.look("p")


def test_a_search_that_fails_counts_as_one(region: ProcessBoard) -> None:
    """It is not known what the broker has done of it."""
    broker, flight = FakeBroker(), Flight()
    batch = hold(region, broker, 1)
    region.claim(batch[0].record, 2)
    flight.leave(1)
    watch = Watch(region, QUEUES, broker, flight)
    watch.glance()
    broker.down = True
    with pytest.raises(OperationalError):
        watch.look("p")
    assert flight.land() and not flight.searched


def test_both_sides_see_one_flight_and_a_search_in_its_middle() -> None:
    board = Board()
    try:
        board.region(1, 2)
        ours, theirs = board.flight(1, 2), open_flight(board.fd, 1, 2)
        theirs.leave(3)
        assert ours.number == 3
        with ours.search():
            assert theirs.searched and theirs.land()
        assert not theirs.searched and ours.number == 0
        theirs.leave(4)
        assert not theirs.land(), "that search was before"
        theirs.leave(5)
        with ours.search():
            pass
        theirs.leave(5)  # repeated: it was not answered
        assert theirs.land()
        ours.clear()
        assert theirs.number == 0 and not theirs.searched
    finally:
        board.close()
