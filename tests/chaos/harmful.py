"""Tasks that end their process, block it or hold the GIL, and what tests of them share."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from fastq.transports.base import DeadLetter
from tests.integration.conftest import TASKS
from tests.workers import Worker, children

__all__ = ["LEASE_S", "add_tasks", "alive", "dead_letters", "node", "nursery_of", "slots"]

LEASE_S = 2.0

MORE = '''

import ctypes
import resource
import signal
from fastq import signals

_sleep = time.sleep
if "gevent" in sys.modules:
    import gevent.monkey
    if gevent.monkey.is_module_patched("time"):
        _sleep = gevent.monkey.get_original("time", "sleep")
if "eventlet" in sys.modules:
    import eventlet.patcher
    if eventlet.patcher.is_monkey_patched("time"):
        _sleep = eventlet.patcher.original("time").sleep


def crash_now(how):
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # no file of some megabytes each time
    if how == "exit":
        os._exit(3)
    elif how == "abort":
        os.abort()
    elif how == "segfault":
        ctypes.string_at(0)
    else:
        os.kill(os.getpid(), signal.SIGKILL)


@app.task
def crash(name, how):
    effect(f"crash-{name}")
    crash_now(how)


@app.task(bind=True)
def short(self, i, fatal):
    """One of many of one name; leaves how often it was delivered before."""
    if i == fatal:
        effect("fatal")
        crash_now("kill")
    effect(f"short-{i}-{self.request.deliveries}")
    return i


@app.task(bind=True)
def beside(self, name):
    """Stay until told; return how often it was delivered before."""
    effect(f"beside-{name}-{self.request.deliveries}")
    await_file("gate")
    return self.request.deliveries


@app.task(bind=True)
async def beside_async(self, name):
    effect(f"beside-{name}-{self.request.deliveries}")
    while not os.path.exists(os.path.join(FOLDER, "gate")):
        await asyncio.sleep(0.01)
    return self.request.deliveries


@app.task(acks_late=False)
def crash_once(name):
    effect(f"crash-{name}")
    os._exit(3)


@app.task
def devour():
    """Ask for more memory than there is."""
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), before[1]))
    try:
        bytearray(1 << 30)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@app.task
def after_error(*args):
    effect("after-error")


@app.task
def total(values):
    effect("total")
    return sum(values)


@app.task
def relay(name):
    """Say which process runs this, and stay until this very process is told."""
    effect(f"relaying-{name}-{os.getpid()}")
    await_file(f"go-{os.getpid()}")
    effect(f"relayed-{name}-{os.getpid()}")
    return os.getpid()


@app.task
async def relay_async(name):
    effect(f"relaying-{name}-{os.getpid()}")
    while not os.path.exists(os.path.join(FOLDER, f"go-{os.getpid()}")):
        await asyncio.sleep(0.01)
    effect(f"relayed-{name}-{os.getpid()}")
    return os.getpid()


@app.task
def after(pid, name):
    effect(f"after-{name}-{pid}")


@app.task
def stall(i, stalling, how, s, name):
    """One of many short ones; a certain one stalls its process."""
    if i == stalling:
        effect(f"stalling-{name}")
        if how == "gil":
            ctypes.PyDLL(None).usleep(round(s * 1e6))  # in C, with the GIL: no other thread of this process runs
        else:
            _sleep(s)  # as unpatched code does: a hub or an event loop stands still
        effect(f"stalled-{name}")
    else:
        effect(f"passed-{name}-{i}")
    return os.getpid()


@signals.worker_process_init.connect
def sick(**_):
    """Let processes die while they start, as long as the test wants."""
    if os.path.exists(os.path.join(FOLDER, "sick")):
        effect("died-at-start")
        os.kill(os.getpid(), signal.SIGKILL)
'''


def add_tasks(module: ModuleType, directory: Path, more: str = MORE) -> ModuleType:
    """Write the module with these tasks, too, for workers and for the test."""
    (directory / "tasks.py").write_text(TASKS + more)
    exec(compile(more, str(directory / "tasks.py"), "exec"), module.__dict__)
    return module


@contextlib.contextmanager
def node(directory: Path, pool: str, *arguments: str) -> Iterator[Worker]:
    with Worker(directory, "-P", pool, "-c", slots(pool), "-l", "INFO", *arguments).wait_ready() as worker:
        yield worker


def slots(pool: str) -> str:
    return {"prefork": "2", "solo": "1"}.get(pool, "10")


def alive(pid: int) -> bool:
    """Say whether a process exists and is no zombie."""
    try:
        return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def nursery_of(worker: Worker) -> int:
    (pid,) = (pid for pid in children(worker.pid) if "Nursery" in Path("/proc", str(pid), "comm").read_text())
    return pid


def dead_letters(module: ModuleType) -> list[DeadLetter]:
    from fastq.transports import open_inspector

    inspector = open_inspector(os.environ["TEST_BROKER"], module.app.transport_options())
    try:
        return inspector.dead("default")
    finally:
        inspector.close()
