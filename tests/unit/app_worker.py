"""A worker of a few lines inside the test's process: enough of one to see what applications see."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastq import _core, states
from fastq.app import FastQ
from fastq.records import DONE, Delivery, Fetch, Settlement, StoredResult
from fastq.remote import encode_exception
from fastq.running import current


class MiniWorker:
    """Fetch, run and settle in one thread."""

    def __init__(self, app: FastQ, *queues: str) -> None:
        self.app = app
        self.queues = queues or (app.conf.task_default_queue,)
        self.process = f"mini.{id(self):x}"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mini-worker")
        self.failed: BaseException | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(20)
        if self.failed is not None:
            raise self.failed

    def _run(self) -> None:
        try:
            self._loop()
        except BaseException as exc:  # shown by stop()
            self.failed = exc

    def _loop(self) -> None:
        app = self.app
        broker = app.open_broker()
        backend = app.open_backend()
        together = backend is not None and backend.shares(broker)
        outcomes: deque[Settlement] = deque()

        def on_error(d: Delivery, exc: BaseException, runtime_ns: int) -> Settlement:
            content_type, body, text = encode_exception(exc, app.serializers)
            record = _core.encode_result(states.FAILURE, content_type, body, text, broker.now_ms(), None)
            return Settlement(d.queue, d.tag, d.id, DONE, result=None if d.ignore_result else record, inbox=d.inbox)

        runner = _core.Runner(
            emit=outcomes.append,
            loads=app.serializers.loads,
            dumps=lambda entry, value: app.serializers.dumps(app.serializers.result, value),
            on_error=on_error,
            current=current,
            native=app.serializers.result == "msgpack",
            call_async=_run_coroutine,
        )
        broker.renew(self.queues, [self.process], 60_000)
        wake = broker.wake(self.process)
        wake.open()
        number = 0
        while not self._stop.is_set():
            number += 1
            fetched = broker.fetch(Fetch(self.process, number, self.queues, 100))
            runner.now_ms = fetched.now_ms
            registry = app.registry()
            for leased in fetched.leased:
                batch = _core.deliveries(leased.queue, leased.tags, leased.messages, registry)
                runner.run_many(0, [d for d in batch if d.entry is not None])
            if outcomes:
                settlements = list(outcomes)
                outcomes.clear()
                if backend is not None and not together:
                    backend.store([StoredResult(s.id, s.result, s.inbox) for s in settlements if s.result is not None])
                broker.settle(self.process, settlements, results=together)
            elif not fetched.leased:
                self._stop.wait(0.002)
        wake.close()
        broker.close()
        if backend is not None:
            backend.close()


def _run_coroutine(fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    import asyncio

    return asyncio.run(fn(*args, **kwargs))


@contextmanager
def worker(app: FastQ, *queues: str) -> Iterator[MiniWorker]:
    """Run a worker for the length of the block."""
    mini = MiniWorker(app, *queues)
    mini.start()
    try:
        yield mini
    finally:
        mini.stop()
