"""What pausing promises: of a paused queue nothing is taken and nobody is woken; what is parked waits unchanged and comes back."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from fastq import _core
from fastq.records import RETRY, RETURN, Lease, Paused, Publication, Settlement
from fastq.transports import Broker, TransportOptions, open_examiner
from fastq.transports.base import PARKED_MS, Scope
from tests.contract.conftest import Held, Transport, Worker, asleep, envelope, publication, until, woken

Publish = Callable[..., None]


def named(id: str, task: str = "task", level: int = 0, queue: str = "q") -> Publication:
    message = _core.encode(id, task, "application/x-msgpack", b"\x92\x90\x80", 0, None, 0, None, None)
    return Publication(queue, message, level)


def parked(held: Held, task: str = "task") -> Settlement:
    return held.settled(RETURN, reason=task)


def put_back(broker: Broker) -> int:
    """Do what a client does after it has resumed; return how many steps it took."""
    steps = 1
    while broker.unpark():
        steps += 1
    return steps


# --- the record ---


def test_what_is_paused_is_a_record_that_every_broker_reads(broker: Broker, transport: Transport) -> None:
    assert broker.paused().number == 0 and not broker.paused().queues
    before_ms = broker.now_ms()
    first = broker.pause(queues=["q", "r"], tasks=["a.b"])
    assert first.number > 0
    assert set(first.queues) == {"q", "r"} and set(first.tasks) == {"a.b"}
    assert all(abs(since - before_ms) < 60_000 for since in (*first.queues.values(), *first.tasks.values()))
    assert transport.broker().paused() == first
    again = broker.pause(queues=["q"])
    assert again.number > first.number and again.queues == first.queues, "once is enough"
    left = broker.resume(queues=["r"], tasks=["a.b", "nothing"])
    assert left.number > again.number
    assert set(left.queues) == {"q"} and not left.tasks
    assert broker.resume(queues=["q"]) == broker.paused()
    assert broker.paused().number == 0


def test_no_two_pauses_have_the_same_number(broker: Broker) -> None:
    numbers = []
    for _ in range(50):
        numbers.append(broker.pause(tasks=["a"]).number)
        broker.resume(tasks=["a"])
    assert sorted(set(numbers)) == numbers


def test_every_fetch_tells_the_number_of_the_last_change(broker: Broker, transport: Transport, publish: Publish) -> None:
    worker = transport.worker("q", "r")
    assert worker.look().pauses == 0
    first = broker.pause(tasks=["a"]).number
    publish("x")
    fetched = worker.look()
    assert [len(leased.tags) for leased in fetched.leased] == [1] and fetched.pauses == first
    assert worker.look(number=worker.number).pauses == first
    assert worker.look(0).pauses == first
    second = broker.pause(queues=["r"]).number
    assert worker.look().pauses == second > first
    broker.resume(queues=["r"], tasks=["a"])
    assert worker.look().pauses == 0


# --- queues ---


def test_nothing_is_taken_from_a_paused_queue(broker: Broker, worker: Worker, publish: Publish) -> None:
    publish("a", "b", level=3)
    broker.pause(queues=["q"])
    assert worker.ids() == []
    publish("c")
    assert worker.ids() == []
    broker.resume(queues=["q"])
    assert worker.ids() == ["a", "b", "c"]


def test_other_queues_are_taken_from(broker: Broker, transport: Transport, publish: Publish) -> None:
    worker = transport.worker("q", "r", "s")
    publish("a")
    publish("b", queue="r")
    broker.pause(queues=["q"])
    assert worker.ids() == ["b"]
    _, sleeping = transport.sleeper("q", "r")
    publish("c", queue="r")
    assert woken(sleeping)


def test_what_comes_to_a_paused_queue_wakes_nobody(broker: Broker, transport: Transport, publish: Publish) -> None:
    _, before = transport.sleeper()
    broker.pause(queues=["q"])
    worker, after = transport.sleeper()
    publish("a", "b")
    publish("late", delay_ms=1)
    broker.renew(["q"], [worker.process], 15_000)
    assert asleep(before) and asleep(after)
    broker.resume(queues=["q"])
    assert woken(before) and woken(after), "whoever holds a lease there looks"
    assert set(worker.ids()) >= {"a"}


def test_a_process_that_slept_through_a_pause_is_woken_by_what_comes_later(
    broker: Broker, transport: Transport, publish: Publish
) -> None:
    broker.pause(queues=["q"])
    worker, wake = transport.sleeper()
    broker.resume(queues=["q"])
    assert woken(wake)
    assert worker.fetch() == []
    publish("a")
    assert woken(wake)
    assert worker.ids() == ["a"]


def test_due_times_of_a_paused_queue_are_not_waited_for_and_come_all_the_same(
    broker: Broker, transport: Transport, worker: Worker, publish: Publish
) -> None:
    publish("late", delay_ms=30)
    broker.pause(queues=["q"])
    assert worker.look().next_due_ms == 0
    inspector = transport.inspector()

    def due() -> bool:
        assert worker.ids() == []
        return inspector.depth("q")["ready"] == 1

    until(due, "the promotion")
    broker.resume(queues=["q"])
    assert worker.ids() == ["late"]


def test_what_is_leased_is_settled_and_given_back_as_ever(broker: Broker, worker: Worker, publish: Publish) -> None:
    publish("a", "b", "c")
    a, b, c = worker.fetch()
    broker.pause(queues=["q"])
    settled = worker.settle(a.settled(), b.settled(RETURN), c.settled(RETRY, message=c.message), fetch=worker.ask())
    assert not settled.skipped and settled.fetched is not None and not settled.fetched.leased
    broker.resume(queues=["q"])
    assert worker.ids() == ["b", "c"]


def test_a_repeated_call_returns_what_it_leased_before_the_pause(broker: Broker, worker: Worker, publish: Publish) -> None:
    publish("a", "b")
    assert worker.ids() == ["a", "b"]
    broker.pause(queues=["q"])
    assert worker.ids(number=worker.number) == ["a", "b"]
    assert worker.ids() == []


def test_dead_processes_are_reaped_on_a_paused_queue(broker: Broker, transport: Transport, publish: Publish) -> None:
    worker = transport.worker()
    publish("a", "b")
    worker.fetch()
    broker.pause(queues=["q"])
    broker.condemn([Lease("q", worker.process, "")])
    assert broker.release("q", worker.process, {}) == 2
    other = transport.worker()
    assert other.ids() == []
    broker.resume(queues=["q"])
    assert other.ids() == ["a", "b"]


# --- task names ---


def park_all(worker: Worker, task: str = "task") -> int:
    """Do what a worker does that meets paused names only; return how many."""
    count = 0
    while held := worker.fetch(1000):
        worker.settle(*[parked(one, task) for one in held])
        count += len(held)
    return count


def test_a_resume_that_was_cut_off_is_finished_by_whoever_comes_and_nothing_younger_gets_ahead(
    broker: Broker, transport: Transport, worker: Worker, publish: Publish
) -> None:
    publish(*[named(f"t{i}") for i in range(2500)], *[named(f"u{i}", level=5) for i in range(100)])
    broker.pause(tasks=["task"])
    assert park_all(worker) == 2600
    publish(named("younger"), publication("other"), publication("elsewhere", queue="r"))
    assert broker.paused().held == frozenset()
    resumed = broker.resume(tasks=["task"])
    assert resumed.resuming.keys() == {"task"} and resumed.held == {"q"} and not resumed.tasks
    if transport.name != "memory":  # which does it in one step
        assert broker.unpark()  # here its client died
    assert worker.fetch() == [], "nothing is taken out of order"
    assert transport.worker("q", "r").ids() == ["elsewhere"], "other queues go on"
    _, wake = transport.sleeper()
    publish(named("youngest"))
    assert asleep(wake), "what comes meanwhile wakes nobody for nothing"
    put_back(transport.broker())
    assert woken(wake) and broker.paused() == Paused()
    expected = [*[f"u{i}" for i in range(100)], *[f"t{i}" for i in range(2500)], "younger", "other", "youngest"]
    got: list[str] = []
    while more := worker.ids(1000):
        got += more
    assert got == expected


def test_a_name_that_is_paused_again_stays_where_it_is_and_holds_nobody_up(
    broker: Broker, transport: Transport, worker: Worker, publish: Publish
) -> None:
    publish(*[named(f"t{i}") for i in range(2500)])
    broker.pause(tasks=["task"])
    park_all(worker)
    broker.resume(tasks=["task"])
    broker.unpark()
    again = broker.pause(tasks=["task"])
    assert not again.resuming
    put_back(broker)
    assert not broker.paused().held
    if transport.name != "memory":
        assert 0 < park_all(worker) < 2500, "what had come back is put aside again"
    broker.resume(tasks=["task"])
    put_back(broker)
    got: list[str] = []
    while more := worker.ids(1000):
        got += more
    assert got == [f"t{i}" for i in range(2500)], "in their order"


def test_what_a_lost_record_has_left_parked_can_be_put_back(
    broker: Broker, transport: Transport, worker: Worker, publish: Publish
) -> None:
    publish(named("a"), named("b"))
    broker.pause(tasks=["task"])
    park_all(worker)
    if transport.name == "redis":
        import redis

        with redis.Redis.from_url(transport.url) as client:
            client.delete("fastq:paused")
    broker.resume(tasks=["task"], lost=["q"])
    put_back(broker)
    assert worker.ids() == ["a", "b"] and broker.paused() == Paused()


def test_what_is_parked_is_not_taken_and_comes_back_in_its_order(
    broker: Broker, transport: Transport, worker: Worker, publish: Publish
) -> None:
    inspector = transport.inspector()
    publish(*[named(f"t{i}") for i in range(25)], *[named(f"u{i}", level=5) for i in range(5)])
    broker.pause(tasks=["task"])
    for n in (3, 7, 100):
        held = worker.fetch(n)
        assert not worker.settle(*[parked(one) for one in held]).skipped
    assert worker.look().next_due_ms == 0, "nobody waits for what is parked"
    assert inspector.depth("q") == {"ready": 0, "delayed": 30, "leased": 0, "dead": 0}
    assert inspector.parked("q") == {"task": 30}
    publish(named("new"))
    broker.resume(tasks=["task"])
    put_back(broker)
    assert worker.ids() == [*[f"u{i}" for i in range(5)], *[f"t{i}" for i in range(25)], "new"]


def test_only_the_named_come_back(broker: Broker, transport: Transport, worker: Worker, publish: Publish) -> None:
    inspector = transport.inspector()
    publish(*[named(f"{'ab'[i % 2]}{i}", "ab"[i % 2]) for i in range(1500)])
    broker.pause(tasks=["a", "b"])
    while held := worker.fetch(1000):
        worker.settle(*[parked(one, one.id[0]) for one in held])
    assert inspector.parked("q") == {"a": 750, "b": 750}
    broker.resume(tasks=["b"])
    put_back(broker)
    assert worker.ids(1000) == [f"b{i}" for i in range(1, 1500, 2)]
    assert inspector.parked("q") == {"a": 750}


def test_who_comes_late_with_an_old_pause_parks_nothing(
    broker: Broker, transport: Transport, worker: Worker, publish: Publish
) -> None:
    publish(named("x"), named("a"), named("b"), named("c"))
    broker.pause(tasks=["task"])
    x, *held = worker.fetch()
    worker.settle(parked(x))
    broker.resume(tasks=["task"])
    put_back(broker)
    assert transport.worker().ids() == ["x"]
    sleeper, wake = transport.sleeper()
    worker.settle(*[parked(one) for one in held])
    assert woken(wake)
    assert transport.inspector().parked("q") == {}
    assert sleeper.ids() == ["a", "b", "c"], "in their order, at the head"


def test_a_lost_reply_to_parking_changes_nothing_twice(
    broker: Broker, worker: Worker, transport: Transport, publish: Publish
) -> None:
    publish(named("a"))
    broker.pause(tasks=["task"])
    (held,) = worker.fetch()
    assert worker.settle(parked(held)).skipped == ()
    assert worker.settle(parked(held)).skipped == (held.tag,)
    assert transport.inspector().parked("q") == {"task": 1}


def test_parking_charges_nothing_and_keeps_the_mark(broker: Broker, worker: Worker, transport: Transport, publish: Publish) -> None:
    message = envelope("a", charged=1, paid=True)
    publish(Publication("q", message, 7))
    broker.pause(tasks=["task"])
    (held,) = worker.fetch()
    worker.settle(parked(held))
    broker.resume(tasks=["task"])
    put_back(broker)
    publish("below", level=6)
    (again, below) = worker.fetch()
    assert (again.message, below.id) == (message, "below")


def test_what_is_parked_wakes_whoever_is_idle_when_it_comes_back(
    broker: Broker, transport: Transport, worker: Worker, publish: Publish
) -> None:
    publish(named("a"))
    broker.pause(tasks=["task"])
    (held,) = worker.fetch()
    _, wake = transport.sleeper()
    worker.settle(parked(held))
    assert asleep(wake)
    broker.resume(tasks=["task"])
    assert asleep(wake)
    put_back(broker)
    assert woken(wake)


def test_what_is_due_is_not_hidden_by_what_is_parked(
    broker: Broker, transport: Transport, worker: Worker, publish: Publish
) -> None:
    publish(named("a"))
    broker.pause(tasks=["task"])
    (held,) = worker.fetch()
    worker.settle(parked(held))
    publish("late", delay_ms=60_000)
    assert worker.look().next_due_ms > 0
    publish("soon", delay_ms=20)
    assert until(worker.ids, "the due message") == ["soon"]
    assert [due for due, _, _ in transport.inspector().delayed("q", 10) if due >= PARKED_MS]


def test_purging_and_revoking_find_what_is_parked(broker: Broker, transport: Transport, worker: Worker, publish: Publish) -> None:
    inspector = transport.inspector()
    publish(named("a"), named("b"), named("c"))
    broker.pause(tasks=["task"])
    worker.settle(*[parked(one) for one in worker.fetch()])
    broker.revoke(["b"], 60)
    assert inspector.revoke_waiting("q", ["b"]).ended == {"b"}
    assert inspector.purge("q") == 2
    assert inspector.parked("q") == {}


@pytest.mark.parametrize("seed", range(3))
def test_pausing_at_random_loses_and_doubles_nothing(broker: Broker, transport: Transport, publish: Publish, seed: int) -> None:
    rng = random.Random(seed)
    inspector = transport.inspector()
    workers = [transport.worker("q", "r") for _ in range(3)]
    held: list[tuple[Worker, Held]] = []
    sent = done = 0
    for _ in range(150):
        match rng.randrange(7):
            case 0:
                new = range(sent, sent + rng.randrange(6))
                some = [named(str(i), rng.choice("ab"), rng.choice([0, 4]), rng.choice("qr")) for i in new]
                publish(*some)
                sent += len(some)
            case 1:
                broker.pause(queues=rng.sample("qr", rng.randrange(2)), tasks=rng.sample("ab", rng.randrange(2)))
            case 2:
                names = rng.sample("ab", rng.randrange(3))
                broker.resume(queues=rng.sample("qr", rng.randrange(2)), tasks=names)
                if rng.random() < 0.7:  # else somebody else does it, later
                    put_back(broker)
            case 3 | 4:
                worker = rng.choice(workers)
                paused = broker.paused()
                got = worker.fetch(rng.randrange(1, 5))
                assert not any(paused.rests(one.queue) for one in got)
                held += [(worker, one) for one in got]
            case _:
                rng.shuffle(held)
                for worker, one in held[:3]:
                    name = _core.peek(one.message).name
                    done += (ends := rng.random() < 0.5)
                    settlement = one.settled() if ends else one.settled(RETURN, reason=name)
                    assert not worker.settle(settlement).skipped
                del held[:3]
    broker.resume(queues=["q", "r"], tasks=["a", "b"])
    put_back(broker)
    assert all(not inspector.parked(queue) for queue in "qr") and broker.paused() == Paused()
    seen = [one.id for _, one in held]
    for worker in workers:
        while more := worker.ids():
            seen += more
    assert len(seen) == len(set(seen)) == sent - done


def test_signals_of_revocations_are_told_from_any_number_on(broker: Broker, transport: Transport) -> None:
    plain = broker.revoke(["a"], 60)
    assert broker.terminated() == (0, {})
    first = broker.revoke(["a", "b"], 60, signal="SIGTERM")
    assert first > plain
    other = transport.broker()
    assert other.terminated() == (first, {"a": "SIGTERM", "b": "SIGTERM"})
    second = broker.revoke(["b"], 60, signal="SIGKILL")
    assert other.terminated(first) == (second, {"b": "SIGKILL"})
    assert other.terminated() == (second, {"a": "SIGTERM", "b": "SIGKILL"})
    assert other.terminated(second) == (second, {})
    assert other.revoked() == (second, ["a", "b"])
    broker.revoke(["c"], 1, signal="SIGTERM")
    worker = transport.worker()
    broker.revoke(["d"], 1, signal="SIGTERM")

    def forgotten() -> bool:
        broker.revoke(["e"], 1)
        broker.renew(["q"], [worker.process], 15_000)
        return "d" not in broker.terminated()[1]

    if transport.name != "redis":  # there all of them are kept as long as the longest; a node asks for news only
        until(forgotten, "the end of a revocation")


def test_publications_of_other_levels_keep_their_order_around_a_pause(broker: Broker, worker: Worker, publish: Publish) -> None:
    publish("low")
    publish(publication("high", level=9))
    broker.pause(queues=["q"])
    broker.resume(queues=["q"])
    assert worker.ids() == ["high", "low"]


def test_the_doctor_notes_what_rests_and_warns_of_what_a_resume_has_left(
    broker: Broker, transport: Transport, worker: Worker, publish: Publish
) -> None:
    if transport.name == "memory":
        return  # it has no doctor
    publish(named("a"), named("b"))
    broker.pause(queues=["r"], tasks=["task"])
    worker.settle(*[parked(one) for one in worker.fetch()])

    def said() -> list[tuple[str, str, str]]:
        examiner = open_examiner(transport.url, TransportOptions(), Scope())
        transport.opened.append(examiner)
        return sorted(
            (f.level, f.code, f.subject) for f in examiner.examine() if {"parked", "paused", "resuming"} & {*f.code.split("-")}
        )

    assert said() == [("note", "paused-queue", "r"), ("note", "paused-task", "task")]
    broker.resume(queues=["r"], tasks=["task"])
    assert said() == [("note", "resuming-task", "task")]
    put_back(broker)
    assert said() == []
