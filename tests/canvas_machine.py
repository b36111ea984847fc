"""Run canvases without a worker: the messages of ``fastq.flow`` interpreted in this process, in any order.

A machine stands in for the broker of an application. What the application publishes waits in the machine until ``run``, which
takes the messages one by one (in order, or as a random generator picks them), runs the task's function, and does with the effects
of its end what a broker does in one step. With ``repeat`` the counts of every settlement are reported twice, as after a lost
reply: the second report must change nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastq import FastQ, _core, flow
from fastq.exceptions import ChordError, Ignore
from fastq.producer import Producer
from fastq.records import Count, Effects, Opening, Publication
from fastq.remote import decode_exception, encode_exception
from fastq.result import AsyncResult
from fastq.results import GroupResult

NOW_MS = 1_700_000_000_000


@dataclass
class Join:
    size: int
    body: Publication
    #: member -> record, in the order of their ends
    records: dict[str, bytes] = field(default_factory=dict)
    failed: tuple[str, bytes] | None = None
    published: bool = False


@dataclass
class Failure:
    """Stands for the value of a task that failed."""

    type: str
    text: str = field(compare=False, default="")


class Machine:
    def __init__(
        self,
        app: FastQ,
        *,
        order: random.Random | None = None,
        repeat: bool = False,
        functions: dict[str, Callable[..., Any]] | None = None,
    ) -> None:
        """``functions`` stand in for tasks of their names; others are run as the application knows them."""
        self.app = app
        self.order = order
        self.repeat = repeat
        self.functions = functions or {}
        self.waiting: list[Publication] = []
        self.joins: dict[tuple[str, str], Join] = {}
        self.results: dict[str, bytes] = {}
        #: every run: task name, args, kwargs
        self.runs: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        #: every message, in the order of publication
        self.messages: list[bytes] = []
        #: how often the application has published
        self.calls = 0
        #: ids that were run
        self.ran: list[str] = []
        app._producer = Producer(lambda: self)  # type: ignore[arg-type, return-value]

    # --- as a broker ---

    url = "machine://"

    def now_ms(self) -> int:
        return NOW_MS

    def publish(self, producer: str, number: int, publications: Sequence[Publication], openings: Sequence[Opening] = ()) -> None:
        self.calls += 1
        self.carry_out(Effects(openings=openings, publications=publications))

    def close(self) -> None:
        pass

    # --- running ---

    def run(self) -> Machine:
        """Run until nothing is left."""
        while self.waiting:
            at = self.order.randrange(len(self.waiting)) if self.order else 0
            publication = self.waiting.pop(at)
            effects = self.settle(publication)
            if effects is not None:
                self.carry_out(effects)
                if self.repeat:
                    self.carry_out(effects._replace(publications=(), openings=()))
        return self

    def settle(self, publication: Publication) -> Effects | None:
        """Run one message; return the effects of its end."""
        d = _core.peek(publication.message)
        self.ran.append(d.id)
        try:
            args, kwargs = self.arguments(d)
            self.runs.append((d.name, args, kwargs))
            value = self.function(d.name)(*args, **kwargs)
        except Ignore as exc:
            return flow.failed(d, self.failure(exc), NOW_MS, errbacks=False)
        except Exception as exc:
            record = self.failure(exc)
            self.results[d.id] = record
            return flow.failed(d, record, NOW_MS)
        content_type, body = self.app.serializers.dumps("msgpack", value)
        record = _core.encode_result("SUCCESS", content_type, body, None, NOW_MS, None)
        if not (d.options or {}).get("ignore_result"):
            self.results[d.id] = record
        return flow.succeeded(d, (content_type, body), record, NOW_MS)

    def failure(self, exc: BaseException) -> bytes:
        content_type, body, traceback = encode_exception(exc, self.app.serializers)
        return _core.encode_result("FAILURE", content_type, body, traceback, NOW_MS, None)

    def function(self, name: str) -> Callable[..., Any]:
        return self.functions.get(name) or self.app.tasks[name]

    def arguments(self, d: _core.Delivery) -> tuple[tuple[Any, ...], dict[str, Any]]:
        loads = self.app.serializers.loads
        args, kwargs = loads(d.content_type, d.body)
        known = d.flow or {}
        front = [loads(content_type, body) for content_type, body in known.get("args", ())]
        if "joined" in known:
            join = self.joins[(known["joined"][1], known["joined"][0])]
            if join.failed is not None:
                id, record = join.failed
                _state, content_type, body, traceback, _, _ = _core.decode_result(record)
                cause = decode_exception(content_type, body, traceback, self.app.serializers)
                raise ChordError(f"Dependency {id} raised {cause!r}")
            front = [[self.value_of(join.records[str(member)]) for member in range(join.size)]]
        if "errback" in known:
            front = [known["errback"][0]]
        return (*front, *args), kwargs

    def carry_out(self, effects: Effects) -> None:
        for opening in effects.openings:
            key = (opening.body.queue, opening.id)
            assert key not in self.joins, "a join is opened once"
            assert opening.size > 0, "nobody would ever close it"
            self.joins[key] = Join(opening.size, opening.body)
        for publication in effects.publications:
            self.messages.append(publication.message)
            self.waiting.append(publication)
        for count in effects.counts:
            self.count(count)
        for drop in effects.drops:
            if not drop.keep_s:
                self.joins.pop((drop.queue, drop.join), None)
        for result in effects.results:
            self.results[result.id] = result.record

    def count(self, count: Count) -> None:
        join = self.joins.get((count.queue, count.join))
        if join is None or join.published or count.member in join.records:
            return
        join.records[count.member] = count.record
        if count.failed:
            join.failed = (count.task_id, count.record)
        if count.failed or len(join.records) == join.size:
            join.published = True
            self.messages.append(join.body.message)
            self.waiting.append(join.body)

    # --- what became of it ---

    def value_of(self, record: bytes) -> Any:
        state, content_type, body, traceback, _, _ = _core.decode_result(record)
        if state != "SUCCESS":
            exc = decode_exception(content_type, body, traceback, self.app.serializers)
            return Failure(type(exc).__name__, str(exc))
        return self.app.serializers.loads_result(content_type, body)

    def value(self, result: AsyncResult[Any] | GroupResult[Any] | None) -> Any:
        """Return the value of a result: a Failure for a failed one, KeyError for one that never came."""
        if result is None:
            return None
        if isinstance(result, GroupResult):
            return [self.value(member) for member in result.results]
        return self.value_of(self.results[result.id])

    def __call__(self, sig: Any, *args: Any, **options: Any) -> Any:
        """Send a signature, run everything, and return the value of its result."""
        result = sig.apply_async(args, **options)
        return self.run().value(result)
