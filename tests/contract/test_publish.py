"""What a publish promises: kept once, in order, by priority."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fastq.records import DONE, Publication
from fastq.transports import Broker
from tests.contract.conftest import Transport, Worker, envelope, publication

Publish = Callable[..., None]


def test_what_was_published_is_fetched_as_it_was(publish: Publish, worker: Worker) -> None:
    publish("a")
    (one,) = worker.fetch()
    assert (one.queue, one.message) == ("q", envelope("a"))


def test_any_bytes_are_a_message(publish: Publish, worker: Worker) -> None:
    odd = [b"\x00", b"not an envelope", bytes(range(256)), b"\xc1", "ü".encode(), b"\xff\xfe"]
    publish(*(Publication("q", message) for message in odd))
    assert [one.message for one in worker.fetch()] == odd


def test_a_repeated_number_keeps_nothing_twice(broker: Broker, worker: Worker) -> None:
    for _ in range(3):
        broker.publish("p", 7, [publication("a"), publication("b")])
    assert worker.ids() == ["a", "b"]
    broker.publish("p", 7, [publication("a"), publication("b")])
    assert worker.ids() == []


def test_a_late_original_of_an_older_number_keeps_nothing(broker: Broker, worker: Worker) -> None:
    broker.publish("p", 1, [publication("a")])
    broker.publish("p", 2, [publication("b")])
    broker.publish("p", 1, [publication("a")])
    assert worker.ids() == ["a", "b"]


def test_numbers_belong_to_their_producer(broker: Broker, worker: Worker) -> None:
    broker.publish("p", 1, [publication("a")])
    broker.publish("other", 1, [publication("b")])
    assert worker.ids() == ["a", "b"]


def test_a_repeat_through_another_connection_is_recognised(transport: Transport, worker: Worker) -> None:
    for _ in range(2):
        transport.broker().publish("p", 1, [publication("a"), publication("b", "other"), publication("c", delay_ms=1)])
    elsewhere = transport.worker("other")
    assert elsewhere.ids() == ["b"]
    assert transport.inspector().depth("other")["ready"] == 0
    depth = transport.inspector().depth("q")
    assert depth["ready"] + depth["delayed"] == 2


def test_a_repeated_call_of_several_parts_keeps_nothing_twice(broker: Broker, transport: Transport) -> None:
    many = [publication(str(i), "q" if i % 2 else "other") for i in range(2_500)]
    for _ in range(2):
        broker.publish("p", 1, many)
    inspector = transport.inspector()
    assert [inspector.depth(queue)["ready"] for queue in ("q", "other")] == [1_250, 1_250]


def test_publishing_nothing_is_harmless(broker: Broker, worker: Worker) -> None:
    broker.publish("p", 1, [])
    assert worker.ids() == []


def test_first_in_first_out(publish: Publish, worker: Worker) -> None:
    publish(*(f"a{i}" for i in range(5)))
    publish(*(f"b{i}" for i in range(5)))
    assert worker.ids(3) + worker.ids(3) + worker.ids() == [f"a{i}" for i in range(5)] + [f"b{i}" for i in range(5)]


def test_priority_is_strict_and_higher_goes_first(publish: Publish, worker: Worker) -> None:
    for level in (0, 9, 3, 5, 1, 8, 2, 7, 4, 6):
        publish(f"{level} first", f"{level} second", level=level)
    expected = [f"{level} {place}" for level in range(9, -1, -1) for place in ("first", "second")]
    assert worker.ids(7) + worker.ids() == expected


def test_priority_holds_within_one_call(publish: Publish, worker: Worker) -> None:
    publish(publication("low"), publication("high", level=9), publication("low too"), publication("high too", level=9))
    assert worker.ids() == ["high", "high too", "low", "low too"]


def test_an_urgent_message_overtakes_what_waits(publish: Publish, worker: Worker) -> None:
    publish("a", "b")
    assert worker.ids(1) == ["a"]
    publish("urgent", level=9)
    assert worker.ids() == ["urgent", "b"]


def test_one_id_queued_twice_is_two_deliveries(publish: Publish, worker: Worker, transport: Transport) -> None:
    publish("twin")
    publish("twin")
    one, two = worker.fetch()
    assert one.tag != two.tag and one.id == two.id == "twin"
    assert worker.settle(one.settled(DONE)).skipped == ()
    assert transport.inspector().depth("q")["leased"] == 1
    assert worker.settle(two.settled(DONE)).skipped == ()
    assert transport.inspector().depth("q")["leased"] == 0


@pytest.mark.parametrize("queue", ["with space", "ünïcödé", "a:b{c}", "*", "x" * 200, "'; DROP TABLE ready; --"])
def test_a_queue_may_have_any_name(publish: Publish, transport: Transport, queue: str) -> None:
    publish("a", queue=queue)
    publish("b", queue="q")
    assert transport.worker(queue).ids() == ["a"]
    assert queue in transport.inspector().queues()


def test_a_task_may_have_any_id(publish: Publish, worker: Worker) -> None:
    names = ["x", "ü" * 60, "a b", "1", "0", "-1", "{}", "%s", '"', "\n", "é\u0000ñ"]
    publish(*names)
    assert worker.ids() == names


def test_thousands_of_messages_go_in_one_call_and_keep_their_order(publish: Publish, worker: Worker) -> None:
    names = [f"{i:05}" for i in range(3_500)]
    publish(*names)
    got: list[str] = []
    while some := worker.ids(1_000):
        got += some
    assert got == names


def test_a_message_may_be_larger_than_a_mebibyte(publish: Publish, worker: Worker) -> None:
    large = [Publication("q", envelope(f"large {i}", size=1_500_000)) for i in range(3)]
    publish("before", *large, "after")
    got: list[bytes] = []
    while some := worker.fetch(100):
        assert sum(len(one.message) for one in some) <= 1_048_576 or len(some) == 1
        got += [one.message for one in some]
    assert got == [envelope("before"), *(one.message for one in large), envelope("after")]


def test_a_fetch_takes_about_a_mebibyte(publish: Publish, worker: Worker) -> None:
    publish(*(Publication("q", envelope(str(i), size=100_000)) for i in range(30)))
    got: list[str] = []
    while some := worker.fetch(1_000):
        assert 1 <= len(some) <= 11
        got += [one.id for one in some]
    assert got == [str(i) for i in range(30)]


def test_the_brokers_clock_goes_with_every_answer(broker: Broker, worker: Worker) -> None:
    before = broker.now_ms()
    now_ms = worker.look().now_ms
    after = broker.now_ms()
    assert before - 50 <= now_ms <= after + 50
