"""What becomes of the deliveries of a dead process."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from fastq import _core, flow
from fastq.exceptions import OperationalError
from fastq.records import Joined, Lease, StoredResult
from fastq.transports.base import Broker, Inbox
from fastq.worker.board import Board
from fastq.worker.reaper import Plan, Reaper, Snapshot, plan
from tests.unit.worker_fakes import FakeBroker, message


def decide(*leased: tuple[str, bytes], started: set[str] | None, max_deliveries: int = 3, **more: object) -> Plan:
    return plan(leased, started=started, max_deliveries=max_deliveries, **more)  # type: ignore[arg-type]


def counts(made: Plan) -> dict[str, int]:
    return {tag: _core.peek(marked).deliveries for tag, marked in made.marks.items()}


def test_only_what_was_running_is_charged() -> None:
    made = decide(("a", message()), ("b", message()), started={"a"})
    assert counts(made) == {"a": 1} and not made.dead


def test_the_mark_counts_up_and_keeps_the_message() -> None:
    made = decide(("a", message(deliveries=1, id="kept")), started={"a"})
    assert counts(made) == {"a": 2}
    assert _core.peek(made.marks["a"]).id == "kept"


def test_the_last_chance_is_a_dead_letter() -> None:
    made = decide(("a", message(deliveries=2)), started={"a"})
    assert [(lost.tag, lost.deaths) for lost in made.dead] == [("a", 3)] and not made.marks


def test_neighbours_of_a_last_chance_are_not_charged() -> None:
    leased = [("a", message()), ("b", message(deliveries=2)), ("c", message(deliveries=1))]
    for started in ({"a", "b", "c"}, None):
        made = decide(*leased, started=started)
        assert [lost.tag for lost in made.dead] == ["b"] and not made.marks


def test_at_most_one_is_blamed_even_if_two_had_their_last_chance() -> None:
    made = decide(("a", message(deliveries=2)), ("b", message(deliveries=2)), started=None)
    assert [lost.tag for lost in made.dead] == ["a"] and not made.marks


def test_a_last_chance_that_had_not_started_shields_nobody() -> None:
    made = decide(("a", message()), ("b", message(deliveries=2)), started={"a"})
    assert counts(made) == {"a": 1} and not made.dead


def test_a_lost_node_charges_all() -> None:
    assert counts(decide(("a", message()), ("b", message(deliveries=1)), started=None)) == {"a": 1, "b": 2}


def test_no_limit_means_no_dead_letter() -> None:
    made = decide(("a", message(deliveries=99)), started={"a"}, max_deliveries=0)
    assert counts(made) == {"a": 100} and not made.dead


def test_a_stop_at_once_charges_nobody() -> None:
    made = decide(("a", message(deliveries=2)), started={"a"}, charge=False)
    assert made == Plan()


def test_a_task_that_must_not_run_twice_does_not() -> None:
    once = {"run_once": {"tasks.once"}}
    leased = [(tag, message("tasks.once")) for tag in "abc"]
    made = decide(*leased, started={"a"}, finished={"b"}, **once)
    assert [lost.tag for lost in made.dead] == ["a", "b"], "c had not started"
    assert [lost.tag for lost in decide(*leased, started=None, **once).dead] == ["a", "b", "c"]
    assert [lost.tag for lost in decide(*leased, started={"a"}, charge=False, **once).dead] == ["a"]


def test_an_unreadable_message_goes_back_as_it_is() -> None:
    assert decide(("a", b"garbage"), started=None) == Plan()


class FakeBackend:
    url = "fake://results"

    def __init__(self, shared: bool) -> None:
        self.shared = shared
        self.stored: list[StoredResult] = []
        self.known: dict[str, bytes] = {}

    def shares(self, broker: Broker) -> bool:
        return self.shared

    def store(self, results: Sequence[StoredResult], *, final: bool = True) -> None:
        self.stored += results

    def get(self, ids: Sequence[str]) -> list[bytes | None]:
        return [self.known.get(id) for id in ids]

    def forget(self, ids: Sequence[str]) -> None: ...

    def joined(self, queue: str, join: str) -> Joined | None:
        raise NotImplementedError

    def inbox(self, name: str) -> Inbox:
        raise NotImplementedError

    def close(self) -> None: ...


def reaper(broker: FakeBroker, backend: FakeBackend | None = None, unstored: Sequence[str] = ()) -> Reaper:
    return Reaper(
        broker,
        lambda: backend,
        max_deliveries=3,
        run_once=["tasks.once"],
        unstored=unstored,
        encode=lambda exc: ("text/plain", str(exc).encode(), None),
    )


def test_a_dead_process_is_condemned_before_anything_else() -> None:
    broker = FakeBroker()
    broker.lease("default", "p", message(id="1"), message(id="2"))
    reaper(broker).bury("p", ["default"], Snapshot({"default": {"0:1:0"}}))
    assert broker.calls[0] == "condemn"
    assert [(_core.peek(m).id, _core.peek(m).deliveries) for m in broker.ready["default"]] == [("1", 1), ("2", 0)]
    assert not broker.leases


def test_a_process_that_held_nothing_leaves_nothing() -> None:
    broker = FakeBroker()
    broker.renew(["a", "b"], ["p"], 1)
    assert reaper(broker).bury("p", ["a", "b"], Snapshot()) == 0
    assert not broker.leases and not broker.dead


@pytest.mark.parametrize("shared", [True, False])
def test_a_dead_letter_has_its_reason_and_its_result(shared: bool) -> None:
    broker, backend = FakeBroker(), FakeBackend(shared)
    broker.lease("default", "p", message(id="poison", deliveries=2))
    assert reaper(broker, backend).bury("p", ["default"], Snapshot({"default": {"0:1:0"}})) == 0
    (dead,) = broker.dead
    assert (dead.id, dead.reason, dead.inbox) == ("poison", "worker-lost", "inbox")
    assert dead.detail is not None
    assert _core.unpackb(dead.detail)["deliveries"] == 3
    record = dead.result if shared else backend.stored[0].record
    assert record is not None and (dead.result is not None) == shared and bool(backend.stored) != shared
    state, _, body, _, done_ms, _ = _core.decode_result(record)
    assert state == "FAILURE" and done_ms == 1_000 and b"task_max_deliveries allows 3" in body


def test_the_result_of_an_ignored_task_is_not_stored() -> None:
    for sent, unstored in ((message(deliveries=2), ["tasks.add"]), (message(deliveries=2, ignore_result=True), [])):
        broker, backend = FakeBroker(), FakeBackend(True)
        broker.lease("default", "p", sent)
        reaper(broker, backend, unstored).bury("p", ["default"], None)
        assert broker.dead[0].result is None


@pytest.mark.parametrize("shared", [True, False])
def test_what_was_to_follow_a_lost_task_hears_of_it(shared: bool) -> None:
    following = flow.leaf("next", "t", "default", 0, "application/x-msgpack", b"", waited=True)
    broker, backend = FakeBroker(), FakeBackend(shared)
    broker.lease("default", "p", message(deliveries=2, flow={"chain": [following], "join": ["j", "0", "default"]}))
    reaper(broker, backend).bury("p", ["default"], None)
    effects = broker.dead[0].effects
    assert [(count.join, count.failed) for count in effects.counts] == [("j", True)]
    assert [(result.id, result.inbox) for result in effects.results] == [("next", "inbox")]
    assert [result.id for result in backend.stored] == ([] if shared else ["id", "next"])


def test_a_damaged_flow_does_not_keep_a_lost_task_from_its_end() -> None:
    broker = FakeBroker()
    broker.lease("default", "p", message(deliveries=2, flow={"join": 7}))
    reaper(broker, FakeBackend(True)).bury("p", ["default"], None)
    assert broker.dead[0].effects is None


def test_what_had_ended_goes_back_uncharged_and_marked_so_that_its_result_is_looked_for() -> None:
    made = decide(("a", message()), ("b", message(deliveries=1)), started=set(), finished={"a", "b"})
    assert counts(made) == {"a": 0, "b": 1} and all(_core.peek(marked).paid for marked in made.marks.values())


def test_a_task_that_must_not_run_twice_keeps_the_result_it_has() -> None:
    broker, backend = FakeBroker(), FakeBackend(False)
    backend.known["id"] = _core.encode_result("SUCCESS", "application/x-msgpack", b"\x01", None, 1, None)
    broker.lease("default", "p", message("tasks.once", flow={"join": ["j", "0", "default"]}))
    reaper(broker, backend).bury("p", ["default"], Snapshot({}, {"default": {"0:1:0"}}))
    assert not broker.dead and not backend.stored
    assert [count.failed for count in broker.done[0].effects.counts] == [False]


def test_disabled_results_store_nothing() -> None:
    broker = FakeBroker()
    broker.lease("default", "p", message(deliveries=2))
    reaper(broker, None).bury("p", ["default"], None)
    assert broker.dead[0].reason == "worker-lost" and broker.dead[0].result is None


def test_another_nodes_process_that_was_renewed_is_left_alone() -> None:
    broker = FakeBroker()
    broker.lease("default", "p", message())
    broker.leases["default", "p"] = "renewed"
    assert reaper(broker).reap([Lease("default", "p", "living")]) == 0
    assert broker.held["default", "p"]


def test_a_half_done_reaping_is_resumed() -> None:
    broker = FakeBroker()
    broker.lease("default", "p", message(id="1"), message(id="2"))
    broker.down = True
    with pytest.raises(OperationalError):
        reaper(broker).bury("p", ["default"], None)
    broker.down = False
    assert reaper(broker).bury("p", ["default"], None) == 2
    assert reaper(broker).bury("p", ["default"], None) == 0


def test_snapshot_reads_the_board_by_queue() -> None:
    board = Board()
    region = board.region(0, 1)
    registry = _core.Registry([])
    for index, queue in enumerate(["a", "b"]):
        batch = _core.deliveries(queue, ["0:1:0", "0:1:1", "0:1:2"], [message()] * 3, registry)
        region.hold(batch, index, 1)
        region.claim(batch[index].record, 2)
        if index:
            region.claim(batch[0].record, 2)
            region.finish(batch[0].record)
    seen = Snapshot.of(region, ["a", "b"])
    assert seen == Snapshot({"a": {"0:1:0"}, "b": {"0:1:1"}}, {"b": {"0:1:0"}})
    board.close()
