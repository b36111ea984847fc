"""What the tests of the core share: envelopes with defaults, strategies, a runner that notes everything."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from hypothesis import strategies as st

from fastq import _core
from fastq._core import Delivery, Entry, ProcessBoard, Registry, Runner, Settlement, Tally

MSGPACK = "application/x-msgpack"

text = st.text(max_size=40)
#: any text that fits 255 bytes of UTF-8 and is not empty
ids = st.text(min_size=1, max_size=255).filter(lambda t: len(t.encode()) <= 255)
int64 = st.integers(-(2**63), 2**63 - 1)
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | text | st.binary(max_size=40)
keys = text | st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=10) | st.booleans()
plain = st.recursive(scalars, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(keys, inner, max_size=5), max_leaves=20)


def envelope(
    name: str = "tasks.add",
    args: tuple[Any, ...] = (),
    kwargs: dict[str, Any] | None = None,
    *,
    id: str = "018bcfe5-6800-7010-ba45-c091c8215b92",
    content_type: str = MSGPACK,
    body: bytes | None = None,
    inbox: str | None = None,
    options: dict[str, Any] | None = None,
) -> bytes:
    if body is None:
        body = _core.encode_call(args, kwargs or {})
    return _core.encode(id, name, content_type, body, 1_700_000_000_000, None, 0, inbox, options)


def deliver(registry: Registry, *messages: bytes, queue: str = "default") -> list[Delivery]:
    return _core.deliveries(queue, [f"0:1:{i}" for i in range(len(messages))], list(messages), registry)


def new_board(slots: int = 2, capacity: int = 16, tally: Tally | None = None) -> ProcessBoard:
    return ProcessBoard(memoryview(bytearray(ProcessBoard.size(slots, capacity))), slots, capacity, tally)


def new_tally(tasks: int = 8, queues: int = 4) -> Tally:
    return Tally(memoryview(bytearray(Tally.size(tasks, queues))), tasks, queues)


class Noted:
    """A runner with its surroundings: settlements in ``out``, exceptions that reached ``on_error`` in ``errors``."""

    def __init__(self, fn: Callable[..., Any], *, entry: dict[str, Any] | None = None, **options: Any) -> None:
        self.out: list[Settlement] = []
        self.errors: list[tuple[Delivery, BaseException, int]] = []
        self.current: ContextVar[Delivery | None] = ContextVar("current", default=None)
        self.entry = Entry("tasks.add", fn, **(entry or {}))
        self.registry = Registry([self.entry])
        settings: dict[str, Any] = {
            "emit": self.out.append,
            "loads": lambda content_type, body: ((), {}),
            "dumps": lambda entry, value: ("text/repr", repr(value).encode()),
            "on_error": self.on_error,
            "current": self.current,
        }
        self.runner = Runner(**{**settings, **options})

    def on_error(self, d: Delivery, exc: BaseException, runtime_ns: int) -> Settlement:
        self.errors.append((d, exc, runtime_ns))
        return Settlement(d.queue, d.tag, d.id, _core.DEAD, reason="failed", record=d.record)

    def deliver(self, *args: Any, **kwargs: Any) -> Delivery:
        return deliver(self.registry, envelope(self.entry.name, args, kwargs))[0]

    def run(self, *args: Any, **kwargs: Any) -> Settlement:
        assert self.runner.run(0, self.deliver(*args, **kwargs))
        return self.out[-1]

    def result(self, *args: Any, **kwargs: Any) -> tuple[str, str, bytes, str | None, int, dict[str, Any] | None]:
        record = self.run(*args, **kwargs).result
        assert record is not None, self.errors
        return _core.decode_result(record)

    @property
    def error(self) -> BaseException:
        return self.errors[-1][1]
