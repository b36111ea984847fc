"""Who sleeps is woken when there is work, and nobody else."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fastq.exceptions import OperationalError
from fastq.records import DEAD, RETRY, RETURN, Lease
from fastq.transports import Broker
from tests.contract.conftest import LEASE_MS, Transport, asleep, envelope, woken

Publish = Callable[..., None]


def test_a_publish_wakes_an_idle_process(publish: Publish, transport: Transport) -> None:
    worker, wake = transport.sleeper()
    publish("a")
    assert woken(wake)
    assert worker.ids() == ["a"]
    assert asleep(wake)


@pytest.mark.parametrize("messages", [1, 2, 3, 5])
def test_a_publish_wakes_as_many_as_it_needs(publish: Publish, transport: Transport, messages: int) -> None:
    sleepers = [transport.sleeper() for _ in range(4)]
    publish(*(str(i) for i in range(messages)))
    awake = [worker for worker, wake in sleepers if not asleep(wake)]
    assert len(awake) == min(messages, 4)
    got = [id for worker in awake for id in worker.ids()]
    assert len(got) == messages, "and these take everything"


def test_the_busy_are_not_woken(publish: Publish, transport: Transport) -> None:
    busy = transport.worker()
    wake = busy.awake()
    transport.opened.append(wake)
    publish("a", "b")
    assert busy.ids(1) == ["a"]
    publish("c")
    assert asleep(wake)


def test_a_process_that_does_not_ask_to_be_woken_is_not(publish: Publish, transport: Transport) -> None:
    worker = transport.worker()
    wake = worker.awake()
    transport.opened.append(wake)
    assert worker.ids(idle=False) == []
    publish("a")
    assert asleep(wake)


def test_each_message_of_several_calls_finds_its_own_sleeper(publish: Publish, transport: Transport) -> None:
    sleepers = [transport.sleeper() for _ in range(3)]
    for id in "abc":
        publish(id)
    assert all(woken(wake) for _, wake in sleepers)
    assert sorted(id for worker, _ in sleepers for id in worker.ids(1)) == ["a", "b", "c"]


def test_a_process_sleeps_on_all_its_queues(publish: Publish, transport: Transport) -> None:
    worker, wake = transport.sleeper("one", "two")
    publish("a", queue="two")
    assert woken(wake)
    assert worker.ids() == ["a"]
    publish("b", queue="one")
    assert asleep(wake), "it found something, so it is not idle"


def test_other_queues_wake_nobody(publish: Publish, transport: Transport) -> None:
    _, wake = transport.sleeper("one")
    publish("a", queue="two")
    assert asleep(wake)


def test_who_is_gone_is_passed_over(publish: Publish, transport: Transport) -> None:
    gone = [transport.sleeper() for _ in range(2)]
    worker, wake = transport.sleeper()
    for _, lost in gone:
        lost.close()
    publish("a")
    assert woken(wake)
    assert worker.ids() == ["a"]


def test_the_baton_is_passed_when_a_fetch_leaves_work(publish: Publish, transport: Transport) -> None:
    taker = transport.worker()
    publish("a", "b", "c")
    sleepers = []
    first = taker.fetch()
    for _ in range(2):
        sleepers.append(transport.sleeper())
    taker.settle(*(one.settled(RETURN) for one in first))
    assert taker.ids(1) == ["a"]
    assert all(woken(wake) for _, wake in sleepers)


def test_giving_back_wakes(publish: Publish, transport: Transport) -> None:
    taker = transport.worker()
    publish("a", "b")
    a, b = taker.fetch()
    sleepers = [transport.sleeper() for _ in range(2)]
    taker.settle(b.settled(RETURN))
    awake = [worker for worker, wake in sleepers if not asleep(wake)]
    assert len(awake) == 1
    assert awake[0].ids() == ["b"]
    assert taker.settle(a.settled()).skipped == ()


def test_a_retry_without_delay_wakes(publish: Publish, transport: Transport) -> None:
    taker = transport.worker()
    publish("a")
    (a,) = taker.fetch()
    worker, wake = transport.sleeper()
    taker.settle(a.settled(RETRY, message=envelope("again")))
    assert woken(wake)
    assert worker.ids() == ["again"]


def test_releasing_wakes(publish: Publish, transport: Transport) -> None:
    lost = transport.worker()
    publish("a")
    lost.fetch()
    worker, wake = transport.sleeper()
    broker = transport.broker()
    broker.condemn([Lease("q", lost.process, "")])
    broker.release("q", lost.process, {})
    assert woken(wake)
    assert worker.ids() == ["a"]


def test_retrying_dead_letters_wakes(publish: Publish, transport: Transport) -> None:
    taker = transport.worker()
    publish("a")
    (a,) = taker.fetch()
    taker.settle(a.settled(DEAD, reason="failed"))
    worker, wake = transport.sleeper()
    inspector = transport.inspector()
    assert inspector.retry_dead("q", [inspector.dead("q")[0].key]) == 1
    assert woken(wake)
    assert worker.ids() == ["a"]


def test_renewing_finds_a_sleeper_for_work_whose_wake_was_lost(publish: Publish, transport: Transport) -> None:
    sleepers = [transport.sleeper() for _ in range(2)]
    publish("a")
    # One of them has taken the wake in, and dies before it looks.
    ((worker, wake),) = [(worker, wake) for worker, wake in sleepers if asleep(wake)]
    transport.broker().renew(["q"], [], LEASE_MS)
    assert woken(wake)
    assert worker.ids() == ["a"]


def test_a_wake_is_drained_once(publish: Publish, transport: Transport) -> None:
    _, wake = transport.sleeper()
    publish("a")
    assert woken(wake)
    assert not wake.drain()


def test_wakes_before_the_channel_was_open_are_not_waited_for(publish: Publish, transport: Transport) -> None:
    worker = transport.worker()
    assert worker.ids() == []
    publish("a")
    wake = worker.awake()
    transport.opened.append(wake)
    assert worker.ids() == ["a"], "that is why one fetches after opening"


def test_opening_again_keeps_the_channel_working(publish: Publish, transport: Transport) -> None:
    worker, wake = transport.sleeper()
    wake.open()
    assert worker.ids() == []
    publish("a")
    assert woken(wake)


def test_a_closed_channel_says_so(broker: Broker, transport: Transport) -> None:
    _, wake = transport.sleeper()
    wake.close()
    with pytest.raises(OperationalError):
        wake.fileno()
    wake.close()
