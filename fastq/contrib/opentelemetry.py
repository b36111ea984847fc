"""OpenTelemetry: one trace from who sends a task, through its run, to what the run sends. Needs ``fastq[opentelemetry]``.

    from fastq.contrib.opentelemetry import instrument

    instrument()        # where the application is made: producers and workers both import that

Every message makes a span of kind PRODUCER, when it is made: those of a chain's later steps too, which are sent by workers once
their turn has come. Its context travels in the message's headers (``traceparent``, ``tracestate``, ``baggage``: whatever the global
propagator writes). A run makes a span of kind CONSUMER, the child of that, and is the current span while the task runs, in every
pool; each retry is a run, and a span, of its own. Names and attributes follow the semantic conventions for messaging.
"""

from __future__ import annotations

from contextvars import Token
from typing import TYPE_CHECKING, Any, NamedTuple

from fastq import signals, states
from fastq.exceptions import ImproperlyConfigured

try:
    from opentelemetry import context, propagate, trace
    from opentelemetry.trace import SpanKind, Status, StatusCode
except ImportError as exc:
    raise ImproperlyConfigured("tracing needs the Python package opentelemetry-api: pip install 'fastq[opentelemetry]'") from exc

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, TracerProvider

__all__ = ["Tracing", "instrument", "uninstrument"]


class _Run(NamedTuple):
    span: Span
    token: Token[Context]


class Tracing:
    """The receivers of fastq's signals that make spans. ``connect`` and ``disconnect`` may be called again."""

    def __init__(self, tracer_provider: TracerProvider | None = None) -> None:
        # lazy: the package's own version is not needed to import this module
        from fastq import __version__

        self._tracer = trace.get_tracer("fastq", __version__, tracer_provider)
        #: by task id
        self._running: dict[str, _Run] = {}

    def connect(self) -> None:
        for signal, receiver in self._receivers():
            signal.connect(receiver, weak=False)

    def disconnect(self) -> None:
        for signal, receiver in self._receivers():
            signal.disconnect(receiver)

    def _receivers(self) -> tuple[tuple[signals.Signal, Any], ...]:
        return (
            (signals.before_task_publish, self._send),
            (signals.task_prerun, self._begin),
            (signals.task_retry, self._note_retry),
            (signals.task_failure, self._note_failure),
            (signals.task_revoked, self._revoked),
            (signals.task_postrun, self._end),
        )

    # --- who sends ---

    def _send(self, sender: str, headers: dict[str, Any], routing_key: str, **_: Any) -> None:
        attributes = _attributes("create", sender, headers["id"], routing_key, headers.get("root_id"))
        with self._tracer.start_as_current_span(f"send {sender}", kind=SpanKind.PRODUCER, attributes=attributes):
            propagate.inject(headers)

    # --- who runs ---

    def _begin(self, task_id: str, task: Any, **_: Any) -> None:
        request = task.request
        carrier = {key: value for key, value in (request.headers or {}).items() if isinstance(value, str)}
        parent = propagate.extract(carrier)
        queue = (request.delivery_info or {}).get("routing_key", "")
        span = self._tracer.start_span(
            f"run {task.name}",
            context=parent,
            kind=SpanKind.CONSUMER,
            attributes=_attributes("process", task.name, task_id, queue, request.root_id)
            | {"fastq.retries": request.retries or 0, "fastq.node": request.hostname or ""},
        )
        self._running[task_id] = _Run(span, context.attach(trace.set_span_in_context(span, parent)))

    def _note_retry(self, request: Any, reason: Any, **_: Any) -> None:
        if (run := self._running.get(request.id)) is not None:
            run.span.add_event("retry", {"reason": str(reason)})

    def _note_failure(self, task_id: str, exception: BaseException, **_: Any) -> None:
        if (run := self._running.get(task_id)) is not None:
            run.span.record_exception(exception)
            run.span.set_status(Status(StatusCode.ERROR, f"{type(exception).__name__}: {exception}"))
            run.span.set_attribute("error.type", _qualified(type(exception)))

    def _revoked(self, request: Any, terminated: bool = False, **_: Any) -> None:
        if (run := self._running.get(request.id)) is not None:  # ended while it ran: nothing else tells of the end
            run.span.set_status(Status(StatusCode.ERROR, "terminated" if terminated else "revoked"))
            self._end(request.id, states.REVOKED)

    def _end(self, task_id: str, state: str | None, **_: Any) -> None:
        run = self._running.pop(task_id, None)
        if run is None:
            return
        run.span.set_attribute("fastq.state", state or "")
        context.detach(run.token)
        run.span.end()


def _attributes(operation: str, name: str, task_id: str, queue: str, root_id: str | None) -> dict[str, Any]:
    return {
        "messaging.system": "fastq",
        "messaging.operation.type": operation,
        "messaging.operation.name": "send" if operation == "create" else "run",
        "messaging.destination.name": queue,
        "messaging.message.id": task_id,
        "messaging.message.conversation_id": root_id or task_id,
        "fastq.task": name,
    }


def _qualified(kind: type[BaseException]) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


_tracing: Tracing | None = None


def instrument(tracer_provider: TracerProvider | None = None) -> Tracing:
    """Trace every application of this process, and of the workers forked from it, from now on. ``tracer_provider``: None for the
    global one, which may be set later. Harmless to call again: the last provider counts."""
    global _tracing
    uninstrument()
    _tracing = Tracing(tracer_provider)
    _tracing.connect()
    return _tracing


def uninstrument() -> None:
    """Make no more spans."""
    global _tracing
    if _tracing is not None:
        _tracing.disconnect()
        _tracing = None
