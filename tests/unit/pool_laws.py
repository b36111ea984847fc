"""The contract of pools, run in a process of its own.

``python pool_laws.py <pool> [law ...]`` prints one JSON object: law -> "" or a traceback.

A process of its own, because gevent and eventlet patch it first, as users run them, and because ``main`` wants the main thread.
Every wait is for an event, with a deadline that only a broken pool reaches.
"""

from __future__ import annotations

import faulthandler
import json
import sys
import warnings

POOL = sys.argv[1]
if POOL == "gevent":
    from gevent import monkey

    monkey.patch_all()
elif POOL == "eventlet":
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\s*Eventlet is deprecated")
        import eventlet
    eventlet.monkey_patch()

import asyncio  # noqa: E402
import contextlib  # noqa: E402
import contextvars  # noqa: E402
import inspect  # noqa: E402
import os  # noqa: E402
import random  # noqa: E402
import signal  # noqa: E402
import threading  # noqa: E402
import time  # noqa: E402
import traceback  # noqa: E402
from collections.abc import Awaitable, Callable, Sequence  # noqa: E402
from functools import partial  # noqa: E402
from typing import Any  # noqa: E402

from fastq.exceptions import SoftTimeLimitExceeded  # noqa: E402
from fastq.pools import canonical_name, make_pool, needs_patching  # noqa: E402
from fastq.pools.base import TaskCancelled, TaskKilled  # noqa: E402
from fastq.pools.interrupts import Interruptible  # noqa: E402

#: seconds; a law that takes longer is broken
DEADLINE_S = 20.0

NAME = canonical_name(POOL)
ASYNC = NAME == "asyncio"
ONE_SLOT = NAME in ("solo", "prefork")
GREEN = needs_patching(POOL)

current: contextvars.ContextVar[str] = contextvars.ContextVar("current", default="")


class Delivery:
    def __init__(self, id: str, fn: Callable[[], Any] = lambda: None) -> None:
        self.id = id
        self.fn = fn


class Runner:
    """A fake SlotRunner: it runs the function a delivery carries, and notes what happened."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.ran: list[str] = []
        self.errors: dict[str, BaseException] = {}
        self.slots_seen: set[int] = set()
        self.in_use: set[int] = set()
        self.clashes: list[int] = []
        self.raise_from_run: BaseException | None = None

    def run(self, slot: int, batch: Sequence[Any]) -> None:
        self._enter(slot)
        try:
            for delivery in batch:
                self.started.append(delivery.id)
                token = current.set(delivery.id)
                try:
                    delivery.fn()
                except BaseException as error:
                    self.errors[delivery.id] = error
                finally:
                    current.reset(token)
                self.ran.append(delivery.id)
        finally:
            self._leave(slot)

    async def run_async(self, slot: int, batch: Sequence[Any]) -> None:
        self._enter(slot)
        try:
            for delivery in batch:
                self.started.append(delivery.id)
                try:
                    value = delivery.fn()
                    if inspect.isawaitable(value):
                        await Interruptible(value)
                except BaseException as error:
                    self.errors[delivery.id] = error
                self.ran.append(delivery.id)
        finally:
            self._leave(slot)

    def _enter(self, slot: int) -> None:
        if slot in self.in_use:
            self.clashes.append(slot)
        self.in_use.add(slot)
        self.slots_seen.add(slot)

    def _leave(self, slot: int) -> None:
        self.in_use.discard(slot)
        if self.raise_from_run is not None:
            raise self.raise_from_run


class Lab:
    """One pool with its runner; ``run(consumer)`` gives the main thread to the pool, as a worker process does."""

    def __init__(self, slots: int) -> None:
        self.slots = 1 if ONE_SLOT else slots
        self.pool: Any = make_pool(POOL, self.slots)
        self.runner = Runner()
        self.done_calls = 0
        self.free_at_done: list[int] = []
        self._news = threading.Event()
        self.pool.start(self.runner, self._done)

    def _done(self) -> None:
        self.done_calls += 1  # exact only where one slot ends at a time
        self.free_at_done.append(self.pool.free)
        self._news.set()

    def run(self, consume: Callable[[], None]) -> None:
        self.pool.main(consume)

    def until(self, what: Callable[[], bool]) -> None:
        """Wait in the consumer for done() after done() until it is so."""
        end = time.monotonic() + DEADLINE_S
        while not what():
            left = end - time.monotonic()
            assert left > 0, "it never came to be"
            self._news.wait(min(left, 0.05))  # some conditions change without a done()
            self._news.clear()

    def submit(self, *deliveries: Delivery) -> None:
        self.until(lambda: self.pool.free > 0)
        self.pool.submit(deliveries)

    def drained(self) -> bool:
        return bool(self.pool.free == self.pool.slots)


class Gate:
    """Opens when so many tasks are inside at once; works as a task of every pool."""

    def __init__(self, inside: int) -> None:
        self.missing = inside
        self._lock = threading.Lock()
        self._open = threading.Event()
        self._open_async: asyncio.Event | None = None

    def task(self) -> Any:
        if ASYNC:
            return self.async_task()
        if self._arrive():
            self._open.set()
        assert self._open.wait(DEADLINE_S), "the slots were not concurrent"
        return None

    async def async_task(self) -> str:
        if self._open_async is None:
            self._open_async = asyncio.Event()
        if self._arrive():
            self._open_async.set()
        await asyncio.wait_for(self._open_async.wait(), DEADLINE_S)
        return current.get()

    def _arrive(self) -> bool:
        with self._lock:
            self.missing -= 1
            return self.missing == 0


class Hold:
    """A task that runs until the consumer lets it go."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self._let_go = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._let_go_async: asyncio.Event | None = None

    def task(self) -> Any:
        if ASYNC:
            return self._task_async()
        self.begun.set()
        assert self._let_go.wait(DEADLINE_S), "nobody let the task go"
        return None

    async def _task_async(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._let_go_async = asyncio.Event()
        self.begun.set()
        await asyncio.wait_for(self._let_go_async.wait(), DEADLINE_S)

    def let_go(self) -> None:
        self._let_go.set()
        if self._loop is not None and self._let_go_async is not None:
            with contextlib.suppress(RuntimeError):  # the loop has been closed
                self._loop.call_soon_threadsafe(self._let_go_async.set)


def law_a_batch_runs_in_order_in_one_slot() -> None:
    lab = Lab(4)
    ids = [f"t{i}" for i in range(50)]

    def consume() -> None:
        lab.submit(*(Delivery(id) for id in ids))
        lab.until(lambda: len(lab.runner.ran) == 50)
        assert lab.pool.stop(DEADLINE_S)

    lab.run(consume)
    assert lab.runner.ran == ids
    assert len(lab.runner.slots_seen) == 1


def law_submit_takes_a_slot_and_its_end_gives_it_back_before_done() -> None:
    lab = Lab(3)
    hold = Hold()

    def consume() -> None:
        assert lab.pool.slots == lab.pool.free == lab.slots
        lab.submit(Delivery("held", hold.task))
        assert lab.pool.free == lab.slots - 1
        assert hold.begun.wait(DEADLINE_S)
        assert lab.pool.free == lab.slots - 1
        assert lab.done_calls == 0
        hold.let_go()
        lab.until(lambda: lab.done_calls == 1)
        assert lab.free_at_done == [lab.slots]
        assert lab.pool.stop(DEADLINE_S)

    lab.run(consume)
    assert lab.done_calls == 1


def law_the_count_is_exact_after_many_racing_batches() -> None:
    lab = Lab(8)
    total = 2000

    def consume() -> None:
        for i in range(total):
            lab.submit(Delivery(f"t{i}"))
            assert 0 <= lab.pool.free < lab.pool.slots + 1
        assert lab.pool.stop(DEADLINE_S)
        assert lab.drained()

    lab.run(consume)
    assert sorted(lab.runner.ran) == sorted(f"t{i}" for i in range(total))
    assert lab.runner.clashes == []
    assert lab.runner.slots_seen <= set(range(lab.slots))
    assert len(lab.free_at_done) == total


def law_all_slots_run_at_the_same_time() -> None:
    lab = Lab(20)
    gate = Gate(lab.slots)

    def consume() -> None:
        for i in range(lab.slots):
            lab.submit(Delivery(f"t{i}", gate.task))
        assert lab.pool.free == 0 or gate.missing == 0
        assert lab.pool.stop(DEADLINE_S)

    lab.run(consume)
    assert lab.runner.errors == {}
    assert lab.runner.slots_seen == set(range(lab.slots))
    assert lab.runner.clashes == []


def law_stop_waits_for_a_busy_slot_and_tells_when_it_did_not_end() -> None:
    lab = Lab(2)
    hold = Hold()

    def consume() -> None:
        assert lab.pool.stop(0.0), "nothing ran"
        lab.submit(Delivery("held", hold.task))
        assert hold.begun.wait(DEADLINE_S)
        assert not lab.pool.stop(0.0)
        assert not lab.pool.stop(0.02)
        hold.let_go()
        assert lab.pool.stop(float("inf")), "stop may be asked again"
        assert lab.drained()

    lab.run(consume)
    assert lab.runner.ran == ["held"]
    assert lab.runner.errors == {}


def law_stop_sees_the_end_that_comes_while_it_waits() -> None:
    lab = Lab(2)

    def rest() -> Any:
        if ASYNC:
            return asyncio.sleep(0.03)
        time.sleep(0.03)
        return None

    def consume() -> None:
        for i in range(20):
            lab.submit(Delivery(f"t{i}", rest))
            begun = time.monotonic()
            assert lab.pool.stop(DEADLINE_S)
            assert time.monotonic() - begun < DEADLINE_S / 2, "stop slept on although all was free"

    lab.run(consume)


def law_a_grown_pool_runs_more_at_once_and_a_shrunk_one_fewer() -> None:
    if ONE_SLOT:
        lab = Lab(1)
        lab.pool.resize(1)
        try:
            lab.pool.resize(2)
        except Exception as error:
            assert type(error).__name__ == "ImproperlyConfigured"
            assert "one slot" in str(error)
            lab.run(lambda: None)
            return
        raise AssertionError("a process of one slot was resized")
    lab = Lab(2)
    grown, holds = Gate(5), [Hold() for _ in range(5)]

    def consume() -> None:
        lab.pool.resize(5)
        assert (lab.pool.slots, lab.pool.free) == (5, 5)
        for i in range(5):
            lab.submit(Delivery(f"g{i}", grown.task))
        assert lab.pool.stop(DEADLINE_S)
        for i, hold in enumerate(holds):
            lab.submit(Delivery(f"h{i}", hold.task))
        for hold in holds:
            assert hold.begun.wait(DEADLINE_S)
        lab.pool.resize(2)
        assert (lab.pool.slots, lab.pool.free) == (2, 0)
        for n, hold in enumerate(holds[:3], 1):
            hold.let_go()
            lab.until(partial(lambda n: len(lab.free_at_done) == 5 + n, n))
            assert lab.pool.free == 0, "busy slots beyond the size are not free"
        holds[3].let_go()
        lab.until(lambda: lab.pool.free == 1)
        lab.pool.resize(3)
        assert lab.pool.free == 2
        holds[4].let_go()
        lab.until(lambda: lab.pool.free == 3)
        again = Gate(3)
        for i in range(3):
            lab.submit(Delivery(f"a{i}", again.task))
        assert lab.pool.stop(DEADLINE_S)
        for _ in range(20):
            lab.pool.resize(1)
            lab.pool.resize(4)
        last = Gate(4)
        for i in range(4):
            lab.submit(Delivery(f"l{i}", last.task))
        assert lab.pool.stop(DEADLINE_S)
        assert lab.drained()

    lab.run(consume)
    assert lab.runner.errors == {}
    assert lab.runner.clashes == []
    assert lab.runner.slots_seen <= set(range(5))


def law_a_runner_that_raises_costs_no_slot() -> None:
    lab = Lab(2)
    lab.runner.raise_from_run = ValueError("a bug of the runner")

    def consume() -> None:
        for i in range(6):
            lab.submit(Delivery(f"t{i}"))
        assert lab.pool.stop(DEADLINE_S)
        lab.runner.raise_from_run = None
        gate = Gate(lab.slots)
        for i in range(lab.slots):
            lab.submit(Delivery(f"g{i}", gate.task))
        assert lab.pool.stop(DEADLINE_S)
        assert lab.drained()

    lab.run(consume)
    assert len(lab.free_at_done) == 6 + lab.slots
    assert lab.runner.errors == {}


def law_main_raises_what_the_consumer_raised() -> None:
    for error in (KeyError("boom"), SystemExit(3)):

        def consume(error: BaseException = error) -> None:
            raise error

        lab = Lab(2)
        try:
            lab.run(consume)
        except BaseException as seen:
            assert seen is error
        else:
            raise AssertionError("the consumer's error was lost")


def law_main_returns_when_the_consumer_does_and_leaves_no_thread() -> None:
    before = set(threading.enumerate())

    async def nothing() -> None: ...

    lab = Lab(4)

    def consume() -> None:
        for i in range(8):
            lab.submit(Delivery(f"t{i}", nothing if ASYNC else lambda: lab.pool.call_async(nothing, (), {})))
        assert lab.pool.stop(DEADLINE_S)

    lab.run(consume)
    assert lab.runner.errors == {}
    for thread in set(threading.enumerate()) - before:
        assert thread.daemon or GREEN, f"{thread} would hold up the end of the process"
        if not GREEN:  # there threading shows other OS threads as dummies that cannot be joined
            thread.join(DEADLINE_S)
            assert not thread.is_alive(), f"{thread} goes on after main"


def law_signal_handlers_run_while_the_pool_idles_and_while_a_task_waits() -> None:
    seen = threading.Event()
    lab = Lab(2)
    hold = Hold()
    old = signal.signal(signal.SIGUSR1, lambda *_: seen.set())

    def wait(again: Callable[[], None]) -> None:
        # the handler runs in the main thread between two instructions, so a consumer there must come back to Python to see it
        end = time.monotonic() + DEADLINE_S
        while not seen.wait(0.01):
            assert time.monotonic() < end, "the handler never ran"
            again()
        seen.clear()

    def send() -> None:
        os.kill(os.getpid(), signal.SIGUSR1)

    def consume() -> None:
        send()
        wait(lambda: None)
        lab.submit(Delivery("held", hold.task))
        assert hold.begun.wait(DEADLINE_S)
        # a signal between a task's last instruction and its going to sleep is seen when it wakes: Python's own law
        send()
        wait(send)
        hold.let_go()
        assert lab.pool.stop(DEADLINE_S)

    try:
        lab.run(consume)
    finally:
        signal.signal(signal.SIGUSR1, old)
    assert lab.runner.errors == {}


def law_call_async_gives_the_value_the_error_and_the_context() -> None:
    lab = Lab(2)
    seen: dict[str, Any] = {}

    async def add(x: int, *, y: int) -> int:
        await asyncio.sleep(0)
        return x + y

    async def fail() -> None:
        await asyncio.sleep(0)
        raise LookupError("not there")

    async def leave() -> None:
        raise SystemExit(4)

    async def who() -> str:
        await asyncio.sleep(0)
        return current.get()

    def call(id: str, fn: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Callable[[], Any]:
        def body() -> None:
            token = current.set(id)
            try:
                seen[id] = lab.pool.call_async(fn, args, kwargs)
            except BaseException as error:
                seen[id] = error
            finally:
                current.reset(token)

        return (lambda: asyncio.to_thread(body)) if ASYNC else body

    def consume() -> None:
        lab.submit(Delivery("add", call("add", add, 1, y=2)))
        lab.submit(Delivery("fail", call("fail", fail)))
        if not ASYNC:  # there a SystemExit ends the loop, as it ends asyncio.run
            lab.submit(Delivery("leave", call("leave", leave)))
        lab.submit(Delivery("who", call("who", who)))
        assert lab.pool.stop(DEADLINE_S)

    lab.run(consume)
    assert lab.runner.errors == {}
    assert seen["add"] == 3
    assert isinstance(seen["fail"], LookupError)
    assert seen["fail"].args == ("not there",)
    assert ASYNC or isinstance(seen["leave"], SystemExit)
    assert seen["who"] == "who"


def law_coroutines_of_all_slots_run_at_the_same_time() -> None:
    lab = Lab(100 if GREEN or ASYNC else 20)
    rounds = 2
    gates = [Gate(lab.slots) for _ in range(rounds)]
    seen: list[str] = []

    def task(gate: Gate) -> Callable[[], Any]:
        if ASYNC:
            return gate.task
        return lambda: seen.append(lab.pool.call_async(gate.async_task, (), {}))

    def consume() -> None:
        for n, gate in enumerate(gates):
            for i in range(lab.slots):
                lab.submit(Delivery(f"t{n}.{i}", task(gate)))
        assert lab.pool.stop(DEADLINE_S)

    lab.run(consume)
    assert lab.runner.errors == {}
    if not ASYNC:
        assert sorted(seen) == sorted(f"t{n}.{i}" for n in range(rounds) for i in range(lab.slots))


def law_a_waiting_coroutine_lets_plain_tasks_run() -> None:
    if ONE_SLOT:
        return  # its one slot is the coroutine's
    lab = Lab(2)
    let_go: list[Callable[[], object]] = []
    begun = threading.Event()

    async def wait() -> None:
        event, loop = asyncio.Event(), asyncio.get_running_loop()
        let_go.append(lambda: loop.call_soon_threadsafe(event.set))
        begun.set()
        await asyncio.wait_for(event.wait(), DEADLINE_S)

    def consume() -> None:
        lab.submit(Delivery("coroutine", wait if ASYNC else lambda: lab.pool.call_async(wait, (), {})))
        lab.until(lambda: bool(let_go))
        for i in range(20):
            lab.submit(Delivery(f"t{i}"))
        lab.until(lambda: len(lab.runner.ran) == 20)
        assert "coroutine" not in lab.runner.ran
        let_go[0]()
        assert lab.pool.stop(DEADLINE_S)

    lab.run(consume)
    assert lab.runner.errors == {}
    assert lab.runner.ran[-1] == "coroutine"


def law_a_coroutine_may_use_sockets_names_threads_and_subprocesses() -> None:
    lab = Lab(2)
    seen: dict[str, Any] = {}

    async def client() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write((await reader.readline()).upper())
            await writer.drain()
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection("localhost", server.sockets[0].getsockname()[1])  # resolved in a thread
        writer.write(b"echo\n")
        seen["echo"] = await reader.readline()
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        seen["thread"] = await asyncio.to_thread(lambda: current.get() + "!")
        if not GREEN:  # the patched subprocess module watches children on the main thread's hub only
            process = await asyncio.create_subprocess_exec(sys.executable, "-c", "print(6 * 7)", stdout=asyncio.subprocess.PIPE)
            seen["child"] = (await process.communicate())[0].strip()

    def consume() -> None:
        lab.submit(Delivery("client", client if ASYNC else lambda: lab.pool.call_async(client, (), {})))
        assert lab.pool.stop(DEADLINE_S)

    lab.run(consume)
    assert lab.runner.errors == {}, lab.runner.errors
    assert seen["echo"] == b"ECHO\n"
    assert ASYNC or seen["thread"] == "client!"
    assert GREEN or seen["child"] == b"42"


def law_a_cancelled_task_ends_and_its_slot_goes_on() -> None:
    lab = Lab(2)
    begun = threading.Event()
    wanted: dict[str, tuple[type[BaseException], ...]] = {
        "soft": (asyncio.CancelledError,) if ASYNC else (TaskCancelled,),
        "hard": (asyncio.CancelledError,) if ASYNC else (TaskKilled,),
    }

    cancelled = threading.Event()

    async def wait_async() -> None:
        begun.set()
        try:
            await asyncio.sleep(2 * DEADLINE_S)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    def wait() -> None:
        begun.set()
        end = time.monotonic() + DEADLINE_S
        while time.monotonic() < end:  # a thread is reached between two instructions, a greenlet where it waits
            time.sleep(0.001)

    def consume() -> None:
        assert not lab.pool.cancel("nobody", hard=False)
        for hard in (False, True):
            id = "hard" if hard else "soft"
            begun.clear()
            lab.submit(Delivery(id, wait_async if ASYNC else wait))
            assert begun.wait(DEADLINE_S)
            assert lab.pool.cancel(id, hard=hard)
            lab.until(partial(lambda id: id in lab.runner.ran, id))
            assert lab.pool.stop(DEADLINE_S)
            assert not lab.pool.cancel(id, hard=hard), "it has ended"
        if not ASYNC:  # a coroutine beside the slots is cancelled with the task that waits for it
            begun.clear()
            lab.submit(Delivery("coroutine", lambda: lab.pool.call_async(wait_async, (), {})))
            lab.until(begun.is_set)
            assert lab.pool.cancel("coroutine", hard=False)
            lab.until(lambda: "coroutine" in lab.runner.ran)
            lab.until(cancelled.is_set)
        begun.clear()
        lab.submit(Delivery("a", begun.set), Delivery("b"))
        gate = Gate(lab.slots)
        assert lab.pool.stop(DEADLINE_S)
        for i in range(lab.slots):
            lab.submit(Delivery(f"g{i}", gate.task))
        assert lab.pool.stop(DEADLINE_S)
        assert lab.drained()

    lab.run(consume)
    errors = dict(lab.runner.errors)
    assert isinstance(errors.pop("soft"), wanted["soft"])
    assert isinstance(errors.pop("hard"), wanted["hard"])
    if not ASYNC:
        assert isinstance(errors.pop("coroutine"), TaskCancelled)
    assert errors == {}


def law_cancelling_while_tasks_end_never_costs_a_slot_or_strikes_another_task() -> None:
    lab = Lab(4)
    rng = random.Random(1)
    total = 600

    def work(n: int) -> Callable[[], Any]:
        def spin() -> None:
            for _ in range(n):
                if GREEN:
                    time.sleep(0)

        async def spin_async() -> None:
            for _ in range(n):
                await asyncio.sleep(0)

        return spin_async if ASYNC else spin

    cancelled: set[str] = set()

    def consume() -> None:
        for i in range(total):
            id = f"t{i}"
            lab.submit(Delivery(id, work(rng.randrange(20 if GREEN or ASYNC else 2000))))
            if GREEN:
                time.sleep(0)
            target = f"t{i - rng.randrange(4)}"
            if lab.pool.cancel(target, hard=rng.random() < 0.5):
                cancelled.add(target)
        assert lab.pool.stop(DEADLINE_S)
        assert lab.drained()
        gate = Gate(lab.slots)
        for i in range(lab.slots):
            lab.submit(Delivery(f"g{i}", gate.task))
        assert lab.pool.stop(DEADLINE_S)

    logger_off()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # OS threads change hands between nearly any two instructions
    try:
        lab.run(consume)
    finally:
        sys.setswitchinterval(interval)
    assert set(lab.runner.errors) <= cancelled, "a task was struck that nobody had cancelled"
    assert len(lab.free_at_done) == total + lab.slots


def law_an_alarm_is_raised_in_the_task_which_may_catch_it() -> None:
    lab = Lab(2)
    seen: list[tuple[str, bool]] = []

    def wait() -> None:
        alarm = lab.pool.alarm(0.05, SoftTimeLimitExceeded, hard=False, awaited=False)
        with contextlib.suppress(SoftTimeLimitExceeded):
            spin()
            raise AssertionError("no alarm came")
        seen.append(("plain", alarm.cancel()))

    async def wait_async() -> None:
        try:
            async with asyncio.TaskGroup() as group:
                left_alone = group.create_task(asyncio.sleep(2 * DEADLINE_S))
        except SoftTimeLimitExceeded:
            task = asyncio.current_task()
            assert task is not None and not task.cancelling()
            await asyncio.sleep(0)  # it goes on
            seen.append(("coroutine", left_alone.cancelled()))

    def call() -> Any:
        alarm = lab.pool.alarm(0.05, SoftTimeLimitExceeded, hard=False, awaited=True)
        if ASYNC:
            return wait_async()
        lab.pool.call_async(wait_async, (), {})
        assert alarm.cancel()
        return None

    def consume() -> None:
        lab.submit(Delivery("plain", wait))
        assert lab.pool.stop(DEADLINE_S)
        lab.submit(Delivery("coroutine", call))
        assert lab.pool.stop(DEADLINE_S)

    lab.run(consume)
    assert lab.runner.errors == {}
    assert seen == [("plain", True), ("coroutine", True)]


def law_an_alarm_that_is_not_caught_leaves_the_task_as_the_plain_error() -> None:
    lab = Lab(2)

    async def wait_async() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(2 * DEADLINE_S))
            await asyncio.gather(asyncio.sleep(2 * DEADLINE_S), asyncio.sleep(2 * DEADLINE_S))

    def call(hard: bool) -> Any:
        lab.pool.alarm(0.05, TaskKilled if hard else SoftTimeLimitExceeded, hard=hard, awaited=True)
        return wait_async() if ASYNC else lab.pool.call_async(wait_async, (), {})

    def plain(hard: bool) -> None:
        lab.pool.alarm(0.05, TaskKilled if hard else SoftTimeLimitExceeded, hard=hard, awaited=False)
        spin()

    def consume() -> None:
        for hard in (False, True):
            for fn in (call, plain):
                lab.submit(Delivery(f"{fn.__name__} {hard}", partial(fn, hard)))
                assert lab.pool.stop(DEADLINE_S)

    lab.run(consume)
    assert {name: type(error) for name, error in lab.runner.errors.items()} == {
        f"{name} {hard}": TaskKilled if hard else SoftTimeLimitExceeded for name in ("call", "plain") for hard in (False, True)
    }


def law_a_cancelled_alarm_strikes_nobody() -> None:
    """Alarms that ring just when their tasks end."""
    lab = Lab(4)
    rng = random.Random(2)
    struck: set[str] = set()
    missed: set[str] = set()
    total = 300

    def idle(n: int) -> None:
        for _ in range(n):
            if GREEN:
                time.sleep(0)

    def work(id: str, after_s: float, n: int) -> None:
        alarm = None
        while True:
            try:
                if alarm is None and id not in missed:
                    alarm = lab.pool.alarm(after_s, SoftTimeLimitExceeded, hard=False, awaited=False)
                # a function of its own: CPython 3.13 leaves the jump back of a loop that ends in `if` out of the `try` around it
                idle(n)
                n = 0
                if alarm is None or alarm.cancel():
                    struck.add(id)
                return
            except SoftTimeLimitExceeded:
                missed.add(id)

    def consume() -> None:
        for i in range(total):
            n = rng.randrange(20 if GREEN else 3000)
            lab.submit(Delivery(f"t{i}", partial(work, f"t{i}", rng.random() * 0.001, n)))
            lab.submit(Delivery(f"u{i}"))
            if GREEN:
                time.sleep(0)
        assert lab.pool.stop(DEADLINE_S)
        assert lab.drained()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        lab.run(consume)
    finally:
        sys.setswitchinterval(interval)
    assert lab.runner.errors == {}, "a task was struck that had cancelled its alarm, or that had none"
    assert missed <= struck
    assert len(lab.runner.ran) == 2 * total


def spin() -> None:
    """Run Python code, and wait, for a long time."""
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        time.sleep(0.001)


def law_a_batch_of_several_cannot_be_cancelled() -> None:
    lab = Lab(2)
    hold = Hold()

    def consume() -> None:
        lab.submit(Delivery("a", hold.task), Delivery("b"))
        assert hold.begun.wait(DEADLINE_S)
        assert not lab.pool.cancel("a", hard=True)
        assert not lab.pool.cancel("b", hard=True)
        hold.let_go()
        assert lab.pool.stop(DEADLINE_S)

    lab.run(consume)
    assert lab.runner.errors == {}


def logger_off() -> None:
    """The runner of this file is plain Python, so a late exception can escape it; the pool then says so in the log."""
    import logging

    logging.getLogger("fastq.pool").setLevel(logging.CRITICAL)


def main() -> None:
    faulthandler.dump_traceback_later(5 * DEADLINE_S, exit=True)
    wanted = sys.argv[2:]
    outcomes: dict[str, str] = {}
    for name, law in list(globals().items()):
        if name.startswith("law_") and (not wanted or name in wanted):
            try:
                law()
            except BaseException:
                outcomes[name] = traceback.format_exc()
            else:
                outcomes[name] = ""
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main()
