"""Looking into queues, and cleaning them."""

from __future__ import annotations

from collections.abc import Callable

from fastq import _core
from fastq.records import DEAD, Lease, Publication
from tests.contract.conftest import Transport, Worker, asleep, envelope, ids

Publish = Callable[..., None]


def bury(publish: Publish, worker: Worker, *names: str, level: int = 0) -> None:
    for id in names:
        publish(id, level=level)
        (one,) = worker.fetch()
        worker.settle(one.settled(DEAD, reason=f"reason of {id}", detail=_core.packb({"name": "task", "error": id})))


def test_depth_counts_by_place(publish: Publish, worker: Worker, transport: Transport) -> None:
    inspector = transport.inspector()
    assert inspector.depth("q") == {"ready": 0, "delayed": 0, "leased": 0, "dead": 0}
    bury(publish, worker, "dead")
    publish("a", "b", "c")
    publish("high", level=9)
    publish("later", "later too", delay_ms=60_000)
    worker.fetch(1)
    assert inspector.depth("q") == {"ready": 3, "delayed": 2, "leased": 1, "dead": 1}


def test_queues_that_hold_or_held_something_are_listed(publish: Publish, transport: Transport) -> None:
    publish("a", queue="one")
    publish("b", queue="two", delay_ms=60_000)
    publish("c", queue="three", level=9)
    assert set(transport.inspector().queues()) >= {"one", "two", "three"}


def test_peek_shows_the_order_and_takes_nothing(publish: Publish, worker: Worker, transport: Transport) -> None:
    inspector = transport.inspector()
    assert inspector.peek("q", 10) == []
    publish("low", "low too")
    publish("high", level=9)
    publish("later", delay_ms=60_000)
    assert ids(inspector.peek("q", 2)) == ["high", "low"]
    assert ids(inspector.peek("q", 10)) == ["high", "low", "low too"]
    assert worker.ids() == ["high", "low", "low too"]


def test_delayed_shows_what_is_due_next_and_takes_nothing(publish: Publish, worker: Worker, transport: Transport) -> None:
    inspector = transport.inspector()
    assert inspector.delayed("q", 10) == []
    now_ms = transport.broker().now_ms()
    publish("late", "late too", delay_ms=90_000)
    publish("soon", delay_ms=60_000, level=7)
    publish("ready")
    found = inspector.delayed("q", 10)
    assert ids([message for _, _, message in found]) == ["soon", "late", "late too"]
    assert [level for _, level, _ in found] == [7, 0, 0]
    assert 59_000 < found[0][0] - now_ms < 70_000 < 89_000 < found[1][0] - now_ms < 100_000
    assert ids([message for *_, message in inspector.delayed("q", 1, 1)]) == ["late"]
    assert inspector.delayed("q", 10, 3) == [] and inspector.delayed("q", 0) == []
    assert inspector.depth("q")["delayed"] == 3 and worker.ids() == ["ready"]


def test_purge_drops_what_waits_and_leaves_what_runs(publish: Publish, worker: Worker, transport: Transport) -> None:
    inspector = transport.inspector()
    publish("running")
    (running,) = worker.fetch()
    bury(publish, worker, "dead")
    publish("a", "b")
    publish("high", level=9)
    publish("later", delay_ms=60_000)
    publish("elsewhere", queue="other")
    assert inspector.purge("q") == 4
    assert inspector.depth("q") == {"ready": 0, "delayed": 0, "leased": 1, "dead": 1}
    assert inspector.depth("other")["ready"] == 1
    assert worker.settle(running.settled()).skipped == ()
    publish("after")
    assert worker.ids() == ["after"]
    assert inspector.purge("q") == 0


def test_purging_an_unknown_queue_is_harmless(transport: Transport) -> None:
    inspector = transport.inspector()
    assert inspector.purge("never") == 0
    assert inspector.peek("never", 5) == []
    assert inspector.dead("never") == []
    assert inspector.depth("never")["ready"] == 0


def test_dead_letters_are_listed_newest_first(publish: Publish, worker: Worker, transport: Transport) -> None:
    bury(publish, worker, "a", "b", "c")
    inspector = transport.inspector()
    letters = inspector.dead("q")
    assert ids([letter.message for letter in letters]) == ["c", "b", "a"]
    assert [letter.reason for letter in letters] == ["reason of c", "reason of b", "reason of a"]
    assert letters[0].detail == {"name": "task", "error": "c"}
    assert len({letter.key for letter in letters}) == 3
    assert ids([letter.message for letter in inspector.dead("q", limit=1, offset=1)]) == ["b"]
    assert inspector.dead("q", offset=3) == []


def test_one_id_can_die_twice(publish: Publish, worker: Worker, transport: Transport) -> None:
    bury(publish, worker, "twin", "twin")
    one, two = transport.inspector().dead("q")
    assert one.key != two.key
    assert transport.inspector().delete_dead("q", [one.key]) == 1
    assert [letter.key for letter in transport.inspector().dead("q")] == [two.key]


def test_retried_dead_letters_are_new_messages_at_the_tail(publish: Publish, worker: Worker, transport: Transport) -> None:
    publish(Publication("q", envelope("crashed", charged=2)))
    (crashed,) = worker.fetch()
    worker.settle(crashed.settled(DEAD, reason="worker-lost"))
    bury(publish, worker, "failed")
    publish("waits")
    inspector = transport.inspector()
    keys = [letter.key for letter in reversed(inspector.dead("q"))]
    assert inspector.retry_dead("q", keys) == 2
    assert inspector.depth("q") == {"ready": 3, "delayed": 0, "leased": 0, "dead": 0}
    assert [one.message for one in worker.fetch()] == [envelope("waits"), envelope("crashed"), envelope("failed")]


def test_a_retried_dead_letter_keeps_its_level(publish: Publish, worker: Worker, transport: Transport) -> None:
    bury(publish, worker, "urgent", level=9)
    publish("low")
    inspector = transport.inspector()
    assert inspector.retry_dead("q", [inspector.dead("q")[0].key]) == 1
    assert worker.ids() == ["urgent", "low"]


def test_keys_that_are_not_there_are_not_counted(publish: Publish, worker: Worker, transport: Transport) -> None:
    bury(publish, worker, "a", "b")
    inspector = transport.inspector()
    key = inspector.dead("q")[0].key
    assert inspector.retry_dead("q", [key, key, "no such key", "123456789"]) == 1
    assert inspector.delete_dead("q", [key, "no such key"]) == 0
    assert inspector.retry_dead("other", [inspector.dead("q")[0].key]) == 0
    assert inspector.depth("q")["dead"] == 1


def test_deleted_dead_letters_are_gone(publish: Publish, worker: Worker, transport: Transport) -> None:
    bury(publish, worker, "a", "b", "c")
    inspector = transport.inspector()
    keys = [letter.key for letter in inspector.dead("q")]
    assert inspector.delete_dead("q", iter(keys[:2])) == 2
    assert ids([letter.message for letter in inspector.dead("q")]) == ["a"]


def test_dead_letters_are_capped_the_oldest_go_first(publish: Publish, transport: Transport) -> None:
    worker = transport.worker(dead_letter_max=3)
    publish(*(str(i) for i in range(8)))
    worker.settle(*(one.settled(DEAD, reason="failed") for one in worker.fetch()))
    assert ids([letter.message for letter in transport.inspector().dead("q")]) == ["7", "6", "5"]
    bury(publish, worker, "8")
    assert ids([letter.message for letter in transport.inspector().dead("q")]) == ["8", "7", "6"]


def test_looking_wakes_nobody(publish: Publish, transport: Transport) -> None:
    _, wake = transport.sleeper()
    inspector = transport.inspector()
    inspector.depth("q"), inspector.peek("q", 5), inspector.dead("q"), inspector.queues(), inspector.purge("q")
    assert asleep(wake)


def test_listeners_are_the_processes_with_a_live_lease(transport: Transport, worker: Worker) -> None:
    inspector = transport.inspector()
    (before,) = inspector.listeners("q")
    broker = transport.broker()
    broker.renew(["q", "other"], ["second"], 15_000)
    assert sorted(inspector.listeners("q")) == sorted([before, "second"])
    assert inspector.listeners("other") == ["second"]
    assert inspector.listeners("nobody's") == []
    broker.condemn([Lease("q", "second", "")])
    assert inspector.listeners("q") == [before]
