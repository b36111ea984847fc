"""How tasks that a node has are shown: what runs, what waits in a process, and what the node must not, or cannot, read."""

from __future__ import annotations

import pickle
import zlib
from dataclasses import replace
from typing import Any

from fastq import _core
from fastq._core import FINISHED, ProcessBoard, Registry, packb
from fastq.exceptions import OperationalError
from fastq.worker.board import Board
from fastq.worker.control import commands
from fastq.worker.control.looking import active, query_task, registered, reserved
from fastq.worker.control.tasks import BODY_MAX, described, held
from fastq.worker.node import WorkerProcess
from tests.unit.test_worker_banner import HELLO


def envelope(id: str, body: bytes = b"", content_type: str = "application/x-msgpack", **options: Any) -> bytes:
    return _core.encode(id, "tasks.add", content_type, body or packb([[1], {"y": 2}]), 0, None, 0, None, options or None)


class Node:
    """A node with one process, which has what a test gives it."""

    name = "w1@host"
    hello = HELLO
    known_queues = ("default", "mail")

    def __init__(self) -> None:
        self._board = Board()
        self.board: ProcessBoard = self._board.region(0, 4)
        self.board.clear()
        self.messages: list[tuple[str, str, bytes]] = []
        self.down = False

    def give(self, queue: str, message: bytes, state: str = "held") -> None:
        tag = f"0:1:{len(self.messages)}"
        self.messages.append((queue, tag, message))
        if state == "unseen":
            return  # fetched, and not yet on the board
        batch = _core.deliveries(queue, [tag], [message], Registry([]))
        self.board.hold(batch, self.known_queues.index(queue), 5)
        if state in ("started", "finished"):
            self.board.claim(batch[0].record, 1_700_000_000_123)
        if state == "finished":
            self.board.finish(batch[0].record)
        if state == "returned":
            self.board.give_back(batch[0].record)

    def processes(self) -> list[WorkerProcess]:
        return [WorkerProcess(0, 4711, "p", True, 0.0, ("w1@host.0.x",), self.board)]

    def leased(self, names: Any) -> list[tuple[str, str, bytes]]:
        if self.down:
            raise OperationalError("nobody answers")
        return self.messages

    def ask(self, question: Any, answer: Any) -> None:
        answer(OperationalError("nobody there"))


def test_what_runs_and_what_waits_in_a_process_are_told_apart() -> None:
    node: Any = Node()
    assert active(node) == [] and reserved(node) == []
    node.give("default", envelope("runs", priority=4), "started")
    node.give("mail", envelope("waits"))
    node.give("mail", envelope("ends"), "finished")
    node.give("mail", envelope("goes"), "returned")
    node.give("mail", envelope("comes"), "unseen")
    assert FINISHED  # all states there are
    assert [task["id"] for task in active(node)] == ["runs"]
    assert [task["id"] for task in reserved(node)] == ["waits", "comes"]
    (running,) = active(node)
    assert running["time_start"] == 1_700_000_000.123 and running["worker_pid"] == 4711 and running["acknowledged"] is True
    waiting = reserved(node)[0]
    assert (waiting["time_start"], waiting["worker_pid"], waiting["acknowledged"]) == (None, None, False)
    assert waiting["delivery_info"] == {"exchange": "", "routing_key": "mail", "priority": 0, "redelivered": False}
    assert query_task(node, ["runs", "waits"]) == {"runs": ["active", running], "waits": ["reserved", waiting]}
    assert query_task(node, "runs") == {"runs": ["active", running]}


def test_a_task_shows_how_it_came() -> None:
    node: Any = Node()
    info = described(node, "mail", _core.remark(envelope("again", priority=9, routing_key="to.mail"), 2))
    assert info is not None
    assert info["delivery_info"] == {"exchange": "", "routing_key": "to.mail", "priority": 9, "redelivered": True}
    info = described(node, "mail", envelope("back", requeued=True))
    assert info is not None and info["delivery_info"]["redelivered"] is True
    node.hello = replace(HELLO, reversed_priority=True)
    info = described(node, "mail", envelope("first", priority=9))
    assert info is not None and info["delivery_info"]["priority"] == 0


def test_arguments_are_read_only_where_that_is_safe() -> None:
    def shown(message: bytes, **how: Any) -> tuple[Any, Any]:
        info = described(Node(), "default", message, **how)  # type: ignore[arg-type]
        assert info is not None
        return info["args"], info["kwargs"]

    assert shown(envelope("a")) == ([1], {"y": 2})
    assert shown(envelope("a", b'[[1], {"y": 2}]', "application/json")) == ([1], {"y": 2})
    unread = "<%d bytes of %s>"
    body = pickle.dumps(([1], {}))
    pickled = unread % (len(body), "application/x-python-serialize")
    assert shown(envelope("a", body, "application/x-python-serialize")) == (pickled, pickled)
    assert shown(envelope("a", body, "application/x-python-serialize", argsrepr="(1,)", kwargsrepr="{}")) == ("(1,)", "{}")
    bomb = zlib.compress(packb([["x" * 10_000_000], {}]))
    assert "zlib" in shown(envelope("a", bomb, "application/x-msgpack;zlib"))[0]
    large = packb([["x" * BODY_MAX], {}])
    assert shown(envelope("a", large))[0] == unread % (len(large), "application/x-msgpack")
    for broken in (b"\xc1", packb([1]), packb([[1], 5]), packb({"a": 1})):
        args, kwargs = shown(envelope("a", broken))
        assert isinstance(args, str) and isinstance(kwargs, str)
    assert shown(envelope("a", argsrepr="(secret)", kwargsrepr="{...}"), safe=True) == ("(secret)", "{...}")
    assert described(Node(), "default", b"no envelope") is None  # type: ignore[arg-type]


def test_a_broker_that_does_not_answer_is_an_error_for_who_asks() -> None:
    node: Any = Node()
    assert list(held(node)) == [], "nobody is asked for what a process has not"
    node.give("default", envelope("runs"), "started")
    node.down = True
    try:
        active(node)
    except OperationalError as exc:
        assert "nobody answers" in str(exc)
    else:
        raise AssertionError("it must be said")


def test_names_of_tasks_are_known_without_the_application() -> None:
    node: Any = Node()
    replies: list[Any] = []
    registered(node).start(replies.append)
    registered(node, ["rate_limit"]).start(replies.append)
    assert replies == [list(HELLO.tasks), {"error": "nobody there"}]


def test_every_command_of_celery_is_there() -> None:
    celery = (
        "active active_queues add_consumer autoscale cancel_consumer clock conf disable_events enable_events heartbeat hello "
        "memdump memsample objgraph ping pool_grow pool_restart pool_shrink query_task rate_limit registered report reserved "
        "revoke revoke_by_stamped_headers revoked scheduled shutdown stats terminate time_limit "
        "dump_active dump_conf dump_reserved dump_revoked dump_schedule dump_tasks"
    )
    assert set(celery.split()) <= set(commands())
