"""Tracing: one trace from who sends to what follows, with OpenTelemetry's in-memory exporter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest

pytest.importorskip("opentelemetry.sdk")

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from fastq import FastQ, chain, chord, signals
from fastq.contrib.opentelemetry import instrument, uninstrument
from fastq.testing import start_worker


@dataclass
class Seen:
    provider: TracerProvider
    exporter: InMemorySpanExporter

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        return self.exporter.get_finished_spans()

    def one(self, name: str) -> ReadableSpan:
        (span,) = [span for span in self.spans if span.name == name]
        return span

    def parent(self, span: ReadableSpan) -> str:
        by_id = {s.context.span_id: s.name for s in self.spans}
        return by_id[span.parent.span_id] if span.parent is not None else ""


@pytest.fixture
def seen() -> Iterator[Seen]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    instrument(provider)
    yield Seen(provider, exporter)
    uninstrument()


@pytest.fixture
def app(request: pytest.FixtureRequest) -> Iterator[FastQ]:
    url = f"memory://{request.node.nodeid}"
    app = FastQ("shop", broker=url, backend=url, set_as_current=False)

    @app.task(name="add")
    def add(x: int, y: int) -> int:
        assert trace.get_current_span().get_span_context().is_valid
        return x + y

    @app.task(name="aadd")
    async def aadd(x: int, y: int) -> int:
        assert trace.get_current_span().get_span_context().is_valid
        return x + y

    @app.task(name="total")
    def total(values: list[int]) -> int:
        return sum(values)

    @app.task(name="send_more")
    def send_more() -> None:
        add.delay(1, 2).forget()

    @app.task(name="fail")
    def fail() -> None:
        raise ValueError("no stock")

    @app.task(name="flaky", bind=True, max_retries=2)
    def flaky(self) -> str:  # type: ignore[no-untyped-def]
        if self.request.retries < 2:
            raise self.retry(countdown=0)
        return "at last"

    yield app
    app.close()


@pytest.mark.parametrize("pool", ["solo", "threads", "asyncio"])
def test_a_run_is_the_child_of_who_sent_it_and_current_while_it_runs(app: FastQ, seen: Seen, pool: str) -> None:
    tracer = seen.provider.get_tracer("test")
    with start_worker(app, pool=pool, concurrency=2), tracer.start_as_current_span("request") as request:
        assert app.tasks["add"].delay(1, 2).get(timeout=30) == 3
        assert app.tasks["aadd"].delay(1, 2).get(timeout=30) == 3
    for name in ("add", "aadd"):
        sent, run = seen.one(f"send {name}"), seen.one(f"run {name}")
        assert (sent.kind, run.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
        assert sent.parent is not None and sent.parent.span_id == request.get_span_context().span_id
        assert run.parent is not None and run.parent.span_id == sent.context.span_id
        assert run.context.trace_id == request.get_span_context().trace_id
        assert run.status.status_code is StatusCode.UNSET


def test_attributes_follow_the_conventions_for_messaging(app: FastQ, seen: Seen) -> None:
    with start_worker(app):
        result = app.tasks["add"].apply_async((1, 2), queue="default")
        result.get(timeout=30)
    assert dict(seen.one("send add").attributes or {}) == {
        "messaging.system": "fastq",
        "messaging.operation.type": "create",
        "messaging.operation.name": "send",
        "messaging.destination.name": "default",
        "messaging.message.id": result.id,
        "messaging.message.conversation_id": result.id,
        "fastq.task": "add",
    }
    attributes = dict(seen.one("run add").attributes or {})
    assert attributes["messaging.operation.type"] == "process"
    assert attributes["messaging.operation.name"] == "run"
    assert attributes["messaging.destination.name"] == "default"
    assert attributes["messaging.message.id"] == result.id
    assert (attributes["fastq.state"], attributes["fastq.retries"]) == ("SUCCESS", 0)


def test_what_follows_and_what_a_task_sends_belong_to_the_same_trace(app: FastQ, seen: Seen) -> None:
    tracer = seen.provider.get_tracer("test")
    add, aadd, total = app.tasks["add"], app.tasks["aadd"], app.tasks["total"]
    with start_worker(app, pool="threads", concurrency=2), tracer.start_as_current_span("request"):
        assert chain(add.s(1, 2), aadd.s(3)).delay().get(timeout=30) == 6
        assert chord([add.s(1, 1), aadd.s(2, 2)], total.s()).delay().get(timeout=30) == 6
        app.tasks["send_more"].delay().get(timeout=30)
    assert len({span.context.trace_id for span in seen.spans}) == 1
    assert seen.parent(seen.one("run total")) == "send total"
    (from_task,) = [span for span in seen.spans if span.name == "send add" and seen.parent(span) == "run send_more"]
    assert from_task.kind is SpanKind.PRODUCER


def test_each_retry_is_a_run_of_the_same_message(app: FastQ, seen: Seen) -> None:
    with start_worker(app):
        assert app.tasks["flaky"].delay().get(timeout=30) == "at last"
    runs = [span for span in seen.spans if span.name == "run flaky"]
    assert [dict(run.attributes or {})["fastq.state"] for run in runs] == ["RETRY", "RETRY", "SUCCESS"]
    assert [dict(run.attributes or {})["fastq.retries"] for run in runs] == [0, 1, 2]
    assert {seen.parent(run) for run in runs} == {"send flaky"}
    assert [event.name for event in runs[0].events] == ["retry"]


def test_a_failure_is_an_error_of_the_run_alone(app: FastQ, seen: Seen) -> None:
    with start_worker(app), pytest.raises(ValueError, match="no stock"):
        app.tasks["fail"].delay().get(timeout=30)
    run = seen.one("run fail")
    assert run.status.status_code is StatusCode.ERROR and run.status.description == "ValueError: no stock"
    assert dict(run.attributes or {})["error.type"] == "ValueError"
    assert [event.name for event in run.events] == ["exception"]
    assert seen.one("send fail").status.status_code is StatusCode.UNSET


def test_instrumenting_twice_makes_one_span_and_uninstrumenting_none(app: FastQ, seen: Seen) -> None:
    instrument(seen.provider)
    app.tasks["add"].delay(1, 2)
    assert [span.name for span in seen.spans] == ["send add"]
    uninstrument()
    assert not signals.before_task_publish.receivers and not signals.task_prerun.receivers
    app.tasks["add"].delay(1, 2)
    assert len(seen.spans) == 1
