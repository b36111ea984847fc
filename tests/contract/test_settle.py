"""What settling promises: one verdict, once, with its result, or nothing at all."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fastq import _core
from fastq.exceptions import Fenced
from fastq.records import DEAD, DONE, RETRY, RETURN, Lease, Publication, Settlement
from fastq.transports import Broker
from tests.contract.conftest import LEASE_MS, Transport, Worker, envelope, ids, publication, record, until

Publish = Callable[..., None]


def depth(transport: Transport, queue: str = "q") -> tuple[int, int, int, int]:
    counts = transport.inspector().depth(queue)
    return counts["ready"], counts["delayed"], counts["leased"], counts["dead"]


def test_done_drops_the_message(publish: Publish, worker: Worker, transport: Transport) -> None:
    publish("a", "b")
    a, _ = worker.fetch()
    assert depth(transport) == (0, 0, 2, 0)
    assert worker.settle(a.settled(DONE)).skipped == ()
    assert depth(transport) == (0, 0, 1, 0)


def test_done_stores_its_result(publish: Publish, worker: Worker, transport: Transport) -> None:
    publish("a", "b")
    a, b = worker.fetch()
    worker.settle(a.settled(DONE, result=record()), b.settled(DONE))
    assert transport.backend().get(["a", "b"]) == [record(), None]


def test_results_kept_elsewhere_are_not_stored_here(publish: Publish, worker: Worker, transport: Transport) -> None:
    backend = transport.backend()
    inbox = transport.inbox(backend, "inbox")
    publish("a")
    (a,) = worker.fetch()
    worker.settle(a.settled(DONE, result=record(), inbox="inbox"), results=False)
    assert backend.get(["a"]) == [None]
    assert inbox.read(0.05) == []


def test_retry_replaces_the_message_at_the_tail_of_its_new_level(publish: Publish, worker: Worker) -> None:
    publish("a", "b", "waits")
    a, b = worker.fetch(2)
    worker.settle(a.settled(RETRY, message=envelope("a again")), b.settled(RETRY, message=envelope("b again"), level=5))
    assert [one.message for one in worker.fetch()] == [envelope("b again"), envelope("waits"), envelope("a again")]


def test_retry_waits_its_delay(publish: Publish, worker: Worker, transport: Transport) -> None:
    publish("a", "b")
    a, b = worker.fetch()
    worker.settle(
        a.settled(RETRY, message=envelope("later"), delay_ms=60_000), b.settled(RETRY, message=envelope("soon"), delay_ms=40)
    )
    assert worker.ids() == []
    assert depth(transport) == (0, 2, 0, 0)
    assert until(worker.ids) == ["soon"]
    assert depth(transport) == (0, 1, 1, 0)


def test_retry_keeps_its_level_over_the_delay(publish: Publish, worker: Worker) -> None:
    publish("a")
    (a,) = worker.fetch()
    worker.settle(a.settled(RETRY, message=envelope("again"), delay_ms=20, level=7))
    until(lambda: worker.broker.renew(["q"], [], LEASE_MS) is not None and transport_ready(worker))
    publish("urgent", level=8)
    publish("less", level=6)
    assert worker.ids() == ["urgent", "again", "less"]


def transport_ready(worker: Worker) -> bool:
    """Say whether the delayed message is ready, by taking it and putting it back."""
    one = worker.fetch(1, idle=False)
    if one:
        worker.settle(one[0].settled(RETURN))
    return bool(one)


def test_retry_may_store_its_state(publish: Publish, worker: Worker, transport: Transport) -> None:
    publish("a")
    (a,) = worker.fetch()
    worker.settle(a.settled(RETRY, message=envelope("a"), result=record("RETRY")))
    assert transport.backend().get(["a"]) == [record("RETRY")]
    (a,) = worker.fetch()
    worker.settle(a.settled(DONE, result=record("SUCCESS")))
    assert transport.backend().get(["a"]) == [record("SUCCESS")]


def test_dead_keeps_the_leased_message_with_its_reason(publish: Publish, worker: Worker, transport: Transport) -> None:
    publish("a")
    (a,) = worker.fetch()
    before = worker.broker.now_ms()
    detail = _core.packb({"name": "task", "error": "Boom", "deliveries": 2})
    worker.settle(a.settled(DEAD, reason="failed", detail=detail, result=record("FAILURE")))
    (letter,) = transport.inspector().dead("q")
    assert (letter.queue, letter.message, letter.reason) == ("q", envelope("a"), "failed")
    assert letter.detail == {"name": "task", "error": "Boom", "deliveries": 2}
    assert before - 50 <= letter.dead_ms <= worker.broker.now_ms() + 50
    assert transport.backend().get(["a"]) == [record("FAILURE")]
    assert depth(transport) == (0, 0, 0, 1)


def test_dead_may_bring_its_own_message(publish: Publish, worker: Worker, transport: Transport) -> None:
    publish("a")
    (a,) = worker.fetch()
    worker.settle(a.settled(DEAD, message=envelope("as it should be kept"), reason="expired"))
    (letter,) = transport.inspector().dead("q")
    assert (letter.message, letter.reason) == (envelope("as it should be kept"), "expired")


def test_undecodable_bytes_can_be_dead_letters(transport: Transport, broker: Broker, worker: Worker) -> None:
    garbage = b"\x93garbage\xff\x00"
    broker.publish("p", 1, [Publication("q", garbage)])
    (fetched,) = worker.look().leased
    worker.settle(Settlement("q", fetched.tags[0], "", DEAD, reason="undecodable"))
    (letter,) = transport.inspector().dead("q")
    assert (letter.message, letter.reason, letter.detail) == (garbage, "undecodable", {})


def test_return_puts_a_batch_at_the_head_in_its_order(publish: Publish, worker: Worker) -> None:
    publish("a", "b", "c", "d", "e")
    a, b, c, d = worker.fetch(4)
    worker.settle(b.settled(RETURN), c.settled(RETURN), d.settled(RETURN))
    assert worker.ids() == ["b", "c", "d", "e"]
    assert worker.settle(a.settled()).skipped == ()


def test_return_from_the_tail_one_by_one_keeps_the_order(publish: Publish, worker: Worker) -> None:
    publish("a", "b", "c", "d")
    a, b, c = worker.fetch(3)
    for one in (c, b, a):
        worker.settle(one.settled(RETURN))
    assert worker.ids() == ["a", "b", "c", "d"]


def test_return_goes_to_the_level_it_came_from(publish: Publish, worker: Worker) -> None:
    publish("low", "low too")
    publish("high", level=9)
    everything = worker.fetch()
    worker.settle(*(one.settled(RETURN) for one in everything))
    publish("middle", level=5)
    assert worker.ids() == ["high", "middle", "low", "low too"]


def test_return_charges_nothing(broker: Broker, worker: Worker) -> None:
    broker.publish("p", 1, [Publication("q", envelope("a", charged=1, paid=True)), Publication("q", envelope("b"))])
    everything = worker.fetch()
    worker.settle(*(one.settled(RETURN) for one in everything))
    assert [one.message for one in worker.fetch()] == [envelope("a", charged=1, paid=True), envelope("b")]


def test_one_call_carries_every_verdict(publish: Publish, worker: Worker, transport: Transport) -> None:
    publish("done", "retry", "dead", "return", "later")
    done, retry, dead, back, later = worker.fetch()
    settled = worker.settle(
        dead.settled(DEAD, reason="failed", result=record("FAILURE")),
        back.settled(RETURN),
        done.settled(DONE, result=record()),
        later.settled(RETRY, message=envelope("later"), delay_ms=60_000),
        retry.settled(RETRY, message=envelope("retry"), result=record("RETRY")),
    )
    assert settled.skipped == ()
    assert depth(transport) == (2, 1, 0, 1)
    assert worker.ids() == ["return", "retry"]
    backend = transport.backend()
    assert backend.get(["done", "retry", "dead", "return", "later"]) == [record(), record("RETRY"), record("FAILURE"), None, None]


def test_one_call_settles_several_queues(publish: Publish, transport: Transport) -> None:
    worker = transport.worker("one", "two")
    publish("a", "b", queue="one")
    publish("c", "d", queue="two")
    by_id = {one.id: one for one in worker.fetch()}
    settled = worker.settle(
        by_id["a"].settled(result=record()),
        by_id["c"].settled(DEAD, reason="failed"),
        by_id["b"].settled(RETURN),
        by_id["d"].settled(result=record()),
    )
    assert settled.skipped == ()
    assert (depth(transport, "one"), depth(transport, "two")) == ((1, 0, 0, 0), (0, 0, 0, 1))
    assert transport.backend().get(["a", "b", "c", "d"]) == [record(), None, None, record()]


@pytest.mark.parametrize("verdict", [DONE, RETRY, DEAD, RETURN])
def test_settling_twice_changes_nothing(publish: Publish, worker: Worker, transport: Transport, verdict: int) -> None:
    publish("a")
    (a,) = worker.fetch()
    settlement = a.settled(verdict, message=envelope("a") if verdict == RETRY else None, reason="failed", delay_ms=60_000)
    assert worker.settle(settlement).skipped == ()
    before = depth(transport)
    assert worker.settle(settlement).skipped == (a.tag,)
    assert depth(transport) == before


def test_a_repeat_leaves_later_deliveries_alone(publish: Publish, worker: Worker) -> None:
    publish("a", "b")
    (a,) = worker.fetch(1)
    worker.settle(a.settled())
    (b,) = worker.fetch(1)
    assert worker.settle(a.settled()).skipped == (a.tag,)
    assert worker.settle(b.settled()).skipped == ()


def test_a_tag_never_given_out_is_skipped(publish: Publish, worker: Worker) -> None:
    publish("a")
    (a,) = worker.fetch()
    stray = Settlement("q", "0:99:0", "a", DONE, result=record())
    assert worker.settle(stray, a.settled()).skipped == ("0:99:0",)


def test_nobody_settles_for_another(publish: Publish, worker: Worker, transport: Transport) -> None:
    publish("a")
    (a,) = worker.fetch()
    other = transport.worker()
    assert other.settle(a.settled(result=record())).skipped == (a.tag,)
    assert transport.backend().get(["a"]) == [None]
    assert depth(transport) == (0, 0, 1, 0)


@pytest.mark.parametrize("verdict", [DONE, RETRY, DEAD, RETURN])
def test_what_was_taken_away_cannot_be_settled(publish: Publish, worker: Worker, transport: Transport, verdict: int) -> None:
    publish("a")
    (a,) = worker.fetch()
    broker = transport.broker()
    broker.condemn([Lease("q", worker.process, "")])
    assert broker.release("q", worker.process, {}) == 1
    late = a.settled(verdict, message=envelope("a") if verdict == RETRY else None, reason="failed", result=record(), inbox="inbox")
    inbox = transport.inbox(transport.backend(), "inbox")
    assert worker.settle(late).skipped == (a.tag,)
    assert depth(transport) == (1, 0, 0, 0)
    assert transport.backend().get(["a"]) == [None]
    assert inbox.read(0.05) == []


def test_taken_away_and_kept_are_told_apart_in_one_call(publish: Publish, transport: Transport) -> None:
    worker = transport.worker("one", "two")
    publish("a", queue="one")
    publish("b", queue="two")
    by_id = {one.id: one for one in worker.fetch()}
    broker = transport.broker()
    broker.condemn([Lease("one", worker.process, "")])
    broker.release("one", worker.process, {})
    settled = worker.settle(by_id["a"].settled(result=record()), by_id["b"].settled(result=record()))
    assert settled.skipped == (by_id["a"].tag,)
    assert transport.backend().get(["a", "b"]) == [None, record()]


def test_a_condemned_process_settles_what_it_still_holds(publish: Publish, worker: Worker, transport: Transport) -> None:
    publish("a")
    (a,) = worker.fetch()
    transport.broker().condemn([Lease("q", worker.process, "")])
    assert worker.settle(a.settled(result=record())).skipped == ()
    assert transport.backend().get(["a"]) == [record()]


def test_a_refused_fetch_leaves_its_settlements_applied(publish: Publish, worker: Worker, transport: Transport) -> None:
    publish("a", "b")
    (a,) = worker.fetch(1)
    transport.broker().condemn([Lease("q", worker.process, "")])
    with pytest.raises(Fenced):
        worker.settle(a.settled(result=record()), fetch=worker.ask())
    assert transport.backend().get(["a"]) == [record()]
    assert depth(transport) == (1, 0, 0, 0)


def test_the_last_of_two_results_for_one_id_stays(publish: Publish, worker: Worker, transport: Transport) -> None:
    publish("twin", "twin")
    one, two = worker.fetch()
    worker.settle(one.settled(result=record("SUCCESS", 1)), two.settled(result=record("SUCCESS", 2)))
    assert transport.backend().get(["twin"]) == [record("SUCCESS", 2)]


def test_a_thousand_are_settled_in_one_call(publish: Publish, worker: Worker, transport: Transport) -> None:
    names = [str(i) for i in range(1_000)]
    publish(*names)
    everything = worker.fetch(1_000)
    assert len(everything) == 1_000
    assert worker.settle(*(one.settled(result=record()) for one in everything)).skipped == ()
    assert transport.backend().get(names) == [record()] * 1_000
    assert depth(transport) == (0, 0, 0, 0)


def test_settling_nothing_is_harmless(worker: Worker) -> None:
    assert worker.settle().skipped == ()
    settled = worker.settle(fetch=worker.ask())
    assert settled.fetched is not None and settled.fetched.leased == ()


def test_a_large_result_is_stored_whole(publish: Publish, worker: Worker, transport: Transport) -> None:
    publish("a")
    (a,) = worker.fetch()
    large = record(size=3_000_000)
    worker.settle(a.settled(result=large))
    assert transport.backend().get(["a"]) == [large]


def test_messages_of_a_condemned_process_are_seen_as_they_are(publish: Publish, worker: Worker, transport: Transport) -> None:
    publish("a", "b")
    worker.fetch()
    assert ids([message for _, message in transport.broker().leased("q", worker.process)]) == ["a", "b"]
    assert publication("a").message == envelope("a")
