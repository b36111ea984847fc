"""A worker process is told to take from other queues, to have more slots or fewer, and that a task has other limits."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from fastq.exceptions import OperationalError
from fastq.records import Lease, Settlement
from fastq.transports.base import Broker
from fastq.worker.consuming import Consuming
from fastq.worker.identity import Identity
from fastq.worker.keeper import Keeper
from fastq.worker.loop import Loop
from fastq.worker.queues import Queues
from fastq.worker.rates import Rates
from fastq.worker.reaper import Reaper, Snapshot
from fastq.worker.relimits import NewLimits
from tests.unit.test_worker_consumer import Blocked, Ran, sees
from tests.unit.worker_rig import Rig, message, rig, wait_for


def tell(made: Rig, known: Sequence[str], taken: Sequence[str], change: int, *, rename: bool = False) -> None:
    """Do what the supervisor does: enter leases on what is new, then order, and wait until the process has said that it knows."""
    before = len(made.names)
    made.broker.renew(known, [made.process], made.lease_ms)
    made.queues = tuple(known)
    order = {"do": "queues", "known": list(known), "taken": list(taken), "change": change, "anew": rename}
    made.send({"order": order})
    wait_for(lambda: change in made.said("takes"), f"change {change}")
    assert len(made.names) == before + rename


def ready(made: Rig, queue: str) -> int:
    return made.inspector.depth(queue)["ready"]


def store_url(store: str, tmp_path: Any) -> str:
    return "" if store == "memory" else f"sqlite:///{tmp_path / 'store.db'}"


@pytest.mark.parametrize("store", ["memory", "sqlite"])
def test_a_process_takes_from_a_queue_from_the_moment_it_is_told(store: str, tmp_path: Any) -> None:
    ran = Ran()
    with rig({"t": ran}, url=store_url(store, tmp_path)) as made:
        made.publish(message("t", 1, id="x1"), queue="b")
        made.publish(message("t", 2, id="x2"))
        wait_for(lambda: sees(ran, 1), "the first run")
        tell(made, ("default", "b"), ("default", "b"), 1)
        wait_for(lambda: ran.runs == {1: 1, 2: 1}, "what waited in b")
        made.publish(message("t", 3, id="x3"), queue="b")
        wait_for(lambda: ran.runs[3] == 1, "a wake from b")


@pytest.mark.parametrize("store", ["memory", "sqlite"])
def test_from_a_cancelled_queue_nothing_more_is_taken_and_what_runs_is_settled(store: str, tmp_path: Any) -> None:
    blocked, ran = Blocked(), Ran()
    with rig({"long": blocked, "t": ran}, slots=2, url=store_url(store, tmp_path), queues=("default", "b")) as made:
        made.publish(message("long", 1, id="long"), queue="b")
        blocked.await_start()
        tell(made, ("default", "b"), ("default",), 1)
        made.publish(message("t", 1, id="x1"), queue="b")
        made.publish(message("t", 2, id="x2"))
        wait_for(lambda: ran.runs[2] == 1, "work of the queue that is left")
        assert ready(made, "b") == 1 and [tag for tag, _ in made.broker.leased("b", made.process)]
        blocked.gate.set()
        assert made.result("long")[0] == "SUCCESS"
        wait_for(lambda: not made.broker.leased("b", made.process), "the settlement")
        assert ran.runs == {2: 1}


def test_a_cancelled_queue_wakes_somebody_else() -> None:
    ran, other = Ran(), Ran()
    with rig({"t": ran}, queues=("default", "b")) as made:
        wait_for(lambda: made.consumer._idleness.idle, "idleness")
        tell(made, ("default", "b"), ("default",), 1)
        with rig({"t": other}, start=False, url=made.url, queues=("b",)) as second:
            second._names = iter(["other.0.p0"])
            second.start()
            wait_for(lambda: second.consumer._idleness.idle, "idleness")
            for n in range(20):
                second.publish(message("t", n, id=f"x{n}"), queue="b")
                wait_for(lambda n=n: other.runs[n] == 1, "the wake went to the process that takes from b")  # type: ignore[misc]
            assert not ran.total


def test_a_process_without_any_queue_lives_and_takes_from_one_again() -> None:
    ran = Ran()
    with rig({"t": ran}, lease_ms=300) as made:
        tell(made, ("default",), (), 1)
        said = len(made.said("answered"))
        made.publish(message("t", 1, id="x1"))
        wait_for(lambda: len(made.said("answered")) > said + 2, "signs of life")
        assert ready(made, "default") == 1
        tell(made, ("default",), ("default",), 2)
        wait_for(lambda: ran.runs == {1: 1}, "the run")
        tell(made, ("default",), (), 3)
        made.stop()
        made.join()
        assert made.said("stopped") == ["warm"]


@pytest.mark.parametrize("store", ["memory", "sqlite"])
def test_where_its_lease_has_ended_a_process_goes_on_under_a_new_name(store: str, tmp_path: Any) -> None:
    blocked, ran = Blocked(), Ran()
    with rig({"long": blocked, "t": ran}, slots=2, url=store_url(store, tmp_path), queues=("default", "b")) as made:
        tell(made, ("default", "b"), ("default",), 1)
        made.publish(message("long", 1, id="long"))
        blocked.await_start()
        old = made.process
        made.broker.condemn([Lease("b", old, "")])
        made.broker.release("b", old, {})
        made.publish(message("t", 1, id="x1"), queue="b")
        tell(made, ("default", "b"), ("default", "b"), 2, rename=True)
        wait_for(lambda: ran.runs == {1: 1}, "what waited in b")
        blocked.gate.set()
        assert made.result("long")[0] == "SUCCESS", "it is settled under the name it was leased under"
        assert made.process != old and made.said("fenced") == [old] and made.settler.fenced == 0


@pytest.mark.parametrize("at", range(2, 12))
@pytest.mark.parametrize("how", ["request", "reply"])
def test_a_call_lost_while_queues_change_loses_nothing_and_runs_nothing_twice(how: str, at: int) -> None:
    ran = Ran()
    with rig({"t": ran}, slots=2, fails=lambda number, name: how if number == at else "") as made:
        for n in range(40):
            made.publish(message("t", n, id=f"x{n}"), queue=("default", "b")[n % 2])
        tell(made, ("default", "b"), ("default", "b"), 1)
        tell(made, ("default", "b"), ("b",), 2)
        tell(made, ("default", "b"), ("default", "b"), 3)
        wait_for(lambda: sees(ran, 40) and made.settled_all(), "all")
        assert set(ran.runs.values()) == {1}


def test_orders_that_come_before_the_name_hold_from_the_first_fetch_on() -> None:
    ran = Ran()
    with rig({"t": ran}, start=False, queues=("default", "b")) as made:
        made.publish(message("t", 1, id="x1"))
        made.publish(message("t", 2, id="x2"), queue="b")
        order = {"do": "queues", "known": ["default", "b"], "taken": ["b"], "change": 1, "anew": True}
        made.send({"order": order})
        made.start()
        wait_for(lambda: ran.runs == {2: 1} and made.consumer._idleness.idle, "the run")
        assert ready(made, "default") == 1


def test_slots_grow_and_shrink_under_running_tasks_and_each_runs_once() -> None:
    blocked = Blocked()
    with rig({"long": blocked}) as made:
        made.publish(*[message("long", n, id=f"x{n}") for n in range(6)])
        blocked.await_start()
        made.send({"order": {"do": "slots", "n": 4}})
        for _ in range(3):
            blocked.await_start()
        assert len(blocked.ids) == 4 and made.pool.free == 0
        made.send({"order": {"do": "slots", "n": 2}})
        wait_for(lambda: made.pool.slots == 2, "the order")
        assert made.pool.free == 0 and ready(made, "default") == 2, "busy slots finish first"
        blocked.gate.set()
        wait_for(made.settled_all, "all")
        assert sorted(blocked.ids) == [0, 1, 2, 3, 4, 5] and made.pool.free == 2


# --- the supervisor's side ---


class Store:
    """The part of a broker that leases are kept with."""

    url = "fake:"

    def __init__(self) -> None:
        self.leases: set[tuple[str, str]] = set()
        self.held: dict[tuple[str, str], list[tuple[str, bytes]]] = {}
        self.down = False

    def renew(self, queues: Sequence[str], processes: Sequence[str], lease_ms: int) -> list[Lease]:
        if self.down:
            raise OperationalError("down")
        self.leases |= {(queue, process) for queue in queues for process in processes}
        return []

    def leased(self, queue: str, process: str) -> list[tuple[str, bytes]]:
        return self.held.get((queue, process), [])

    def condemn(self, leases: Sequence[Lease]) -> list[Lease]:
        return list(leases)

    def unpark(self) -> bool:
        return False

    def release(self, queue: str, process: str, marks: dict[str, bytes], *, gone: bool = True) -> int:
        self.leases.discard((queue, process))
        return 0

    def settle(self, process: str, settlements: Sequence[Settlement], *, results: bool) -> None: ...

    def close(self) -> None: ...


class Node:
    """Leases of one process, p, on one queue; orders are kept."""

    def __init__(self, **hello: Any) -> None:
        from dataclasses import replace

        from tests.unit.test_worker_banner import HELLO

        self.store = Store()
        self.loop = Loop()
        timeouts = {"connect_timeout_s": 1.0, "socket_timeout_s": 1.0}
        self.hello = replace(HELLO, queues=("default",), lease_ms=300, transport=timeouts, **hello)
        self.queues = Queues(self.hello.queues)
        broker: Any = self.store
        reaper = Reaper(broker, lambda: None, max_deliveries=3, encode=lambda exc: ("text/plain", b"", None))
        self.keeper = Keeper(self.loop, self.hello, Identity("n@h"), broker, reaper, self.queues)
        self.keeper.enter("p")
        self.orders: list[dict[str, Any]] = []
        self.standing: dict[str, Any] = {}
        self.knows = 0
        self.consuming = Consuming(
            self.loop,
            self.hello,
            "n@h",
            self.queues,
            self.keeper,
            order=self.order,
            took_in=lambda change: self.knows >= change,
        )

    def order(self, order: Any, *, standing: str = "", only: int | None = None) -> int:
        self.orders.append(order)
        if standing:
            self.standing[standing] = order
        return 1

    def turn_until(self, condition: Callable[[], bool]) -> None:
        until = time.monotonic() + 5
        while not condition():
            assert time.monotonic() < until
            self.loop.turn(longest_s=0.05)


def test_leases_are_entered_before_the_processes_are_told() -> None:
    node = Node()
    assert node.consuming.add("b")
    assert node.store.leases == {("default", "p"), ("b", "p")}
    both = ["default", "b"]
    assert node.standing["queues"] == {"do": "queues", "known": both, "taken": both, "change": 1, "anew": False}
    assert not node.consuming.add("b")
    assert len(node.orders) == 1


def test_while_the_broker_is_away_nothing_changes() -> None:
    node = Node()
    node.store.down = True
    with pytest.raises(ConnectionError, match="nothing has changed"):
        node.consuming.add("b")
    assert not node.orders and node.queues.known == ["default"] and node.queues.leased == ("default",)


def test_the_leases_on_a_cancelled_queue_end_when_all_know_of_it_and_nothing_is_leased() -> None:
    node = Node()
    node.consuming.add("b")
    node.store.held["b", "p"] = [("1", b"")]
    assert node.consuming.cancel("b") and not node.consuming.cancel("b")
    assert node.queues.taken == ("default",) and node.queues.leased == ("default", "b")
    node.turn_until(lambda: node.consuming._looking)
    for _ in range(5):
        node.loop.turn(longest_s=0.1)
    assert ("b", "p") in node.store.leases, "not all know"
    node.knows = 2
    for _ in range(5):
        node.loop.turn(longest_s=0.1)
    assert ("b", "p") in node.store.leases, "something runs"
    node.store.held.clear()
    node.turn_until(lambda: ("b", "p") not in node.store.leases)
    assert node.queues.leased == ("default",) and node.queues.known == ["default", "b"]
    node.keeper.beat()
    assert ("b", "p") not in node.store.leases, "the beat does not enter it again"


def test_a_queue_that_was_let_go_of_is_taken_again_under_new_names_and_keeps_its_number() -> None:
    node = Node()
    node.consuming.add("b")
    node.consuming.cancel("b")
    node.knows = 2
    node.turn_until(lambda: node.queues.leased == ("default",))
    node.consuming.add("c")
    assert node.orders[-1]["known"] == ["default", "b", "c"]
    assert not any(order["anew"] for order in node.orders)
    node.consuming.add("b")
    assert node.orders[-1]["anew"] and node.orders[-1]["taken"] == ["default", "c", "b"]
    assert node.orders[-1]["known"] == ["default", "b", "c"]


def test_a_queue_that_is_taken_again_at_once_keeps_its_leases() -> None:
    node = Node()
    node.consuming.cancel("default")
    node.consuming.add("default")
    node.knows = 9
    for _ in range(5):
        node.loop.turn(longest_s=0.1)
    assert ("default", "p") in node.store.leases and not node.orders[-1]["anew"]


def test_a_broadcast_queue_is_taken_with_the_copies_of_this_node(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node(declared_broadcasts=("news",))
    dropped: list[str] = []

    class Inspector:
        def listeners(self, queue: str) -> list[str]:
            return [process for at, process in node.store.leases if at == queue]

        def purge(self, queue: str) -> int:
            dropped.append(queue)
            return 0

    monkeypatch.setattr("fastq.worker.copies.open_inspector", lambda url, options: Inspector())
    node.consuming.add("news")
    assert node.queues.taken == ("default", "news", "news.n@h")
    node.consuming.cancel("news")
    node.knows = 2
    node.turn_until(lambda: node.queues.leased == ("default",))
    assert dropped == ["news.n@h"] and node.queues.taken == ("default",)


def test_a_process_that_dies_gives_back_what_it_had_on_a_cancelled_queue_before_its_lease_ends() -> None:
    node = Node()
    node.consuming.cancel("default")
    node.knows = 1
    node.store.down = True
    node.keeper._trouble = True
    node.keeper.bury("p", Snapshot())
    assert not node.keeper.uncover("default"), "the dead are buried first"
    assert node.queues.leased == ("default",)


# --- limits ---


def test_a_new_rate_limit_replaces_that_of_the_task_and_zero_takes_it_away() -> None:
    class Task:
        rate_limit = "10/s"

    from fastq._core import Entry, Registry

    registry = Registry([Entry("t", print, Task()), Entry("u", print)])
    broker: Any = Broker
    rates = Rates(broker, {}, "n")
    assert rates.limits(registry) and list(rates._periods.values()) == [100_000]
    rates.obey({"task": "t", "rate": "2/s"})
    assert rates.limits(registry) and list(rates._periods.values()) == [500_000]
    rates.obey({"task": "t", "rate": 0})
    assert not rates.limits(registry)
    rates.obey({"task": "u", "rate": "1/m"})
    assert rates.limits(registry) and list(rates._periods.values()) == [60_000_000]


def test_a_task_gets_a_special_entry_for_new_limits_and_the_others_keep_theirs() -> None:
    from fastq._core import Entry, Registry

    plain, other, special = Entry("t", print), Entry("u", print), Entry("v", print, special=True)
    base = Registry([plain, other, special])
    limits = NewLimits(lambda: base)
    assert limits.registry() is base and limits.get("t") is None
    limits.obey({"task": "t", "soft": 1.0, "hard": None})
    limits.obey({"task": "v", "soft": None, "hard": 3.0})
    made = limits.registry()
    assert made is limits.registry() and made.names() == base.names()
    entry = made.get("t")
    assert entry is not None and entry.special and entry.fn is print and entry.index not in (0, 1, 2)
    assert made.get("u") is other and made.get("v") is special
    limits.obey({"task": "t", "soft": 2.0, "hard": None})
    assert limits.registry().get("t") is entry and limits.get("t") == (2.0, None)
