"""What is made of events: the history of a task, the life of a worker, and what is remembered of both."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

from fastq import FastQ, _core
from fastq.events import batch
from fastq.events.batch import ENDED, RUNS_ON
from fastq.events.expansion import Expansion
from fastq.events.outbox import BATCHES_MAX, Outbox
from fastq.events.receiver import _pattern
from fastq.events.remembered import Worker
from fastq.events.snapshot import Polaroid
from fastq.events.state import State
from fastq.exceptions import OperationalError

clock = itertools.count(1)


def event(type: str, uuid: str = "t1", at: float | None = None, hostname: str = "w1@h", **fields: Any) -> dict[str, Any]:
    at = time.time() if at is None else at
    about = {"uuid": uuid} if type.startswith("task-") else {}
    return {"type": type, "timestamp": at, "hostname": hostname, "pid": 1, "clock": next(clock), "utcoffset": 0, **about, **fields}


def told(state: State, *events: dict[str, Any]) -> State:
    for one in events:
        state.event(one)
    return state


# --- tasks


def test_a_task_has_the_state_its_last_event_tells() -> None:
    state = told(
        State(),
        event("task-sent", at=1, hostname="client", name="add", queue="default"),
        event("task-received", at=2, name="add", args="(1,)", kwargs="{}", retries=0, eta=None),
    )
    task = state.tasks["t1"]
    assert (task.state, task.worker is not None and task.worker.hostname, task.client) == ("RECEIVED", "w1@h", "client")
    told(state, event("task-started", at=3))
    assert (task.state, task.ready) == ("STARTED", False)
    told(state, event("task-succeeded", at=4, result="1", runtime=0.5))
    assert (task.state, task.ready, task.sent, task.received, task.started, task.succeeded) == ("SUCCESS", True, 1, 2, 3, 4)
    assert task.info() == {
        "args": "(1,)", "kwargs": "{}", "retries": 0, "result": "1", "runtime": 0.5,
    }  # fmt: skip
    assert task.info(["name"], ["state"]) == {"name": "add", "state": "SUCCESS"}
    assert (state.event_count, state.task_count) == (4, 1)
    assert json.dumps({key: value for key, value in task.as_dict().items() if key != "worker"})


def test_an_event_that_comes_late_does_not_undo_what_came_of_the_task() -> None:
    state = told(
        State(),
        event("task-succeeded", at=4, result="1"),
        event("task-received", at=2, name="add", args="(1,)", kwargs="{}"),
        event("task-started", at=3),
    )
    task = state.tasks["t1"]
    assert (task.state, task.name, task.args, task.received) == ("SUCCESS", "add", "(1,)", 2)
    assert [task.name for _, task in state.tasks_by_type("add")] == ["add"]


@pytest.mark.parametrize(
    ("type", "state"),
    [
        ("task-failed", "FAILURE"), ("task-retried", "RETRY"), ("task-revoked", "REVOKED"), ("task-rejected", "REJECTED"),
        ("task-progress", "PROGRESS"),
    ],
)  # fmt: skip
def test_ends_and_custom_events(type: str, state: str) -> None:
    task = told(State(), event("task-received", name="add"), event("task-started"), event(type)).tasks["t1"]
    assert task.state == state


def test_a_task_that_is_tried_again_begins_anew() -> None:
    state = told(State(), event("task-started"), event("task-retried"), event("task-received"), event("task-started"))
    assert state.tasks["t1"].state == "STARTED"


def test_tasks_are_found_by_time_type_and_worker() -> None:
    state = State()
    for i in range(6):
        told(state, event("task-received", f"t{i}", at=100 - i, name=f"n{i % 2}", hostname=f"w{i % 3}"))
    assert [uuid for uuid, _ in state.tasks_by_timestamp()] == [f"t{i}" for i in range(6)]
    assert [uuid for uuid, _ in state.tasks_by_time(limit=2, reverse=False)] == ["t5", "t4"]
    assert [uuid for uuid, _ in state.tasks_by_type("n1")] == ["t1", "t3", "t5"]
    assert [uuid for uuid, _ in state.tasks_by_worker("w0", limit=1)] == ["t0"]
    assert {task.uuid for task in state.tasks_by_type["n0"]} == {"t0", "t2", "t4"}
    assert {task.uuid for task in state.tasks_by_worker["w1"]} == {"t1", "t4"}
    assert state.task_types() == ["n0", "n1"]
    assert [uuid for uuid, _ in state.itertasks(limit=2)] == ["t0", "t1"]


def test_memory_is_bounded() -> None:
    state = State(max_tasks_in_memory=10, max_workers_in_memory=2)
    for i in range(200):
        told(state, event("task-received", f"t{i}", at=i, name="n", hostname=f"w{i % 5}"))
    assert (len(state.tasks), len(state.workers), state.task_count) == (10, 2, 200)
    assert len(state._history) <= 41
    assert [uuid for uuid, _ in state.tasks_by_timestamp()] == [f"t{i}" for i in range(199, 189, -1)]
    assert len(state.tasks_by_type["n"]) == 10
    state.clear_tasks(ready=False)
    assert len(state.tasks) == 0
    state.clear()
    assert (state.event_count, state.workers) == (0, {})


def test_parents_are_found() -> None:
    state = told(State(), event("task-received", "root", name="a"), event("task-received", "t1", root_id="root", parent_id="root"))
    assert state.tasks["t1"].parent is state.tasks["t1"].root is state.tasks["root"]


# --- workers


def test_a_worker_lives_from_its_first_word_to_its_last() -> None:
    joined: list[Worker] = []
    left: list[Worker] = []
    state = State(on_node_join=joined.append, on_node_leave=left.append)
    online = event("worker-online", freq=5, active=2, processed=7, loadavg=[1, 2, 3], sw_ident="fastq")
    (worker, created), subject = state.event(online)
    assert isinstance(worker, Worker)
    assert (created, subject, worker.alive) == (True, "online", True)
    assert (worker.active, worker.processed, worker.sw_ident) == (2, 7, "fastq")
    told(state, event("worker-heartbeat", freq=5, active=0))
    assert (list(state.alive_workers()), worker.active, worker.status_string) == ([worker], 0, "ONLINE")
    told(state, event("worker-offline"))
    assert (list(state.alive_workers()), worker.alive, joined, left) == ([], False, [worker], [worker])


def test_a_silent_worker_is_gone_after_two_heartbeats() -> None:
    now = time.time()
    worker = State().event(event("worker-heartbeat", at=now - 9, freq=5))[0][0]
    assert isinstance(worker, Worker)
    assert (worker.alive, worker.heartbeat_expires) == (True, now + 1)
    worker = State().event(event("worker-heartbeat", at=now - 11, freq=5))[0][0]
    assert isinstance(worker, Worker)
    assert not worker.alive


# --- what is told, as events

COMMON = {"hostname", "utcoffset", "pid", "clock", "type", "timestamp"}


def expanded(*batches: bytes) -> list[dict[str, Any]]:
    expansion = Expansion()
    return [one for packed in batches for one in expansion.events(packed)]


def runs_of(*ids: str, body: Any = b"\x92\x91\x01\x80", result: Any = b"\x05") -> bytes:
    return _core.packb([[id, "add", 1000, 250_000, 300, 0, body, result, None] for id in ids])


def test_a_run_that_is_told_once_makes_the_events_of_its_life() -> None:
    events = expanded(batch.pack("w1@h", runs=runs_of("t1"), base_ms=1_000_000, pid=7))
    assert [one["type"] for one in events] == ["task-received", "task-started", "task-succeeded"]
    received, started, succeeded = events
    call = {"uuid", "name", "args", "kwargs", "retries", "eta", "expires", "root_id", "parent_id"}
    assert set(received) == COMMON | call
    assert set(started) == COMMON | {"uuid"}
    assert set(succeeded) == COMMON | {"uuid", "result", "runtime"}
    assert (received["args"], received["kwargs"], received["root_id"], received["parent_id"]) == ("(1,)", "{}", "t1", None)
    assert [one["timestamp"] for one in events] == [1000.7, 1000.75, 1001.0]
    assert (succeeded["result"], succeeded["runtime"], succeeded["pid"], succeeded["hostname"]) == ("5", 0.25, 7, "w1@h")
    assert received["clock"] < started["clock"] < succeeded["clock"]


def test_a_beginning_that_was_told_is_not_told_again() -> None:
    what = {"name": "add", "retries": 0, "body": b"\x92\x91\x01\x80"}
    events = expanded(
        batch.pack("w", told=[{"type": "task-received", "timestamp": 1.0, "uuid": "t1", **what}]),
        batch.pack("w", told=[{"type": "", "of_task": RUNS_ON, "timestamp": 2.0, "uuid": "t1", "started": 1.5, **what}]),
        batch.pack("w", runs=runs_of("t1"), base_ms=1_000_000),
        batch.pack("w", runs=runs_of("t1"), base_ms=1_000_000),  # run again
    )
    assert [one["type"] for one in events] == ["task-received", "task-started", "task-succeeded"] * 2


def test_a_run_in_another_process_begins_anew_and_its_end_may_be_told_by_another() -> None:
    runs_on = {"type": "", "of_task": RUNS_ON, "timestamp": 2.0, "uuid": "t1", "received": 1.0, "started": 1.5, "name": "n"}
    lost = {
        "type": "task-failed",
        "of_task": ENDED,
        "timestamp": 3.0,
        "uuid": "t1",
        "by_another": True,
        "exception": "E",
        "traceback": None,
    }
    events = expanded(
        batch.pack("w", pid=1, told=[runs_on]), batch.pack("w", pid=2, told=[runs_on]), batch.pack("w", pid=3, told=[lost])
    )
    assert [one["type"] for one in events] == ["task-received", "task-started"] * 2 + ["task-failed"]


@pytest.mark.parametrize(
    ("type", "fields"),
    [
        ("task-failed", {"exception": "ValueError()", "traceback": "..."}),
        ("task-retried", {"exception": "ValueError()", "traceback": "..."}),
        ("task-revoked", {"terminated": True, "signum": None, "expired": False}),
        ("task-rejected", {"requeue": True}),
    ],
)
def test_other_ends_have_their_fields(type: str, fields: dict[str, Any]) -> None:
    one = {"type": type, "of_task": ENDED, "timestamp": 3.0, "uuid": "t1", "received": 1.0, "started": 2.0, "name": "n", **fields}
    events = expanded(batch.pack("w", told=[one]))
    assert [event["type"] for event in events] == ["task-received", "task-started", type]
    assert {key: value for key, value in events[-1].items() if key not in COMMON} == {"uuid": "t1", **fields}


def test_what_cannot_be_read_is_passed_over_and_texts_are_cut() -> None:
    assert expanded(b"", b"\xff", b"\x80", _core.packb({"v": 2}), _core.packb({"v": 1, "node": 1})) == []
    long = batch.pack("w", runs=runs_of("t1", body=_core.encode_call(["x" * 1000, "y" * 100], {}), result=None), base_ms=1)
    received, _, succeeded = expanded(long)
    assert (len(received["args"]), received["args"][-3:], succeeded["result"]) == (1024, "...", "...")
    received, *_ = expanded(batch.pack("w", runs=runs_of("t1", body=[b'[[1], {"a": null}]']), base_ms=1))
    assert (received["args"], received["kwargs"]) == ("(1,)", "{'a': None}")
    assert expanded(batch.pack("w", runs=runs_of("t1", body=b"\xc1"), base_ms=1))[0]["args"] == "..."


def test_what_was_left_out_is_counted() -> None:
    expansion = Expansion()
    assert list(expansion.events(batch.pack("w", left=3))) == []
    assert expansion.left_out == 3


@pytest.mark.parametrize(
    ("key", "matches", "others"),
    [
        ("task.#", ["task.sent", "task.x.y"], ["worker.online"]),
        ("worker.*", ["worker.online"], ["worker.a.b", "task.sent"]),
        ("task.failed", ["task.failed"], ["task.sent"]),
    ],
)
def test_routing_keys(key: str, matches: list[str], others: list[str]) -> None:
    wanted = _pattern(key)
    assert wanted is not None
    assert all(map(wanted, matches))
    assert not any(map(wanted, others))


# --- sending


class Stream:
    """A channel that keeps what is sent."""

    def __init__(self) -> None:
        self.batches: list[bytes] = []
        self.broken = False
        self.heard = True
        self.gate = threading.Event()
        self.gate.set()

    def send_events(self, batches: Sequence[bytes], *, keep: int, expires_s: int) -> None:
        self.gate.wait(30)
        if self.broken:
            raise OperationalError("away")
        self.batches += batches

    def listened(self) -> bool:
        return self.heard

    def close(self) -> None: ...


def outbox_to(stream: Stream) -> Outbox:
    return Outbox(lambda: stream, "w", keep=10, expires_s=60)  # type: ignore[arg-type, return-value]


def test_single_events_go_out_together() -> None:
    stream = Stream()
    outbox = outbox_to(stream)
    for i in range(10):
        outbox.tell("task-x", n=i)
    assert outbox.flush(10)
    assert [one["n"] for one in expanded(*stream.batches)] == list(range(10))
    assert len(stream.batches) <= 2
    outbox.close()


def test_single_events_are_dropped_while_nobody_listens() -> None:
    stream = Stream()
    stream.heard = False
    outbox = outbox_to(stream)
    outbox.tell("task-x")
    assert outbox.flush(10)
    assert stream.batches == []
    outbox.close()


def test_a_broker_that_is_away_costs_no_time_and_no_memory(caplog: pytest.LogCaptureFixture) -> None:
    stream = Stream()
    stream.broken = True
    outbox = outbox_to(stream)
    outbox.put(b"one", 5)
    assert outbox.flush(10)
    assert outbox.dropped > 0
    before = outbox.dropped
    outbox.put(b"two", 5)  # not even tried for a while
    assert outbox.flush(10)
    assert outbox.dropped > before
    assert len(caplog.records) == 1
    outbox.close()


def test_a_slow_broker_drops_events_instead_of_keeping_them() -> None:
    stream = Stream()
    stream.gate.clear()
    outbox = outbox_to(stream)
    began = time.monotonic()
    for i in range(100):
        outbox.put(b"%d" % i, 3)
    assert time.monotonic() - began < 5
    stream.gate.set()
    assert outbox.flush(10)
    assert len(stream.batches) <= 2 * BATCHES_MAX
    assert outbox.dropped == 3 * (100 - len(stream.batches))
    outbox.close()


# --- the application's


def test_events_of_ones_own_hold_what_events_can_hold() -> None:
    with FastQ("events-own", broker="memory://events-own") as app:
        seen: list[dict[str, Any]] = []
        receiver = app.events.Receiver(app.connection(), handlers={"task-x": seen.append}, routing_key="task.#")
        begun = receiver.itercapture(limit=2, timeout=30)
        reader = threading.Thread(target=lambda: list(begun))
        reader.start()
        channel = app.events.open_channel()
        while not channel.listened():
            time.sleep(0.01)
        with app.events.default_dispatcher(hostname="me") as dispatcher:
            dispatcher.send("worker-x")
            dispatcher.send("task-x", uuid="1", odd={1}, large=1 << 70)
            dispatcher.send("task-x", uuid="2", text="\udc80")
            with pytest.raises(ValueError, match="an event needs a type"):
                dispatcher.send("")
        reader.join(30)
        assert not reader.is_alive()
        first, second = seen
        assert (first["odd"], first["large"], first["hostname"]) == ("{1}", str(1 << 70), "me")
        assert (second["uuid"], "local_received" in second) == ("2", True)
        assert not channel.listened()


def test_groups_and_switches_of_a_dispatcher() -> None:
    with FastQ("events-groups", broker="memory://events-groups") as app:
        dispatcher = app.events.Dispatcher(groups=["worker"], enabled=False)
        calls: list[str] = []
        dispatcher.on_enabled.add(lambda: calls.append("on"))
        dispatcher.on_disabled.add(lambda: calls.append("off"))
        dispatcher.send("worker-x")
        dispatcher.enable()
        dispatcher.send("task-x")
        dispatcher.disable()
        assert (calls, len(dispatcher.outbox._events)) == (["on", "off"], 0)


def test_capturing_ends_when_it_is_told_or_when_nothing_comes() -> None:
    with FastQ("events-none", broker="memory://events-none") as app:
        receiver = app.events.Receiver()
        with pytest.raises(TimeoutError):
            receiver.capture(timeout=0.05, wakeup=False)
        receiver.should_stop = True
        receiver.capture()


def test_a_camera_takes_pictures_and_a_last_one() -> None:
    pictures: list[int] = []
    taken = threading.Event()

    class Camera(Polaroid):
        clear_after = True

        def on_shutter(self, state: Any) -> None:
            pictures.append(state.event_count)
            taken.set()

    state = State()
    with Camera(state, freq=0.01):
        state.event(event("task-received"))
        assert taken.wait(10)
    assert (sum(pictures), state.event_count) == (1, 0)
    camera = Camera(state, maxrate="1/h")
    pictures.clear()
    camera.capture()
    camera.capture()
    assert len(pictures) == 1
    with pytest.raises(ValueError, match="is no rate"):
        Camera(state, maxrate="often")


def test_who_sends_tells_so_where_it_is_asked_to() -> None:
    with FastQ("events-sent", broker="memory://events-sent") as app:
        app.conf.task_send_sent_event = True

        @app.task
        def add(x: int, y: int) -> int:
            return x + y

        seen: list[dict[str, Any]] = []
        receiver = app.events.Receiver(handlers={"*": seen.append})
        reader = threading.Thread(target=lambda: receiver.capture(limit=4, timeout=30))
        reader.start()
        channel = app.events.open_channel()
        while not channel.listened():
            time.sleep(0.01)
        ids = [add.apply_async((1, 2), queue="q", countdown=100).id]
        ids += [result.id for result in add.delay_many([(i, i) for i in range(3)])]
        reader.join(30)
        assert [one["uuid"] for one in seen] == ids
        assert {one["type"] for one in seen} == {"task-sent"}
        first = seen[0]
        assert set(first) - COMMON - {"local_received"} == {
            "uuid", "name", "args", "kwargs", "retries", "eta", "expires", "queue", "exchange", "routing_key", "root_id",
            "parent_id",
        }  # fmt: skip
        assert (first["args"], first["queue"], first["eta"] is not None) == ("(1, 2)", "q", True)
