"""Messages for later wait in the broker."""

from __future__ import annotations

from collections.abc import Callable

from fastq.records import RETRY, Publication
from fastq.transports import Broker
from tests.contract.conftest import LEASE_MS, Transport, Worker, asleep, envelope, publication, until, woken

Publish = Callable[..., None]


def test_a_delayed_message_comes_when_it_is_due(publish: Publish, worker: Worker, transport: Transport) -> None:
    publish("a", delay_ms=50)
    assert worker.ids() == []
    assert transport.inspector().depth("q") == {"ready": 0, "delayed": 1, "leased": 0, "dead": 0}
    assert until(worker.ids) == ["a"]


def test_it_never_comes_early(broker: Broker, worker: Worker) -> None:
    due_ms = broker.now_ms() + 60
    broker.publish("p", 1, [publication("a", due_ms=due_ms)])
    looks = []
    until(lambda: looks.append(worker.look()) or looks[-1].leased)
    assert looks[-1].now_ms >= due_ms


def test_what_is_due_already_is_ready(broker: Broker, worker: Worker) -> None:
    broker.publish("p", 1, [publication("past", due_ms=broker.now_ms() - 10_000), publication("none", delay_ms=0)])
    assert sorted(worker.ids()) == ["none", "past"]


def test_delayed_messages_come_in_order_of_their_due_time(broker: Broker, worker: Worker) -> None:
    due_ms = broker.now_ms() + 60
    broker.publish("p", 1, [publication(str(i), due_ms=due_ms - i) for i in range(5)])
    until(lambda: broker.now_ms() > due_ms + 1)
    assert worker.ids() == ["4", "3", "2", "1", "0"]


def test_a_delayed_message_keeps_its_level(broker: Broker, worker: Worker) -> None:
    due_ms = broker.now_ms() + 40
    broker.publish("p", 1, [publication("low", due_ms=due_ms), publication("high", level=9, due_ms=due_ms)])
    until(lambda: broker.now_ms() > due_ms + 1)
    assert worker.ids() == ["high", "low"]


def test_identical_delayed_envelopes_both_survive(broker: Broker, transport: Transport, worker: Worker) -> None:
    due_ms = broker.now_ms() + 1_000  # all four are in by then, on the slowest machine too
    twin = Publication("q", envelope("twin"), due_ms=due_ms)
    broker.publish("p", 1, [twin, twin])
    broker.publish("p", 2, [twin])
    broker.publish("p2", 1, [twin])
    assert transport.inspector().depth("q")["delayed"] == 4
    until(lambda: broker.now_ms() > due_ms + 1)
    assert worker.ids() == ["twin"] * 4


def test_any_bytes_can_be_delayed(broker: Broker, worker: Worker) -> None:
    odd = [b"\x00\x01\x02", b"", b"\xff" * 300, bytes(range(256))]
    broker.publish("p", 1, [Publication("q", message, level=i, delay_ms=20) for i, message in enumerate(odd)])
    got: list[bytes] = []
    until(lambda: got.extend(one.message for one in worker.fetch()) or len(got) == len(odd))
    assert sorted(got) == sorted(odd)


def test_more_than_one_promotion_holds_come_over_several_fetches(broker: Broker, worker: Worker) -> None:
    due_ms = broker.now_ms() + 30
    broker.publish("p", 1, [publication(f"{i:03}", due_ms=due_ms + i // 50) for i in range(350)])
    got: list[str] = []
    until(lambda: got.extend(worker.ids(1_000)) or len(got) == 350)
    assert got == sorted(got)


def test_the_idle_are_told_when_the_next_message_is_due(broker: Broker, worker: Worker) -> None:
    assert worker.look().next_due_ms == 0
    due_ms = broker.now_ms() + 60_000
    broker.publish("p", 1, [publication("later", due_ms=due_ms + 5_000), publication("first", due_ms=due_ms)])
    assert worker.look().next_due_ms == due_ms


def test_one_keeps_the_time_for_all(broker: Broker, transport: Transport) -> None:
    due_ms = broker.now_ms() + 60_000
    broker.publish("p", 1, [publication("later", due_ms=due_ms)])
    workers = [transport.worker() for _ in range(3)]
    wakes = [worker.awake() for worker in workers]
    try:
        assert [worker.look().next_due_ms for worker in workers] == [due_ms, 0, 0]
    finally:
        for wake in wakes:
            wake.close()


def test_an_earlier_due_time_wakes_the_timekeeper(broker: Broker, transport: Transport) -> None:
    now_ms = broker.now_ms()
    broker.publish("p", 1, [publication("late", due_ms=now_ms + 60_000)])
    keeper, keeper_wake = transport.sleeper()
    _, other_wake = transport.sleeper()
    broker.publish("p", 2, [publication("later", due_ms=now_ms + 90_000)])
    assert asleep(keeper_wake) and asleep(other_wake), "a later one concerns nobody"
    broker.publish("p", 3, [publication("early", due_ms=now_ms + 30_000)])
    assert woken(keeper_wake)
    assert asleep(other_wake)
    assert keeper.look().next_due_ms == now_ms + 30_000


def test_the_first_delayed_message_wakes_somebody_to_keep_time(broker: Broker, transport: Transport) -> None:
    sleepers = [transport.sleeper() for _ in range(3)]
    due_ms = broker.now_ms() + 60_000
    broker.publish("p", 1, [publication("a", due_ms=due_ms)])
    awake = [worker for worker, wake in sleepers if not asleep(wake)]
    assert len(awake) == 1
    assert awake[0].look().next_due_ms == due_ms


def test_a_timekeeper_that_gets_work_hands_the_time_on(broker: Broker, transport: Transport) -> None:
    due_ms = broker.now_ms() + 60_000
    broker.publish("p", 1, [publication("later", due_ms=due_ms)])
    keeper, _ = transport.sleeper()
    other, other_wake = transport.sleeper()
    broker.publish("p", 2, [publication("now")])
    # The keeper is woken last, so the other one has the wake; it is the keeper that comes first.
    assert woken(other_wake)
    assert keeper.ids() == ["now"]
    assert other.look().next_due_ms == due_ms


def test_a_delayed_retry_is_kept_time_for(broker: Broker, transport: Transport) -> None:
    busy = transport.worker()
    broker.publish("p", 1, [publication("a")])
    (a,) = busy.fetch()
    sleeper, wake = transport.sleeper()
    busy.settle(a.settled(RETRY, message=envelope("a"), delay_ms=60_000))
    assert woken(wake)
    assert sleeper.look().next_due_ms > 0


def test_renewing_promotes_what_is_due_and_wakes(broker: Broker, transport: Transport) -> None:
    due_ms = broker.now_ms() + 60
    sleepers = [transport.sleeper() for _ in range(2)]
    broker.publish("p", 1, [publication("a", due_ms=due_ms)])
    # One was woken to keep the time, and dies before it looks.
    ((worker, wake),) = [(worker, wake) for worker, wake in sleepers if asleep(wake)]
    until(lambda: broker.now_ms() > due_ms + 1)
    transport.broker().renew(["q"], [], LEASE_MS)
    assert woken(wake)
    assert transport.inspector().depth("q")["ready"] == 1
    assert worker.ids() == ["a"]
