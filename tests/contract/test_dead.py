"""Dead letters of every transport: walked in pages, put back in one step, gone with all that they own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from fastq import _core
from fastq.records import DEAD, Count, Drop, Effects, Opening, Publication, Revival, StoredResult
from tests.contract.conftest import Transport, Worker, asleep, envelope, ids, record, until, woken

Publish = Callable[..., None]


def bury(publish: Publish, worker: Worker, *names: str, **what: Any) -> None:
    publish(*names)
    held = {one.id: one for one in worker.fetch()}
    worker.settle(*(held[name].settled(DEAD, reason="failed", **what) for name in names))


def body_of(join: str, of: str = "q") -> bytes:
    """Return the message of a join's body."""
    options = {"flow": {"joined": [join, of]}}
    return _core.encode(f"body of {join}", "task", "application/x-msgpack", b"\x92\x90\x80", 0, None, 0, None, options)


def bury_body(transport: Transport, worker: Worker, join: str = "j") -> None:
    """Let a join of one member close, and its body die."""
    opening = Opening(join, 1, Publication("q", body_of(join)))
    transport.broker().publish(f"producer of {join}", 1, [Publication("q", envelope("member"))], [opening])
    (member,) = worker.fetch()
    worker.settle(member.settled(effects=Effects(counts=[Count("q", join, "0", "member", record())])))
    (body,) = worker.fetch()
    worker.settle(body.settled(DEAD, reason="failed", effects=Effects(drops=[Drop("q", join)])))


def walk(transport: Transport, limit: int) -> list[str]:
    inspector, found, last = transport.inspector(), [], None
    while page := inspector.dead("q", limit=limit, before=last):
        found += ids([letter.message for letter in page])
        last = page[-1]
    return found


@pytest.mark.parametrize("limit", [1, 3, 7, 100])
def test_a_walk_in_pages_meets_every_letter_once(publish: Publish, worker: Worker, transport: Transport, limit: int) -> None:
    names = [f"{i:02}" for i in range(20)]
    for start in range(0, 20, 5):
        bury(publish, worker, *names[start : start + 5])
    assert walk(transport, limit) == names[::-1]


def test_a_walk_goes_on_behind_a_letter_that_has_gone_and_does_not_meet_new_ones(
    publish: Publish, worker: Worker, transport: Transport
) -> None:
    bury(publish, worker, *"abcdef")
    inspector = transport.inspector()
    first = inspector.dead("q", limit=2)
    inspector.retry_dead("q", [letter.key for letter in first])
    inspector.delete_dead("q", [inspector.dead("q", limit=1)[0].key])
    bury(publish, transport.worker("q"), "new")
    assert ids([letter.message for letter in inspector.dead("q", before=first[-1])]) == ["c", "b", "a"]
    assert ids([letter.message for letter in inspector.dead("q", limit=1, offset=1, before=first[-1])]) == ["b"]


def test_letters_that_died_at_one_moment_are_all_met(redis_url: str) -> None:
    """Two settle calls within one microsecond give the same score."""
    import redis

    transport = Transport("redis", redis_url)
    try:
        worker = transport.worker()
        worker.broker.publish("producer", 1, [Publication("q", envelope(str(i))) for i in range(9)])
        worker.settle(*(one.settled(DEAD, reason="failed") for one in worker.fetch()))
        with redis.Redis.from_url(redis_url) as client:
            client.zadd("fastq:{q}:dead", dict.fromkeys(client.zrange("fastq:{q}:dead", 0, -1), 1_700_000_000_000_000))
        for limit in (1, 2, 4):
            assert sorted(walk(transport, limit)) == [str(i) for i in range(9)]
    finally:
        transport.close()


def test_a_retried_letter_can_be_another_message_in_another_queue(publish: Publish, worker: Worker, transport: Transport) -> None:
    bury(publish, worker, "a", "b")
    inspector = transport.inspector()
    b, a = inspector.dead("q")
    sleeper, wake = transport.sleeper("other")
    assert inspector.retry_dead("q", [a.key, b.key], changes={a.key: Revival(envelope("changed"))}, to="other") == 2
    assert woken(wake)
    assert inspector.depth("q") == {"ready": 0, "delayed": 0, "leased": 0, "dead": 0}
    assert sleeper.ids() == ["changed", "b"]


def test_a_retry_forgets_the_stored_failures_it_is_told_and_nothing_else(
    publish: Publish, worker: Worker, transport: Transport
) -> None:
    backend = transport.backend()
    uuids = _core.new_ids(1_700_000_000_000, 3)
    bury(publish, worker, "a", "b")
    stored = {
        "a": "FAILURE", "b": "FAILURE", "behind": "FAILURE", "fine": "SUCCESS", "other": "FAILURE",
        uuids[0]: "FAILURE", uuids[1]: "SUCCESS", uuids[2]: "FAILURE",
    }  # fmt: skip
    backend.store([StoredResult(id, record(state)) for id, state in stored.items()])
    inspector = transport.inspector()
    b, a = inspector.dead("q")
    changes = {
        a.key: Revival(forget=["a", "behind", "fine", "never", *uuids[:2]]),
        b.key: Revival(forget=["b"]),
        "no such": Revival(forget=["other"]),
    }
    assert inspector.retry_dead("q", [a.key, "no such"], changes=changes) == 1
    left = {id for id, found in zip(stored, backend.get(list(stored)), strict=True) if found is not None}
    assert left == {"b", "fine", "other", uuids[1], uuids[2]}


def test_a_repeated_retry_changes_nothing_more(publish: Publish, worker: Worker, transport: Transport) -> None:
    bury(publish, worker, "a")
    inspector, backend = transport.inspector(), transport.backend()
    (a,) = inspector.dead("q")
    changes = {a.key: Revival(forget=["a"])}
    assert inspector.retry_dead("q", [a.key], changes=changes) == 1
    backend.store([StoredResult("a", record("FAILURE"))])
    assert inspector.retry_dead("q", [a.key], changes=changes) == 0
    assert worker.ids() == ["a"]
    assert backend.get(["a"]) == [record("FAILURE")]


def test_many_letters_with_many_results_are_put_back(publish: Publish, worker: Worker, transport: Transport) -> None:
    names = [f"{i:03}" for i in range(450)]
    for start in range(0, 450, 90):
        bury(publish, worker, *names[start : start + 90])
    inspector, backend = transport.inspector(), transport.backend()
    backend.store([StoredResult(f"{name}-{i}", record("FAILURE")) for name in names for i in range(3)])
    letters = inspector.dead("q", limit=1000)[::-1]
    changes = {letter.key: Revival(forget=[f"{name}-{i}" for i in range(3)]) for letter, name in zip(letters, names, strict=True)}
    assert inspector.retry_dead("q", [letter.key for letter in letters], changes=changes) == 450
    assert inspector.peek("q", 1000) == [envelope(name) for name in names]
    assert set(backend.get([f"{name}-{i}" for name in names for i in range(3)])) == {None}


def test_a_dead_body_keeps_its_join_and_has_it_again_when_it_is_retried(worker: Worker, transport: Transport) -> None:
    bury_body(transport, worker)
    backend, inspector = transport.backend(), transport.inspector()
    assert backend.joined("q", "j") is not None
    assert inspector.retry_dead("q", [inspector.dead("q")[0].key]) == 1
    joined = backend.joined("q", "j")
    assert joined is not None and joined.records == [record()]
    (body,) = worker.fetch()
    worker.settle(body.settled(effects=Effects(drops=[Drop("q", "j")])))
    assert backend.joined("q", "j") is None


@pytest.mark.parametrize("how", ["delete", "cap"])
def test_a_join_goes_with_the_dead_letter_of_its_body(worker: Worker, transport: Transport, publish: Publish, how: str) -> None:
    bury_body(transport, worker)
    inspector = transport.inspector()
    if how == "delete":
        assert inspector.delete_dead("q", [inspector.dead("q")[0].key, "no such"]) == 1
    else:
        bury(publish, transport.worker(dead_letter_max=1), "newer")
        assert ids([letter.message for letter in inspector.dead("q")]) == ["newer"]
    assert transport.backend().joined("q", "j") is None


def test_a_join_does_not_go_with_a_letter_that_only_claims_it(worker: Worker, transport: Transport) -> None:
    """Nothing is believed of a message with a bad signature."""
    broker = transport.broker()
    opening = Opening("j", 2, Publication("q", body_of("j")))
    broker.publish("producer", 1, [Publication("q", body_of("j"))], [opening])
    (forged,) = worker.fetch()
    worker.settle(forged.settled(DEAD, reason="bad-signature"))
    inspector = transport.inspector()
    assert inspector.delete_dead("q", [inspector.dead("q")[0].key]) == 1
    assert transport.backend().joined("q", "j") is not None


def test_expired_letters_go_with_their_joins(transport: Transport, publish: Publish) -> None:
    worker = transport.worker(dead_letter_expires_s=1)
    bury_body(transport, worker)
    bury(publish, worker, "a", "b")
    inspector, backend = transport.inspector(), transport.backend()
    assert len(inspector.dead("q")) == 3

    def gone() -> bool:
        worker.broker.renew(["q"], [worker.process], 15_000)
        return not inspector.dead("q") and backend.joined("q", "j") is None

    until(gone, "the letters expired")
    assert inspector.depth("q")["dead"] == 0


def test_a_renewal_drops_only_what_is_expired(transport: Transport, publish: Publish, worker: Worker) -> None:
    bury(publish, worker, "old")
    short = transport.worker(dead_letter_expires_s=2)

    def gone() -> bool:
        bury(publish, short, "young")
        short.broker.renew(["q"], [short.process], 15_000)
        return "old" not in ids([letter.message for letter in transport.inspector().dead("q", limit=10_000)])

    until(gone, "the old letter expired while young ones came in")
    assert "young" in ids([letter.message for letter in transport.inspector().dead("q")])


def test_a_renewal_keeps_to_the_cap(transport: Transport, publish: Publish, worker: Worker) -> None:
    if transport.name != "redis":
        pytest.skip("elsewhere the cap holds in the step that buries")
    bury(publish, worker, *"abcde")
    transport.broker(dead_letter_max=2).renew(["q"], ["another"], 15_000)
    assert ids([letter.message for letter in transport.inspector().dead("q")]) == ["e", "d"]


def test_deleting_and_looking_wake_nobody(publish: Publish, worker: Worker, transport: Transport) -> None:
    bury(publish, worker, "a", "b")
    _, wake = transport.sleeper()
    inspector = transport.inspector()
    page: Sequence[Any] = inspector.dead("q", limit=1)
    inspector.dead("q", before=page[0])
    inspector.delete_dead("q", [page[0].key])
    assert asleep(wake)
