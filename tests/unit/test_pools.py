"""The registry of pools: names, what it imports, and what it says when a pool cannot be had."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

import fastq.pools
from fastq.exceptions import ImproperlyConfigured
from fastq.pools import canonical_name, check_installed, make_pool, needs_patching, patch, slots_are_processes, threads
from fastq.pools.base import SlotRunner, TaskKilled

ENV = {**os.environ, "PYTHONPATH": str(Path(fastq.pools.__file__).parents[2])}


def python(code: str, *options: str) -> str:
    """Run code in a fresh interpreter where warnings are errors; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", *options, "-c", code], capture_output=True, text=True, env=ENV, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_names_and_aliases() -> None:
    assert [canonical_name(name) for name in fastq.pools.NAMES] == list(fastq.pools.NAMES)
    assert canonical_name("processes") == "prefork"
    assert canonical_name("aio") == "asyncio"


@pytest.mark.parametrize("name, hint", [("gevnt", "gevent"), ("thread", "threads"), ("Prefork", "prefork")])
def test_an_unknown_pool_is_refused_with_the_known_names_and_a_guess(name: str, hint: str) -> None:
    for ask in (canonical_name, needs_patching, slots_are_processes, patch, check_installed, lambda name: make_pool(name, 1)):
        with pytest.raises(ImproperlyConfigured, match=f"unknown pool '{name}'. Did you mean '{hint}'.*prefork, threads.*aio"):
            ask(name)


def test_an_unknown_pool_like_none_gets_no_guess() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"unknown pool 'xyzzy'\. Known pools: prefork, threads"):
        canonical_name("xyzzy")


@pytest.mark.parametrize("slots", [0, -3])
def test_a_pool_without_slots_is_refused(slots: int) -> None:
    with pytest.raises(ImproperlyConfigured, match=f"threads pool was asked for {slots} slots"):
        make_pool("threads", slots)


def test_which_pools_patch_and_which_count_processes() -> None:
    assert [name for name in fastq.pools.NAMES if needs_patching(name)] == ["gevent", "eventlet"]
    assert [name for name in fastq.pools.NAMES if slots_are_processes(name)] == ["prefork"]
    assert slots_are_processes("processes")


@pytest.mark.parametrize("name", ["solo", "prefork", "processes"])
def test_solo_and_prefork_have_one_slot_whatever_is_asked(name: str) -> None:
    pool = make_pool(name, 8)
    assert (pool.slots, pool.free) == (1, 1)


def test_the_registry_imports_no_runtime() -> None:
    code = "import sys, fastq.pools; print([m for m in ('gevent', 'eventlet', 'asyncio', 'greenlet') if m in sys.modules])"
    assert python(code).strip() == "[]"


@pytest.mark.parametrize("name", ["solo", "threads"])
def test_a_pool_of_os_threads_imports_no_asyncio_before_the_first_coroutine(name: str) -> None:
    code = f"""
import sys, fastq.pools
pool = fastq.pools.make_pool({name!r}, 2)
pool.start(type("Runner", (), {{"run": None}}), lambda: None)
pool.main(lambda: None)
print([m for m in ('gevent', 'eventlet', 'asyncio') if m in sys.modules])
"""
    assert python(code).strip() == "[]"


@pytest.mark.parametrize("name", ["gevent", "eventlet"])
def test_a_missing_library_is_named_with_its_extra(name: str) -> None:
    code = f"""
import sys, json
sys.modules[{name!r}] = None  # as if it were not installed
from fastq.exceptions import ImproperlyConfigured
from fastq.pools import make_pool, patch
said = []
for ask in (lambda: patch({name!r}), lambda: make_pool({name!r}, 4)):
    try:
        ask()
    except ImproperlyConfigured as error:
        said.append(str(error))
print(json.dumps(said))
"""
    said = json.loads(python(code))
    assert len(said) == 2
    for text in said:
        assert f"the {name} pool needs {name}" in text
        assert f"pip install 'fastq[{name}]'" in text


def test_a_missing_library_can_be_asked_for_without_importing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    check_installed("threads")
    with pytest.raises(ImproperlyConfigured, match=r"pip install 'fastq\[eventlet\]'"):
        check_installed("eventlet")


@pytest.mark.parametrize("name", ["gevent", "eventlet"])
def test_patch_makes_the_standard_library_cooperative_without_a_warning(name: str) -> None:
    code = f"""
from fastq.pools import patch
patch({name!r})
import socket, time
print(socket.socket.__module__, time.sleep.__module__)
"""
    assert python(code).count(name) == 2


@pytest.mark.parametrize("name", ["threads", "solo", "asyncio"])
def test_patch_leaves_other_pools_alone(name: str) -> None:
    code = f"""
from fastq.pools import patch
patch({name!r})
import socket, time
print(socket.socket.__module__, time.sleep.__module__)
"""
    assert python(code).split() == ["socket", "time"]


@pytest.mark.parametrize("name", ["threads", "gevent", "eventlet", "asyncio"])
def test_a_consumer_that_fails_ends_the_process_even_with_a_slot_busy(name: str) -> None:
    """A worker process whose consumer has failed must die for its supervisor to see it; a hung task must not keep it."""
    code = f"""
from fastq.pools import make_pool, patch
patch({name!r})
import asyncio, threading, time
begun = threading.Event()
class Runner:
    def run(self, slot, batch):
        begun.set()
        time.sleep(1000)
    async def run_async(self, slot, batch):
        begun.set()
        await asyncio.sleep(1000)
pool = make_pool({name!r}, 2)
pool.start(Runner(), lambda: None)
def consume():
    pool.submit([object()])
    begun.wait()
    raise LookupError("the consumer failed")
try:
    pool.main(consume)
except LookupError as error:
    print(error)
"""
    assert python(code).strip() == "the consumer failed"


def test_a_solo_process_whose_consumer_fails_ends_with_its_task() -> None:
    """The main thread is the slot there, so it cannot be left: its supervisor's signal ends it sooner."""
    code = """
from fastq.pools import make_pool
import threading
begun, failed, ended = threading.Event(), threading.Event(), []
class Runner:
    def run(self, slot, batch):
        begun.set()
        failed.wait()
        ended.append(batch)
pool = make_pool("solo", 1)
pool.start(Runner(), lambda: None)
def consume():
    pool.submit([object()])
    begun.wait()
    failed.set()
    raise LookupError("the consumer failed")
try:
    pool.main(consume)
except LookupError as error:
    print(error, len(ended))
"""
    assert python(code).strip() == "the consumer failed 1"


def test_a_signal_handler_that_raises_leaves_an_idle_solo_process() -> None:
    code = """
from fastq.pools import make_pool
import os, signal, threading
pool = make_pool("solo", 1)
pool.start(type("Runner", (), {"run": None}), lambda: None)
def consume():
    os.kill(os.getpid(), signal.SIGINT)
    threading.Event().wait()
try:
    pool.main(consume)
except KeyboardInterrupt:
    print("interrupted")
"""
    assert python(code).strip() == "interrupted"


def test_a_coroutine_cancelled_before_its_first_step_still_ends_its_call() -> None:
    """asyncio never enters such a coroutine, so nothing inside it could tell the slot that waits."""
    from fastq.pools.loops import Call, LoopThread

    async def never() -> None:
        raise AssertionError("it was cancelled before")

    ended = threading.Event()
    call = Call(never, (), {}, lambda _: ended.set())
    call.cancelled_as = TaskKilled
    loop_thread = LoopThread(lambda main: threading.Thread(target=main, daemon=True).start(), threading.Lock())
    loop_thread.begin(call)
    assert ended.wait(20)
    with pytest.raises(TaskKilled):
        call.result()
    loop_thread.close()


def test_a_loop_that_cannot_be_made_fails_every_call_instead_of_leaving_it_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(asyncio, "new_event_loop", refuse)
    pool = make_pool("threads", 1)

    async def nothing() -> None: ...

    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"event loop for coroutine tasks could not be started: .*Too many open files"):
            pool.call_async(nothing, (), {})


def test_coroutines_left_at_the_end_run_their_finally_blocks() -> None:
    pool = make_pool("threads", 1)
    ended = threading.Event()

    async def background() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            ended.set()

    async def leave_one_behind() -> None:
        tasks.append(asyncio.create_task(background()))
        await asyncio.sleep(0)

    tasks: list[asyncio.Task[None]] = []
    pool.start(cast(SlotRunner, None), lambda: None)
    pool.main(lambda: pool.call_async(leave_one_behind, (), {}))
    assert ended.is_set()
    assert tasks[0].cancelled()


def test_an_exception_thrown_after_its_task_ended_strikes_neither_the_slot_nor_the_next_task(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The consumer sees the task running and throws; between the two the task ends."""
    throw = threads.raise_in
    announced, ended = threading.Event(), threading.Event()

    def throw_late(ident: int, error: type[BaseException] | None) -> None:
        if error is not None:
            announced.set()
            assert ended.wait(20)
        throw(ident, error)

    monkeypatch.setattr(threads, "raise_in", throw_late)
    errors: list[BaseException] = []
    ran: list[str] = []

    class Runner:
        def run(self, slot: int, batch: Any) -> None:
            try:
                if batch[0].id == "struck":
                    begun.set()
                    assert announced.wait(20)
                else:
                    time.sleep(0.001)
                ran.append(batch[0].id)
            except BaseException as error:
                errors.append(error)
            if batch[0].id == "struck":
                ended.set()

    def consume() -> None:
        for i in range(20):
            for event in (announced, ended, begun):
                event.clear()
            pool.submit(cast(Any, [SimpleNamespace(id="struck")]))
            assert begun.wait(20)
            assert pool.cancel("struck", hard=bool(i % 2))
            assert pool.stop(20)
            pool.submit(cast(Any, [SimpleNamespace(id="next")]))
            assert pool.stop(20)
            assert pool.free == 1

    begun = threading.Event()
    pool = threads.ThreadsPool(1)
    pool.start(cast(SlotRunner, Runner()), lambda: None)
    pool.main(consume)
    assert ran.count("next") == 20
    # the strike can still come between the runner's last instructions; the task itself had ended
    assert errors == []
