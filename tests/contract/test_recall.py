"""Recalling turns of a rate limit: what waits for one is taken at once and limited anew, and nothing else is touched."""

from __future__ import annotations

import random
import threading
from typing import Any

import pytest

from fastq import _core
from fastq.records import DONE, RETRY, RETURN, Publication
from fastq.transports import Broker
from tests.contract.conftest import Transport, Worker, asleep, envelope, publication, woken

LONG_US = 100_000_000


def turn(worker: Worker, *ids: str, bucket: str = "t", delay_ms: int = 60_000, queue: str = "q", level: int = 0) -> None:
    """Publish messages, and let each wait for a turn of a bucket, the next a second later."""
    broker = worker.broker
    broker.publish(f"p{random.random()}", 1, [publication(id, queue, level) for id in ids])
    deliveries = worker.fetch(len(ids))
    assert [one.id for one in deliveries] == list(ids)
    worker.settle(
        *[
            one.settled(
                RETRY,
                message=_core.remark(one.message, one.charged, True),
                level=level,
                delay_ms=delay_ms + 1_000 * i,
                detail=bucket.encode() or None,
            )
            for i, one in enumerate(deliveries)
        ]
    )


def recall(broker: Broker, limit: str = "t", queue: str = "q", **how: Any) -> int:
    """Recall all, step by step."""
    total, place = broker.recall(queue, limit, **how)
    while place:
        some, place = broker.recall(queue, limit, place=place, **how)
        total += some
    return total


def test_what_waits_for_a_turn_is_taken_at_once_in_order_and_has_paid_no_more(worker: Worker, transport: Transport) -> None:
    turn(worker, "a", "b", "c")
    worker.broker.publish("p", 1, [publication("younger")])
    assert recall(worker.broker) == 3
    taken = worker.fetch()
    assert [one.id for one in taken] == ["a", "b", "c", "younger"]
    assert not any(_core.peek(one.message).paid for one in taken)
    assert [one.message for one in taken[:3]] == [envelope("a"), envelope("b"), envelope("c")], "as they were sent"
    assert worker.settle(*[one.settled() for one in taken]).skipped == ()
    assert transport.inspector().depth("q") == {"ready": 0, "delayed": 0, "leased": 0, "dead": 0}
    assert recall(worker.broker) == 0, "once"


def test_other_delays_of_the_same_task_and_turns_of_other_limits_stay(transport: Transport) -> None:
    worker = transport.worker("q", "r")
    turn(worker, "mine")
    turn(worker, "retry", bucket="")
    turn(worker, "longer", bucket="tt")
    turn(worker, "of a node", bucket="t@w1|5us")
    turn(worker, "elsewhere", queue="r")
    worker.broker.publish("p", 1, [publication("eta", delay_ms=60_000)])
    parked = worker.broker.pause(tasks=["task"])
    assert parked.tasks
    worker.broker.publish("p", 2, [publication("parked")])
    (one,) = worker.fetch()
    worker.settle(one.settled(RETURN, reason="task"))
    assert recall(worker.broker) == 1
    assert worker.ids() == ["mine"]
    left = [_core.peek(message).id for _, _, message in transport.inspector().delayed("q", 10)]
    assert sorted(left) == ["eta", "longer", "of a node", "parked", "retry"]
    assert transport.inspector().depth("r")["delayed"] == 1


def test_turns_of_the_new_limit_are_kept(worker: Worker) -> None:
    """Several nodes hear of a change one after the other: what the first has limited anew keeps its turns."""
    turn(worker, "new", bucket="t|9us", delay_ms=30_000)
    turn(worker, "old")
    turn(worker, "older", bucket="t|7us")
    assert recall(worker.broker, kept="t|9us") == 2
    assert worker.ids() == ["old", "older"]
    assert recall(worker.broker, kept="t|9us") == 0
    assert recall(worker.broker) == 1
    assert worker.ids() == ["new"]


def test_buckets_whose_turns_were_recalled_or_that_are_left_are_as_new(worker: Worker) -> None:
    broker = worker.broker
    for bucket in ("t", "t|7us", "t|8us", "t|9us", "tt"):
        assert broker.reserve(bucket, 5, LONG_US, 1)[0] == 0
    turn(worker, "a")
    turn(worker, "b", bucket="t|7us")
    assert recall(broker, kept="t|9us", left=["t|8us", "t|9us"]) == 2
    assert [broker.reserve(bucket, 1, LONG_US, 1) == [0] for bucket in ("t", "t|7us", "t|8us", "t|9us", "tt")] == [
        *(True, True, True, False, False)
    ]


def test_levels_and_charges_stay_what_they_were(worker: Worker) -> None:
    broker = worker.broker
    broker.publish("p", 1, [Publication("q", envelope("charged", charged=1), 3)])
    (one,) = worker.fetch()
    worker.settle(one.settled(RETRY, message=_core.remark(one.message, 1, True), level=3, delay_ms=60_000, detail=b"t"))
    turn(worker, "urgent", level=9)
    assert recall(broker) == 2
    first, second = worker.fetch(1) + worker.fetch(1)
    assert (first.id, first.charged, second.id, second.charged) == ("urgent", 0, "charged", 1)
    assert not _core.peek(second.message).paid


def test_who_is_idle_is_woken(worker: Worker, transport: Transport) -> None:
    turn(worker, "a")
    sleeper, wake = transport.sleeper()
    assert recall(sleeper.broker, "other") == 0
    assert asleep(wake)
    assert recall(worker.broker) == 1
    assert woken(wake) and sleeper.ids() == ["a"]


def test_a_long_line_is_recalled_in_bounded_steps_and_keeps_its_order(transport: Transport) -> None:
    worker = transport.worker()
    n = 2_500
    worker.broker.publish("p", 1, [publication(f"{i:04}") for i in range(n)])
    taken = []
    while some := worker.fetch(1_000):
        taken += some
    worker.broker.publish("p", 2, [publication(f"eta{i}", delay_ms=70_000) for i in range(1_500)])
    for start in range(0, n, 500):
        worker.settle(
            *[
                # several of the same turn: a step may end between them
                one.settled(RETRY, message=_core.remark(one.message, 0, True), delay_ms=60_000 + start * 10, detail=b"t")
                for one in taken[start : start + 500]
            ]
        )
    steps, total, place = 0, 0, ""
    while not steps or place:
        some_now, place = worker.broker.recall("q", "t", place=place)
        steps, total = steps + 1, total + some_now
        assert some_now <= 1_000 or transport.name == "memory"
    assert total == n and (steps > 2 or transport.name == "memory")
    again = []
    while ids := worker.ids(1_000):
        again += ids
    assert len(again) == n == len(set(again))
    groups = [again[start : start + 500] for start in range(0, n, 500)]
    assert all(sorted(group) == [f"{i:04}" for i in range(500 * k, 500 * k + 500)] for k, group in enumerate(groups))
    assert transport.inspector().depth("q")["delayed"] == 1_500


def test_many_who_recall_at_once_while_it_is_worked_lose_nothing_and_give_nothing_twice(transport: Transport) -> None:
    n = 400
    worker = transport.worker()
    for start in range(0, n, 50):
        turn(worker, *[f"{i}" for i in range(start, start + 50)], bucket=f"t|{start}us", delay_ms=60_000)
    taken: list[str] = []

    def work(one: Worker) -> None:
        for _ in range(60):
            some = one.fetch(20, idle=False)
            taken.extend(held.id for held in some)
            one.settle(*[held.settled(DONE) for held in some])

    workers = [transport.worker() for _ in range(2)]
    brokers = [transport.broker() for _ in range(3)]
    threads = [threading.Thread(target=recall, args=(broker,)) for broker in brokers]
    threads += [threading.Thread(target=work, args=(one,)) for one in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    while some := worker.ids():
        taken += some
    assert sorted(taken, key=int) == [f"{i}" for i in range(n)]


@pytest.mark.parametrize("name", ["a b", "{x}", "*", "ü" * 60, "é\N{SNOWMAN}", "app.tasks.add:1", "%d+", "50%"])
def test_limits_may_have_any_name(name: str, worker: Worker) -> None:
    turn(worker, "a", bucket=name)
    turn(worker, "b", bucket=f"{name}|5us", delay_ms=70_000)
    assert recall(worker.broker, f"{name}x") == 0
    assert recall(worker.broker, name) == 2
    assert worker.ids() == ["a", "b"]


def test_a_turn_that_was_recalled_and_given_anew_comes_at_its_time(worker: Worker) -> None:
    turn(worker, "a")
    assert recall(worker.broker) == 1
    (one,) = worker.fetch()
    worker.settle(one.settled(RETRY, message=_core.remark(one.message, 0, True), delay_ms=1, detail=b"t|5us"))
    ids: list[str] = []
    while not ids:
        ids = worker.ids()
    assert ids == ["a"]
    assert recall(worker.broker) == 0, "it is held, and not delayed"
