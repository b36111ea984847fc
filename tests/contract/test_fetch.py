"""What a fetch promises: leased once, turns, fair shares."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fastq.exceptions import Fenced, OperationalError
from fastq.records import RETURN
from fastq.transports import Broker
from tests.contract.conftest import Transport, Worker, asleep, held, publication, until, woken

Publish = Callable[..., None]


def test_a_message_is_leased_to_one_process(publish: Publish, transport: Transport) -> None:
    one, two = transport.worker(), transport.worker()
    publish("a", "b", "c")
    assert one.ids(2) == ["a", "b"]
    assert two.ids() == ["c"]
    assert one.ids() == two.ids() == []


def test_a_repeated_number_returns_what_that_call_leased(publish: Publish, worker: Worker) -> None:
    publish("a", "b", "c")
    first = worker.fetch(2)
    again = worker.fetch(2, number=worker.number)
    assert again == first
    assert worker.ids() == ["c"]


def test_a_repeat_leaves_out_what_has_been_settled(publish: Publish, worker: Worker) -> None:
    publish("a", "b", "c")
    a, b, c = worker.fetch()
    worker.settle(b.settled())
    assert worker.fetch(number=worker.number) == [a, c]


def test_a_repeat_keeps_the_order_over_levels_and_queues(publish: Publish, transport: Transport) -> None:
    worker = transport.worker("q", "other")
    publish("low", queue="q")
    publish("high", queue="q", level=9)
    publish("elsewhere", queue="other")
    first = worker.fetch()
    again = worker.fetch(number=worker.number)
    assert sorted(one.queue for one in again) == ["other", "q", "q"]
    for queue in ("q", "other"):
        assert [one for one in again if one.queue == queue] == [one for one in first if one.queue == queue]


def test_a_lower_number_leases_nothing(publish: Publish, worker: Worker, transport: Transport) -> None:
    worker.number = 5
    assert worker.ids() == []
    publish("a")
    assert worker.ids(number=5) == []
    assert worker.ids(number=3) == []
    assert transport.inspector().depth("q") == {"ready": 1, "delayed": 0, "leased": 0, "dead": 0}
    assert worker.ids() == ["a"]


def test_queues_take_turns(publish: Publish, transport: Transport) -> None:
    queues = ("one", "two", "three")
    worker = transport.worker(*queues)
    for queue in queues:
        publish(*(f"{queue}{i}" for i in range(4)), queue=queue)
    for _ in range(4):
        assert {one.queue for _ in queues for one in worker.fetch(1)} == set(queues)
    assert worker.ids() == []


def test_one_fetch_fills_up_from_every_queue(publish: Publish, transport: Transport) -> None:
    worker = transport.worker("one", "two", "empty")
    publish("a", "b", queue="one")
    publish("c", queue="two")
    assert sorted(worker.ids(3)) == ["a", "b", "c"]


def test_queues_not_asked_for_are_left_alone(publish: Publish, transport: Transport) -> None:
    publish("a", queue="mine")
    publish("b", queue="theirs")
    assert transport.worker("mine").ids() == ["a"]
    assert transport.inspector().depth("theirs")["ready"] == 1


def test_a_fetch_of_nothing_takes_nothing(publish: Publish, worker: Worker, transport: Transport) -> None:
    publish("a")
    assert worker.ids(0, idle=False) == []
    assert transport.inspector().depth("q")["ready"] == 1


def test_without_a_lease_there_is_no_work(publish: Publish, transport: Transport) -> None:
    publish("a")
    stranger = transport.worker(lease=False)
    with pytest.raises(Fenced):
        stranger.fetch()
    assert issubclass(Fenced, OperationalError)
    assert transport.inspector().depth("q")["ready"] == 1


def test_while_others_are_idle_a_fetch_takes_its_share(transport: Transport) -> None:
    broker = transport.broker()
    taker = transport.worker()
    sleepers = [transport.sleeper() for _ in range(3)]
    now_ms = broker.now_ms()
    broker.publish("p", 1, [publication(str(i), due_ms=now_ms + 60) for i in range(10)])
    # The publish woke one, to keep the time; it looks again and goes back to sleep.
    for worker, wake in sleepers:
        if not asleep(wake):
            worker.fetch()
    until(lambda: broker.now_ms() > now_ms + 61)
    assert len(taker.fetch()) == 3, "ten messages among one who asks and three who sleep: ceil(10 / 4)"
    assert all(woken(wake) for _, wake in sleepers), "and the others are told"
    while sleepers:
        worker, _ = sleepers.pop()
        worker.fetch()
    assert transport.inspector().depth("q")["ready"] == 0


def test_settling_and_fetching_are_one_call(publish: Publish, worker: Worker, broker: Broker) -> None:
    publish("a", "b", "c")
    a, b = worker.fetch(2)
    settled = worker.settle(a.settled(), b.settled(), fetch=worker.ask(2))
    assert settled.skipped == ()
    assert [one.id for one in held(settled.fetched)] == ["c"]


def test_what_a_call_gives_back_it_can_fetch_again(publish: Publish, worker: Worker) -> None:
    publish("a", "b")
    a, b = worker.fetch()
    settled = worker.settle(a.settled(RETURN), b.settled(RETURN), fetch=worker.ask())
    assert [one.id for one in held(settled.fetched)] == ["a", "b"]
    assert not {one.tag for one in held(settled.fetched)} & {a.tag, b.tag}
