"""Processes that stand still and come back: SIGSTOP past the lease, tasks that hold the GIL or block a hub for many leases.

All pools at once, each a node with a queue of its own; one more node takes from all queues what the others lose.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.chaos.harmful import LEASE_S, add_tasks
from tests.integration.conftest import ran
from tests.workers import POOLS, Worker, children, eventually

#: how long a task stalls its process
STALL_S = 5 * LEASE_S


@pytest.fixture
def module(tasks: ModuleType, tmp_path: Path) -> ModuleType:
    return add_tasks(tasks, tmp_path)


@dataclass
class Member:
    """A node of one pool."""

    pool: str
    worker: Worker

    def pids(self, part: str) -> list[int]:
        """Return the processes that a test freezes."""
        pids = [self.worker.pid, *children(self.worker.pid)]
        running = self.worker.pool_pids()
        if part == "process":
            return running
        if part == "supervisor":
            return [pid for pid in pids if pid not in running]  # solo: its keeper
        return pids


@contextlib.contextmanager
def fleet(directory: Path, kinds: list[tuple[str, str]]) -> Iterator[dict[str, Member]]:
    """Start a node for every (name, pool), with the name as its queue; the first start is the slow part, so all start together."""
    with contextlib.ExitStack() as stack:
        members = {}
        for name, pool in kinds:
            slots = "1" if pool == "prefork" else "2"
            worker = stack.enter_context(Worker(directory, "-P", pool, "-c", slots, "-l", "INFO", "-n", f"{name}@here", "-Q", name))
            members[name] = Member(pool, worker)
        for member in members.values():
            member.worker.wait_ready()
        yield members


def taker(directory: Path, names: list[str]) -> Worker:
    return Worker(directory, "-P", "threads", "-c", "20", "-l", "INFO", "-n", "taker@here", "-Q", ",".join(names)).wait_ready()


def send(pids: list[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


@contextlib.contextmanager
def frozen(pids: list[int]) -> Iterator[None]:
    """Freeze processes; they go on at the end, however the test ends."""
    send(pids, signal.SIGSTOP)
    try:
        yield
    finally:
        send(pids, signal.SIGCONT)


def runners(folder: Path, word: str, name: str) -> list[int]:
    """Return the pids of the processes that have left this effect of a task, one per run."""
    return [int(effect.rpartition("-")[2]) for effect in ran(folder, f"{word}-{name}-")]


def relay(module: ModuleType, name: str, pool: str) -> Any:
    task = module.relay_async if pool == "asyncio" else module.relay
    return task.apply_async((name,), queue=name, link=module.after.s(name).set(queue="follow"))


def logs(members: dict[str, Member]) -> str:
    return "\n".join(f"--- {name}\n{member.worker.log[-1500:]}" for name, member in members.items())


def test_a_frozen_process_keeps_its_tasks_as_long_as_its_supervisor_lives(module: ModuleType, tmp_path: Path, folder: Path) -> None:
    names = list(POOLS)
    with fleet(tmp_path, [(pool, pool) for pool in POOLS]) as members, taker(tmp_path, ["follow"]) as other:
        results = {name: relay(module, name, name) for name in names}
        eventually(lambda: all(runners(folder, "relaying", name) for name in names), "all running")
        other.terminate()
        with taker(tmp_path, [*names, "follow"]):
            with frozen([pid for member in members.values() for pid in member.pids("process")]):
                time.sleep(2 * LEASE_S)  # the time in which a dead node's tasks would have run again
            for name in names:
                (pid,) = runners(folder, "relaying", name)
                (folder / f"go-{pid}").touch()
                assert results[name].get(timeout=60) == pid, name
                eventually(lambda name=name: runners(folder, "after", name), "what follows runs")  # type: ignore[misc]
        for name in names:
            assert len(runners(folder, "relaying", name)) == len(runners(folder, "after", name)) == 1, name
            assert "changed nothing" not in members[name].worker.log


@pytest.mark.parametrize("part", ["supervisor", "node"])
def test_what_a_node_settles_after_it_was_frozen_past_its_lease_changes_nothing(
    part: str, module: ModuleType, tmp_path: Path, folder: Path
) -> None:
    """The frozen node's tasks run again elsewhere and end there; then the node comes back, and its runs end too.

    A supervisor alone: its processes work on, but nobody renews their leases.
    """
    names = list(POOLS)
    with fleet(tmp_path, [(pool, pool) for pool in POOLS]) as members:
        results = {name: relay(module, name, name) for name in names}
        eventually(lambda: all(runners(folder, "relaying", name) for name in names), lambda: f"all running\n{logs(members)}")
        first = {name: runners(folder, "relaying", name)[0] for name in names}
        pids = {name: sorted(member.worker.pool_pids()) for name, member in members.items()}
        with taker(tmp_path, [*names, "follow"]) as other:
            with frozen([pid for member in members.values() for pid in member.pids(part)]):
                stopped = time.monotonic()
                for name in names:
                    eventually(
                        lambda name=name: len(runners(folder, "relaying", name)) == 2,  # type: ignore[misc]
                        lambda name=name: f"{name}: again\n{other.log}",  # type: ignore[misc]
                    )
                    print(f"{part} of {name}: running elsewhere {time.monotonic() - stopped:.1f} s after the freeze")
                second = other.pool_pids()[0]
                (folder / f"go-{second}").touch()
                assert {result.get(timeout=60) for result in results.values()} == {second}
                if part == "supervisor":
                    for pid in first.values():
                        (folder / f"go-{pid}").touch()
                    for member in members.values():
                        member.worker.wait_log("1 outcome(s) of ")  # while nobody can give it a new name
            for pid in first.values():
                (folder / f"go-{pid}").touch()
            for name, member in members.items():
                eventually(lambda name=name: len(runners(folder, "relayed", name)) == 2, f"{name}: both ended")  # type: ignore[misc]
                member.worker.wait_log("changed nothing: their leases had been taken away")
            for name in names:
                eventually(lambda name=name: runners(folder, "after", name), "what follows runs")  # type: ignore[misc]
            assert other.terminate() == 0
        for name, member in members.items():
            # the same processes go on working, under new names
            for _ in range(3):
                assert module.who.apply_async(queue=name).get(timeout=60)[2] in pids[name], logs(members)
            assert sorted(member.worker.pool_pids()) == pids[name], logs(members)
            assert "goes on under a new name" in member.worker.log or name == "solo"
            assert module.app.AsyncResult(results[name].id).get(timeout=60) == second, "the result is that of the accepted run"
            assert runners(folder, "after", name) == [second], "what follows was published once"
            assert len(runners(folder, "relaying", name)) == 2


STALLS = [(pool, "gil") for pool in POOLS] + [(pool, "hub") for pool in ("gevent", "eventlet", "asyncio")]


def test_a_stalled_process_is_not_taken_for_dead_and_what_waits_behind_the_task_runs_elsewhere(
    broker_url: str, module: ModuleType, tmp_path: Path, folder: Path
) -> None:
    """On SQLite perhaps after the stall: the GIL may be lost in the middle of a transaction, which locks the file for as long."""
    kinds = {f"{pool}-{how}": (pool, how) for pool, how in STALLS}
    number, stalling = 60, 30
    with fleet(tmp_path, [(name, pool) for name, (pool, _) in kinds.items()]) as members:
        results = {
            name: module.stall.delay_many([(i, stalling, how, STALL_S, name) for i in range(number)], queue=name)
            for name, (_, how) in kinds.items()
        }
        eventually(lambda: all(ran(folder, f"stalling-{name}") for name in kinds), f"all stalled\n{logs(members)}")
        began = time.monotonic()
        with taker(tmp_path, list(kinds)) as other:
            done_s: dict[str, float] = {}

            def others_done() -> bool:
                for name, (pool, _) in kinds.items():
                    # what another slot had claimed before the GIL was gone, or the hub stood still, cannot be taken from it
                    claimed = 0 if pool in ("prefork", "solo") else 1
                    if name not in done_s and len(ran(folder, f"passed-{name}-")) >= number - 1 - claimed:
                        done_s[name] = time.monotonic() - began
                        late = bool(ran(folder, f"stalled-{name}")) and not broker_url.startswith("sqlite:")
                        assert not late, f"{name}: only after the stall, {done_s[name]:.1f} s later"
                return len(done_s) == len(kinds)

            eventually(others_done, lambda: f"the other tasks\n{logs(members)}")
            print(", ".join(f"{name} {seconds:.1f} s" for name, seconds in done_s.items()), "to the end of the other tasks")
            for name, found in results.items():
                pids = [r.get(timeout=60) for r in found]
                assert pids[stalling] in members[name].worker.pool_pids(), name
            assert set(other.pool_pids()) & {pid for found in results.values() for pid in (r.get(timeout=60) for r in found)}
        for name, member in members.items():
            assert len(ran(folder, f"stalling-{name}")) == 1, f"{name}: run twice"
            assert len(ran(folder, f"passed-{name}-")) == number - 1, f"{name}: run twice"
            assert "changed nothing" not in member.worker.log and "taken away" not in member.worker.log
