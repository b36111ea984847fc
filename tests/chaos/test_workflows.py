"""kill -9 in the middle of workflows: each ends with the right result, nothing that follows a task is sent twice, nothing is left.

The seed is printed; ``FASTQ_CHAOS_SEED`` chooses it, ``FASTQ_CHAOS_ROUNDS`` says how many different ones are tried.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastq import _core
from tests.canvas_site import Run, Site, deploy, value_of
from tests.canvases import Direct, Shape, plain, random_shape
from tests.chaos.test_kill import ROUNDS
from tests.workers import Worker, children, eventually

SEED = int(os.environ.get("FASTQ_CHAOS_SEED") or 1)
WORKFLOWS = 40
LEAVES = 12
KILLS = 4
#: so many deaths under one task are more than there are kills
DELIVERIES = 3 * KILLS

SLOTS = {"prefork": "2", "threads": "4", "gevent": "10"}
KINDS = [("redis", "prefork"), ("redis", "threads"), ("sqlite", "prefork"), ("sqlite", "gevent")]


@pytest.fixture(params=KINDS, ids="-".join)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Site, str]]:
    broker, pool = request.param
    url = request.getfixturevalue("redis_url") if broker == "redis" else f"sqlite:///{tmp_path / 'fastq.db'}"
    with deploy(tmp_path, url, TEST_PAUSE_MS="3", TEST_DELIVERIES=str(DELIVERIES)) as site:
        yield site, pool


@pytest.mark.parametrize("seed", [SEED + i for i in range(ROUNDS)])
@pytest.mark.parametrize("victim", ["child", "node"])
def test_workflows_end_rightly_and_publish_each_step_once_while_workers_are_killed(
    victim: str, seed: int, site: tuple[Site, str]
) -> None:
    print(f"seed {seed}")
    chance = random.Random(seed)
    place, pool = site
    flows: dict[str, tuple[Shape, Direct, object]] = {}
    for i in range(WORKFLOWS):
        # the first half has no failing member, so no dead letter for which anything may be left
        shape = random_shape(chance, LEAVES, failing=i >= WORKFLOWS // 2)
        direct = Direct()
        flows[f"flow-{i}"] = (shape, direct, direct.value(shape))
    wanted = sum(len(direct.runs) for _, direct, _ in flows.values())
    moments = sorted(chance.sample(range(wanted // 20, wanted * 3 // 4), KILLS))

    def start() -> Worker:
        return place.worker("-P", pool, "-c", SLOTS[pool], "-l", "INFO").wait_ready()

    with contextlib.ExitStack() as workers:
        worker = workers.enter_context(start())
        results = {root: place.send(shape, root) for root, (shape, _, _) in flows.items()}
        killed: set[int] = set()
        for moment in moments:
            eventually(
                lambda least=moment: len(place.runs()) >= least,  # type: ignore[misc]
                lambda worker=worker, moment=moment: f"{moment} runs\n{worker.log[-2000:]}",  # type: ignore[misc]
                every_s=0.002,
            )
            if victim == "node":
                killed.update(children(worker.pid))
                worker.kill_all()
                worker = workers.enter_context(start())
            else:
                killed.add(kill_child(worker, chance))
        for root, (shape, _, value) in flows.items():
            assert plain(value_of(results[root], 60)) == plain(value), (root, shape)
        eventually(
            lambda: all(not missing(place, root, direct) for root, (_, direct, _) in flows.items()),
            f"every callback called\n{[missing(place, root, direct) for root, (_, direct, _) in flows.items()]}",
        )
        place.wait_idle()
        assert worker.terminate() == 0, worker.log[-2000:]

    for root, (shape, direct, _) in flows.items():
        assert set(place.counted(root)) == set(expected(direct)), f"{shape}: only what is in the workflow has run"
    # calls within one message are told apart by nothing
    runs = [run for run in place.runs() if run.message == run.name]
    print(f"{len(place.runs())} runs of {wanted} tasks, {sum(run.deliveries > 0 for run in runs)} of them charged to a kill")
    check_published_once(runs, killed)
    check_nothing_left(place)


def expected(direct: Direct) -> Counter[str]:
    return Counter(repr(run) for run in direct.runs)


def missing(place: Site, root: str, direct: Direct) -> Counter[str]:
    return expected(direct) - place.counted(root)


def kill_child(worker: Worker, chance: random.Random) -> int:
    """Kill one of the processes that run tasks; return which."""
    found: list[int] = []

    def running() -> list[int]:
        found[:] = worker.pool_pids()
        return found

    # while its successor starts, there may be none
    eventually(running, "a process that runs tasks")
    pid = chance.choice(found)
    os.kill(pid, signal.SIGKILL)
    return pid


def check_published_once(runs: list[Run], killed: set[int]) -> None:
    """A message runs again only because the process died that ran it; two messages of one task were made at different times."""
    by_message: dict[tuple[object, ...], list[Run]] = {}
    for run in runs:
        # a replacement keeps the id, as a retry does
        by_message.setdefault((run.id, run.nesting, run.retries, run.name, repr(run.args)), []).append(run)
    for same in by_message.values():
        assert len({run.enqueued_ms for run in same}) == 1, f"published twice: {same}"
        assert sum(run.pid not in killed for run in same) <= 1, f"ran twice in processes that lived: {same}"
        assert len({run.pid for run in same}) == len(same) <= KILLS + 1, f"ran twice in one process: {same}"


def check_nothing_left(place: Site) -> None:
    """Every join is gone, or waits with a TTL beside the dead letter of its body; every other key has an owner too."""
    left = place.left()
    assert (left["ready"], left["delayed"], left["leased"]) == (0, 0, 0)
    owned = set()
    with contextlib.closing(place.inspector()) as inspector:
        for letter in inspector.dead("default", limit=10_000):
            joined = (_core.peek(letter.message).flow or {}).get("joined")
            if joined is not None:
                owned.add(joined[0])
    joins = redis_joins(place) if place.broker.startswith("redis") else sqlite_joins(place)
    assert set(joins) <= owned, "no join is left that nobody can need"
    assert all(expires for expires in joins.values())


def redis_joins(place: Site) -> dict[str, bool]:
    """Return the joins on Redis and whether they expire; AssertionError for any other key without an owner."""
    import redis

    joins: dict[str, bool] = {}
    strays: list[str] = []
    with redis.Redis.from_url(place.broker, decode_responses=True) as client:
        for key in client.scan_iter("*", count=1000):
            expires = client.ttl(key) > 0
            if ":join:" in key:
                joins[key.rpartition(":join:")[2]] = expires
            elif not expires and not key.startswith("fastq:{default}:dead"):
                strays.append(key)
    assert not strays
    return joins


def sqlite_joins(place: Site) -> dict[str, bool]:
    with contextlib.closing(sqlite3.connect(place.directory / "fastq.db")) as sql:
        assert not sql.execute("SELECT count(*) FROM members WHERE joined NOT IN (SELECT no FROM joins)").fetchone()[0]
        return {id: bool(expires) for id, expires in sql.execute("SELECT id, expires_ms FROM joins")}
