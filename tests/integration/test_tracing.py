"""Traces of real workers: the run is the current span in every kind of process, and its trace is the sender's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("opentelemetry.sdk")

from opentelemetry.sdk.trace import TracerProvider

from fastq import FastQ
from fastq.contrib.opentelemetry import instrument, uninstrument
from tests.workers import Worker, eventually

SHOP = '''\
import os
from fastq import FastQ
from fastq.contrib.opentelemetry import instrument
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

provider = TracerProvider()
out = open(os.environ["SPANS"], "a", buffering=1)
provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=out, formatter=lambda s: s.to_json(indent=None) + "\\n")))
instrument(provider)
app = FastQ("tasks", broker=os.environ["TEST_BROKER"], backend=os.environ["TEST_BROKER"])


def here():
    return format(trace.get_current_span().get_span_context().span_id, "016x")


@app.task(name="plain")
def plain():
    return here()


@app.task(name="later")
async def later():
    return here()
'''


@pytest.mark.parametrize("pool", ["prefork", "gevent", "eventlet"])
def test_a_run_is_the_current_span_in_every_kind_of_process(pool: str, redis_url: str, tmp_path: Path) -> None:
    spans = tmp_path / "spans.jsonl"
    (tmp_path / "tasks.py").write_text(SHOP)
    worker = Worker(tmp_path, "-P", pool, "-c", "2", env={"TEST_BROKER": redis_url, "SPANS": str(spans)})
    provider = TracerProvider()
    instrument(provider)
    app = FastQ("sender", broker=redis_url, backend=redis_url, set_as_current=False)
    try:
        with provider.get_tracer("test").start_as_current_span("request") as request:
            results = {name: app.send_task(name) for name in ("plain", "later")}
        current = {name: result.get(timeout=60) for name, result in results.items()}
        eventually(lambda: spans.read_text().count("\n") == 2, "both spans are exported")
        runs = {span["name"]: span for span in map(json.loads, spans.read_text().splitlines())}
        for name in ("plain", "later"):
            run = runs[f"run {name}"]
            assert run["context"]["span_id"] == f"0x{current[name]}"
            assert run["context"]["trace_id"] == f"0x{request.get_span_context().trace_id:032x}"
    finally:
        uninstrument()
        app.close()
        worker.kill_all()
