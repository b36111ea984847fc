"""A message that has killed two processes runs alone: nobody is blamed with it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fastq.records import Publication
from fastq.transports import Broker
from tests.contract.conftest import Transport, Worker, asleep, envelope, publication, woken

Publish = Callable[..., None]

LAST = 2  # of the default of three


def last(id: str, **how: bool) -> Publication:
    return Publication("q", envelope(id, charged=LAST, **how))


def test_it_is_leased_alone(publish: Publish, worker: Worker) -> None:
    publish(last("poison"), "a", "b")
    assert worker.ids() == ["poison"]
    assert worker.ids() == ["a", "b"]


def test_others_before_it_are_taken_without_it(publish: Publish, worker: Worker) -> None:
    publish("a", last("poison"), "b")
    first = worker.ids()
    assert "a" in first and "poison" not in first
    assert worker.ids() == ["poison"]


def test_two_of_them_come_one_after_the_other(publish: Publish, worker: Worker) -> None:
    publish(last("one"), last("two", paid=True))
    assert worker.ids() == ["one"]
    assert worker.ids() == ["two"]


def test_who_holds_one_takes_no_second_but_goes_on(publish: Publish, worker: Worker, transport: Transport) -> None:
    publish(last("one"), last("two"), "a", "b")
    assert worker.ids() == ["one"]
    assert worker.ids(no_last_chance=True) == ["a", "b"]
    assert worker.ids(no_last_chance=True) == []
    assert transport.worker().ids() == ["two"]


def test_what_was_passed_over_keeps_its_place(publish: Publish, worker: Worker) -> None:
    publish("a", last("poison"), "b", "c")
    assert worker.ids(2, no_last_chance=True) == ["a", "b"]
    assert worker.ids() == ["poison"]
    assert worker.ids() == ["c"]


def test_fewer_deliveries_are_nothing_special(publish: Publish, worker: Worker) -> None:
    publish("a", Publication("q", envelope("once", charged=1)), Publication("q", envelope("paid", paid=True)), "b")
    assert worker.ids() == ["a", "once", "paid", "b"]


def test_the_limit_is_the_settings(publish: Publish, transport: Transport) -> None:
    worker = transport.worker(max_deliveries=5)
    publish("a", last("three left"), Publication("q", envelope("poison", charged=4)), "b")
    first = worker.ids()
    assert first[:2] == ["a", "three left"] and "poison" not in first
    assert worker.ids() == ["poison"]


def test_without_a_limit_nothing_is_the_last(publish: Publish, transport: Transport) -> None:
    worker = transport.worker(max_deliveries=0)
    publish("a", Publication("q", envelope("often", charged=100)), "b")
    assert worker.ids() == ["a", "often", "b"]


def test_it_waits_for_one_who_may_take_it(broker: Broker, transport: Transport) -> None:
    holder, able = transport.worker(), transport.worker()
    broker.publish("p", 1, [last("one")])
    assert holder.ids() == ["one"]
    wake = able.awake()
    transport.opened.append(wake)
    assert able.ids() == []
    broker.publish("p", 2, [last("two")])
    assert woken(wake)
    assert holder.ids(no_last_chance=True) == []
    assert able.ids() == ["two"]


def test_two_who_may_not_take_it_do_not_wake_each_other(broker: Broker, transport: Transport) -> None:
    workers = [transport.worker() for _ in range(2)]
    wakes = [worker.awake() for worker in workers]
    transport.opened += wakes
    for number, worker in enumerate(workers, 1):
        broker.publish("p", number, [last(f"held {number}")])
        assert len(worker.fetch()) == 1
    broker.publish("p", 9, [last("waits")])
    for _ in range(3):
        for worker in workers:
            assert worker.ids(no_last_chance=True) == []
    for wake in wakes:
        wake.check()
        wake.drain()
    for worker in workers:
        assert worker.ids(no_last_chance=True) == []
    assert asleep(wakes[0]) and asleep(wakes[1])


@pytest.mark.parametrize("level", [0, 9])
def test_it_is_alone_across_queues(broker: Broker, transport: Transport, level: int) -> None:
    worker = transport.worker("one", "two")
    broker.publish("p", 1, [Publication("one", envelope("poison", charged=LAST), level), publication("a", "two")])
    seen = [worker.ids(), worker.ids(), worker.ids()]
    assert sorted(id for ids in seen for id in ids) == ["a", "poison"]
    assert ["poison"] in seen
