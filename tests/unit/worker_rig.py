"""One worker process inside the test: the real consumer, pool, link, board and broker; the test plays the supervisor."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fastq import _core
from fastq._core import BatchWindow, Entry, ProcessBoard, Registry, Runner
from fastq.app import FastQ
from fastq.exceptions import OperationalError
from fastq.pools import make_pool
from fastq.records import Fetch, Fetched, Lease, Opening, Paused, Publication, Settled, Settlement
from fastq.running import current
from fastq.serialization import Serializers
from fastq.transports import memory as memory_transport
from fastq.transports import open_backend, open_broker, open_inspector
from fastq.transports.base import Broker, TransportOptions, Wake
from fastq.worker.arguments import Arguments
from fastq.worker.board import Board, open_region
from fastq.worker.consumer import Consumer
from fastq.worker.failures import Failures
from fastq.worker.feeder import Feeder
from fastq.worker.finished import Finished
from fastq.worker.gate import Gate
from fastq.worker.link import Link
from fastq.worker.meta import Meta
from fastq.worker.notify import Notifier
from fastq.worker.outcomes import Outcomes
from fastq.worker.rates import Rates
from fastq.worker.reconnect import Backoff
from fastq.worker.settler import Settler
from fastq.worker.slots import Slots
from fastq.worker.started import Started

#: seconds; nothing here takes that long unless it hangs
DEADLINE_S = 20.0

_names = itertools.count(1)


def wait_for(condition: Callable[[], object], what: str = "it", deadline_s: float = DEADLINE_S) -> None:
    """Look every millisecond."""
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline, f"waited too long for {what}"
        time.sleep(0.001)


def message(name: str, *args: Any, id: str = "", expires_ms: int | None = None, deliveries: int = 0, **fields: Any) -> bytes:
    written = _core.encode(
        id or f"id-{next(_names)}",
        name,
        fields.get("content_type", "application/x-msgpack"),
        fields.get("body", _core.encode_call(args, {})),
        1,
        expires_ms,
        0,
        None,
        fields.get("options"),
    )
    return _core.remark(written, deliveries)


class Trouble:
    """A broker that loses requests (the call has no effect) and replies (it has)."""

    def __init__(self, broker: Broker, fails: Callable[[int, str], str] = lambda number, name: "") -> None:
        """``fails(number of the call, its name)``: "request", "reply" or ""."""
        self._broker = broker
        self._fails = fails
        self._numbers = itertools.count()
        self.url = broker.url
        self.down = False
        self.calls: list[str] = []
        self.settled: list[tuple[str, list[Settlement]]] = []
        self.fetches: list[Fetch] = []

    def call(self, name: str, do: Callable[[], Any]) -> Any:
        how = "request" if self.down else self._fails(next(self._numbers), name)
        self.calls.append(name)
        if how == "request":
            raise OperationalError(f"{name}: the request was lost")
        answer = do()
        if how == "reply":
            raise OperationalError(f"{name}: the reply was lost")
        return answer

    def fetch(self, fetch: Fetch) -> Fetched:
        self.fetches.append(fetch)
        answer: Fetched = self.call("fetch", lambda: self._broker.fetch(fetch))
        return answer

    def settle(self, process: str, settlements: Sequence[Settlement], *, results: bool, fetch: Fetch | None = None) -> Settled:
        self.settled.append((process, list(settlements)))
        if fetch is not None:
            self.fetches.append(fetch)
        answer: Settled = self.call("settle", lambda: self._broker.settle(process, settlements, results=results, fetch=fetch))
        return answer

    def leased(self, queue: str, process: str) -> list[tuple[str, bytes]]:
        answer: list[tuple[str, bytes]] = self.call("leased", lambda: self._broker.leased(queue, process))
        return answer

    def wake(self, process: str) -> Wake:
        return _TroubledWake(self, self._broker.wake(process))

    def now_ms(self) -> int:
        return self._broker.now_ms()

    def publish(
        self, producer: str, number: int, publications: Sequence[Publication], openings: Sequence[Opening] = ()
    ) -> None:
        raise NotImplementedError

    def reserve(self, bucket: str, n: int, period_us: int, burst: int) -> list[int]:
        answer: list[int] = self.call("reserve", lambda: self._broker.reserve(bucket, n, period_us, burst))
        return answer

    def recall(self, queue: str, limit: str, *, kept: str = "", left: Sequence[str] = (), place: str = "") -> tuple[int, str]:
        answer: tuple[int, str] = self.call("recall", lambda: self._broker.recall(queue, limit, kept=kept, left=left, place=place))
        return answer

    def revoke(self, ids: Sequence[str], expires_s: int) -> int:
        raise NotImplementedError

    def revoked(self, since: int = 0) -> tuple[int, list[str]]:
        answer: tuple[int, list[str]] = self.call("revoked", lambda: self._broker.revoked(since))
        return answer

    def paused(self) -> Paused:
        answer: Paused = self.call("paused", self._broker.paused)
        return answer

    def renew(self, queues: Sequence[str], processes: Sequence[str], lease_ms: int) -> list[Lease]:
        raise NotImplementedError

    def condemn(self, leases: Sequence[Lease]) -> list[Lease]:
        raise NotImplementedError

    def release(self, queue: str, process: str, marks: dict[str, bytes], *, gone: bool = True) -> int:
        raise NotImplementedError

    def close(self) -> None:
        self._broker.close()

    @property
    def store(self) -> Any:  # the memory backend asks whether it is the same
        return getattr(self._broker, "store", None)


class _TroubledWake:
    def __init__(self, trouble: Trouble, wake: Wake) -> None:
        self._trouble = trouble
        self._wake = wake

    def open(self) -> None:
        self._trouble.call("open", self._wake.open)

    def check(self) -> None:
        self._trouble.call("check", self._wake.check)

    def fileno(self) -> int:
        return self._wake.fileno()

    def drain(self) -> bool:
        return self._wake.drain()

    def close(self) -> None:
        self._wake.close()


class Rig:
    """Tasks, a store, and one worker process on it."""

    def __init__(
        self,
        tasks: dict[str, Callable[..., Any]],
        *,
        url: str = "",
        backend_url: str | None = "",
        pool: str = "threads",
        slots: int = 1,
        queues: Sequence[str] = ("default",),
        max_tasks: int | None = None,
        prefetch: int | None = None,
        lease_ms: int = 15_000,
        fails: Callable[[int, str], str] = lambda number, name: "",
        errors_even_if_ignored: bool = False,
        entry: dict[str, Any] | None = None,
        window: BatchWindow | None = None,
        accept: Sequence[str] = ("msgpack", "json"),
        app: FastQ | None = None,
        report_started: bool = False,
    ) -> None:
        """``app``: run its tasks, on its broker, and settle them as a whole worker does; ``tasks`` is ignored then."""
        if app is not None:
            url, backend_url = app.broker_url, app.backend_url if app.keeps_results else None
        self.url = url or f"memory://rig{next(_names)}"
        self.queues = tuple(queues)
        options = TransportOptions(lease_ms=lease_ms)
        #: for the test and its part as supervisor
        self.broker = open_broker(self.url, options)
        self.inspector = open_inspector(self.url, options)
        backend_url = self.url if backend_url == "" else backend_url
        self.backend = None if backend_url is None else open_backend(backend_url, options)
        self.trouble = Trouble(open_broker(self.url, options), fails)
        self.lease_ms = lease_ms
        self.entries = {name: Entry(name, fn, **(entry or {})) for name, fn in tasks.items()}
        self.registry = Registry(self.entries.values()) if app is None else app.registry()
        self._memory = Board()
        self.board: ProcessBoard = self._memory.region(0, slots)
        own = open_region(self._memory.fd, 0, slots)
        self.window = window or BatchWindow()
        self.link, theirs = Link.pair()
        self.child_link = Link(theirs)
        self.notifier = Notifier()
        backend = self.backend
        self.settler = Settler(self.trouble, _Same(backend, self.broker) if backend is not None else None)
        serializers = self.serializers = Serializers(accept=accept) if app is None else app.serializers
        self.pool = make_pool(pool, slots)
        failures = Failures(
            serializers,
            stores=backend is not None,
            errors_even_if_ignored=errors_even_if_ignored,
            now_ms=lambda: 1,
        )
        outcomes = None if app is None else self._outcomes(app, failures, report_started)
        self.runner = Runner(
            emit=self.settler.emit,
            loads=serializers.loads,
            dumps=lambda entry, value: serializers.dumps(serializers.result, value),
            on_error=failures.on_error if outcomes is None else outcomes.on_error,
            prepare=None if outcomes is None else outcomes.prepare,
            conclude=None if outcomes is None else outcomes.conclude,
            special=outcomes is not None and outcomes.sees_all(),
            current=current,
            board=own,
            window=self.window,
            stores=backend is not None,
            call_async=self.pool.call_async,
        )
        self.feeder = Feeder(self.pool, self.window, prefetch)
        self.consumer = Consumer(
            broker=self.trouble,
            settler=self.settler,
            pool=self.pool,
            feeder=self.feeder,
            gate=Gate(serializers.accept, failures),
            runner=self.runner,
            board=own,
            link=self.child_link,
            notifier=self.notifier,
            registry=lambda: self.registry,
            queues=self.queues,
            lease_ms=lease_ms,
            max_deliveries=3,
            max_tasks=max_tasks,
            rates=None if app is None else Rates(self.trouble, app.conf, "node"),
            finished=None if backend is None or backend.shares(self.broker) else Finished(backend, self.broker.now_ms),
        )
        self.consumer._exchange.backoff = Backoff(longest_s=0.002, first_s=0.001)
        #: what the process has said
        self.heard: list[dict[str, Any]] = []
        self.names: list[str] = []
        self.renames = True
        self.failed: BaseException | None = None
        self._names = (f"node.0.p{n}" for n in itertools.count(1))
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="process")
        self._supervisor = threading.Thread(target=self._supervise, name="supervisor")
        self._producer = itertools.count(1)
        self._sending = threading.Lock()

    def _outcomes(self, app: FastQ, failures: Failures, report_started: bool) -> Outcomes:
        store = self.backend
        return Outcomes(
            app=app,
            serializers=app.serializers,
            failures=failures,
            arguments=Arguments(app, app.serializers, self.broker, store, lambda: open_backend(self.url, app.transport_options())),
            meta=Meta("node", extended=bool(app.conf.get("result_extended"))),
            clock=self.broker,
            stores=store is not None,
            report_started=Started(store, "node", self.broker).note if store is not None and report_started else None,
            result_max_bytes=app.conf.result_max_bytes or 0,
        )

    def _run(self) -> None:
        try:
            self.pool.start(Slots(self.runner), self.notifier.notify)
            self.pool.main(self.consumer.run)
        except BaseException as exc:  # shown by join()
            self.failed = exc
        finally:
            self._ended.set()
            self.child_link.close()

    def _supervise(self) -> None:
        while not self.link.closed:
            # a fenced name stays registered as idle, and is counted on, until its node's next beat
            messages = self.link.wait(0.02 if len(self.names) > 1 else 1.0)
            if len(self.names) > 1 and self.renames:
                self.broker.renew(self.queues, [self.names[-1]], self.lease_ms)
            for told in messages:
                self.heard.append(told)
                if "fenced" in told and self.renames:
                    self.send({"process": self._new_name()})

    def _new_name(self) -> str:
        self.names.append(next(self._names))
        self.broker.renew(self.queues, [self.names[-1]], self.lease_ms)
        return self.names[-1]

    @property
    def process(self) -> str:
        return self.names[-1]

    def start(self) -> None:
        self._thread.start()
        self._supervisor.start()
        self.link.send({"start": {"process": self._new_name()}})

    def send(self, message: dict[str, Any]) -> None:
        """Send to the process: from the test, while the supervisor may answer it."""
        with self._sending:
            self.link.send(message)

    def publish(self, *messages: bytes, queue: str = "default") -> None:
        self.broker.publish("producer", next(self._producer), [Publication(queue, m) for m in messages])

    def said(self, word: str) -> list[Any]:
        return [told[word] for told in self.heard if word in told]

    def stop(self, how: str = "warm") -> None:
        self.link.send({"stop": how})

    def join(self) -> None:
        assert self._ended.wait(DEADLINE_S), "the process did not end"
        self._thread.join(DEADLINE_S)
        self._supervisor.join(DEADLINE_S)
        if self.failed is not None:
            raise self.failed

    def close(self) -> None:
        if self._thread.is_alive():
            self.stop("cold")
            self._ended.wait(DEADLINE_S)
        if self._thread.ident is not None:
            self._thread.join(DEADLINE_S)
            self._supervisor.join(DEADLINE_S)
        for opened in (self.broker, self.trouble, self.inspector, self.backend):
            if opened is not None:
                opened.close()
        self.notifier.close()
        self.link.close()
        self.child_link.close()
        self._memory.close()
        if self.url.startswith("memory:"):
            memory_transport.reset(self.url.partition("://")[2])

    def leased(self) -> list[tuple[str, bytes]]:
        return [item for name in self.names for queue in self.queues for item in self.broker.leased(queue, name)]

    def settled_all(self) -> bool:
        depths = [self.inspector.depth(queue) for queue in self.queues]
        return not any(depth[which] for depth in depths for which in ("ready", "delayed", "leased"))

    def result(self, id: str) -> tuple[str, str, bytes, str | None, int, dict[str, Any] | None]:
        assert self.backend is not None
        found: list[bytes] = []

        def look() -> bool:
            assert self.backend is not None
            record = self.backend.get([id])[0]
            if record is not None:
                found.append(record)
            return bool(found)

        wait_for(look, f"the result of {id}")
        return _core.decode_result(found[0])

    def dead(self, queue: str = "default") -> list[str]:
        return [letter.reason for letter in self.inspector.dead(queue)]


class _Same:
    """The backend, which sees through the troubled broker to the store behind it."""

    def __init__(self, backend: Any, broker: Broker) -> None:
        self._backend = backend
        self._broker = broker

    def shares(self, broker: Broker) -> bool:
        return bool(self._backend.shares(self._broker))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


@contextmanager
def rig(tasks: dict[str, Callable[..., Any]], *, start: bool = True, **options: Any) -> Iterator[Rig]:
    """Run a worker process for the length of the block; it is stopped cold at the end, if it has not ended before."""
    made = Rig(tasks, **options)
    try:
        if start:
            made.start()
        yield made
    finally:
        made.close()
