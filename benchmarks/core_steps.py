"""One no-op task through the compiled core, and the same steps in plain Python with msgpack: what the core is measured against.

The plain side is written for speed too: slotted records, a local name for every function, no checks that the core does not make.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from time import monotonic_ns
from typing import Any

import msgpack

from fastq import _core
from fastq._core import Entry, Registry, Runner, Settlement

NOW_MS = 1_700_000_000_000
MSGPACK = "application/x-msgpack"
BATCH = 100

current: ContextVar[Any] = ContextVar("current", default=None)


def noop() -> None:
    """Do nothing, as the task that is measured."""


FIELDS: tuple[Any, ...] = (
    _core.new_id(NOW_MS), "bench.tasks.noop", MSGPACK, _core.encode_call((), {}), NOW_MS, None, 0, "a1b2c3d4e5f6", None,
)  # fmt: skip
MESSAGE = _core.encode(*FIELDS)
TAGS = [f"0:12:{i}" for i in range(BATCH)]
MESSAGES = [_core.encode(_core.new_id(NOW_MS), *FIELDS[1:]) for _ in range(BATCH)]


# --- the core


def core_batch() -> Callable[[], int]:
    """Return what takes a fetched batch through the core: read headers, load, run, encode the outcome."""
    registry = Registry([Entry(f"bench.tasks.other{i}", noop) for i in range(20)] + [Entry("bench.tasks.noop", noop)])
    out: deque[Settlement] = deque(maxlen=BATCH)

    def unexpected(*args: Any) -> Any:
        raise AssertionError(args)

    runner = Runner(emit=out.append, loads=unexpected, dumps=unexpected, on_error=unexpected, current=current)
    runner.now_ms = NOW_MS
    run_many, deliveries = runner.run_many, _core.deliveries

    def batch() -> int:
        return run_many(0, deliveries("default", TAGS, MESSAGES, registry))

    assert batch() == BATCH
    assert out[-1].result == plain_record(None)
    return batch


# --- plain Python


class PlainDelivery:
    """As the core's, its fields read."""

    __slots__ = (
        "body",
        "content_type",
        "enqueued_ms",
        "entry",
        "expires_ms",
        "id",
        "inbox",
        "message",
        "name",
        "options",
        "queue",
        "retries",
        "tag",
    )


class PlainSettlement:
    """As the core's, for a success."""

    __slots__ = ("id", "inbox", "queue", "result", "tag", "verdict")

    def __init__(self, queue: str, tag: str, id: str, verdict: int, result: bytes, inbox: str) -> None:
        self.queue = queue
        self.tag = tag
        self.id = id
        self.verdict = verdict
        self.result = result
        self.inbox = inbox


def plain_record(value: object, pack: Callable[[object], bytes] = msgpack.packb) -> bytes:
    """Encode the result record of a success."""
    return pack(["SUCCESS", MSGPACK, pack(value), None, NOW_MS, None])


def plain_batch() -> Callable[[], int]:
    """Return what takes a fetched batch through the same steps without the core."""
    registry = {f"bench.tasks.other{i}": noop for i in range(20)} | {"bench.tasks.noop": noop}
    out: deque[PlainSettlement] = deque(maxlen=BATCH)
    # reused, as any plain implementation in a hurry would: msgpack.packb makes a Packer for every call
    pack = msgpack.Packer().pack
    unpack, emit = msgpack.unpackb, out.append

    def read(queue: str, tags: Sequence[str], messages: Sequence[bytes]) -> list[PlainDelivery]:
        found = []
        for tag, message in zip(tags, messages, strict=True):
            d = PlainDelivery()
            d.queue = queue
            d.tag = tag
            d.message = message
            (
                d.id, d.name, d.content_type, d.body, d.enqueued_ms, d.expires_ms, d.retries, d.inbox, d.options,
            ) = unpack(message)  # fmt: skip
            d.entry = registry[d.name]
            found.append(d)
        return found

    def batch() -> int:
        ran = 0
        for d in read("default", TAGS, MESSAGES):
            token = current.set(d)
            started_ns = monotonic_ns()
            args, kwargs = unpack(d.body)
            value = d.entry(*args, **kwargs)
            emit(PlainSettlement(d.queue, d.tag, d.id, 0, plain_record(value, pack), d.inbox))
            current.reset(token)
            _elapsed_ns = monotonic_ns() - started_ns
            ran += 1
        return ran

    assert batch() == BATCH
    return batch
