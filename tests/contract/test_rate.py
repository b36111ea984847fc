"""Token buckets: turns are given out once, for the whole fleet, and never early."""

from __future__ import annotations

import itertools
import threading

import pytest

from fastq.transports import Broker
from tests.contract.conftest import DEADLINE_S, Transport, until

#: a period so long that no test waits for a turn, us
LONG_US = 100_000_000


def close_to(delays: list[int], expected: list[int]) -> bool:
    """Say whether each delay is the expected one, less the time that the test has taken."""
    return len(delays) == len(expected) and all(
        want - DEADLINE_S * 1000 < delay <= want for delay, want in zip(delays, expected, strict=True)
    )


def test_turns_of_one_call_are_a_period_apart(broker: Broker) -> None:
    assert broker.reserve("b", 4, LONG_US, 1) == [0, 100_000, 200_000, 300_000]


def test_the_next_call_goes_on_where_the_last_one_ended(broker: Broker) -> None:
    assert broker.reserve("b", 2, LONG_US, 1) == [0, 100_000]
    assert close_to(broker.reserve("b", 2, LONG_US, 1), [200_000, 300_000])
    assert close_to(broker.reserve("b", 1, LONG_US, 1), [400_000])


def test_after_a_pause_a_burst_may_go_at_once(broker: Broker) -> None:
    assert broker.reserve("b", 5, LONG_US, 3) == [0, 0, 0, 100_000, 200_000]
    assert close_to(broker.reserve("b", 1, LONG_US, 3), [300_000])


def test_a_burst_may_be_taken_in_pieces(broker: Broker) -> None:
    assert [broker.reserve("b", 1, LONG_US, 3) for _ in range(3)] == [[0], [0], [0]]
    assert close_to(broker.reserve("b", 1, LONG_US, 3), [100_000])


def test_no_turns_change_nothing(broker: Broker) -> None:
    assert broker.reserve("b", 0, LONG_US, 1) == []
    assert broker.reserve("b", 1, LONG_US, 1) == [0]


def test_the_whole_fleet_shares_a_bucket(transport: Transport) -> None:
    one, two = transport.broker(), transport.broker()
    assert one.reserve("b", 3, LONG_US, 1) == [0, 100_000, 200_000]
    assert close_to(two.reserve("b", 2, LONG_US, 1), [300_000, 400_000])
    assert close_to(one.reserve("b", 1, LONG_US, 1), [500_000])


def test_calls_at_the_same_time_get_different_turns(transport: Transport) -> None:
    brokers = [transport.broker() for _ in range(4)]
    delays: list[list[int]] = []
    threads = [
        threading.Thread(target=lambda broker=broker: delays.extend(broker.reserve("b", 5, LONG_US, 1) for _ in range(5)))
        for broker in brokers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert close_to(sorted(itertools.chain(*delays)), [i * 100_000 for i in range(100)])


@pytest.mark.parametrize("name", ["a b", "{x}", "*", "ü" * 100, "é\N{SNOWMAN}", "app.tasks.add:1"])
def test_buckets_of_other_names_are_other_buckets(broker: Broker, name: str) -> None:
    assert broker.reserve("b", 3, LONG_US, 1)[-1] == 200_000
    assert broker.reserve(name, 2, LONG_US, 1) == [0, 100_000]
    assert close_to(broker.reserve("b", 1, LONG_US, 1), [300_000])


def test_a_bucket_is_no_queue(broker: Broker, transport: Transport) -> None:
    broker.reserve("only a bucket", 3, LONG_US, 1)
    assert transport.inspector().queues() == []


def test_a_turn_is_never_early_and_no_millisecond_late(broker: Broker) -> None:
    for bucket, period_us in enumerate((100, 333, 1_000, 1_500, 16_667)):
        delays = broker.reserve(f"b{bucket}", 25, period_us, 1)
        assert all(0 <= delay * 1000 - i * period_us < 1000 for i, delay in enumerate(delays)), (period_us, delays)


def test_turns_come_back_with_time(broker: Broker) -> None:
    assert broker.reserve("b", 4, 20_000, 2) == [0, 0, 20, 40]
    # With a short period, so that looking takes next to nothing of it.
    until(lambda: broker.reserve("b", 1, 1_000, 2) == [0], "a turn")


def test_a_bucket_at_rest_gives_no_more_than_its_burst(broker: Broker) -> None:
    broker.reserve("b", 2, 1_000, 2)
    until(lambda: broker.reserve("b", 1, 1_000, 3) == [0], "a rested bucket")
    delays = broker.reserve("b", 5, LONG_US, 2)
    assert delays.count(0) <= 2
    assert all(later - earlier == 100_000 for earlier, later in itertools.pairwise(delays[2:]))


def test_a_great_many_turns_take_one_call(broker: Broker) -> None:
    delays = broker.reserve("b", 5_000, 1_000_000, 10)
    assert delays[:10] == [0] * 10
    assert delays[10:] == [1_000 * i for i in range(1, 4_991)]
