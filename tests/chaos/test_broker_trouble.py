"""Broker trouble under load, on every pool at once: nothing is lost, nothing runs twice, no process is replaced.

One worker per pool shares one Redis through one proxy; a fault hits all of them. A lost connection alone never costs a second run:
every run is counted, in chains, chords and retries too.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from fastq.exceptions import OperationalError
from fastq.transports.redis.scripts import script
from tests.chaos.broker_trouble import LEASE_S, Fleet, during, fleet_of
from tests.workers import eventually


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet_of(tmp_path_factory.mktemp("fleet"), "--lua-time-limit", "200") as fleet:
        yield fleet


def test_cut_connections_lose_and_repeat_nothing(fleet: Fleet) -> None:
    load = fleet.begin().everywhere(1)
    rng = random.Random(1)
    during(1.5, lambda: fleet.proxy.cut(), 0.05 + rng.random() / 5)
    load.check()
    fleet.check_alive()


@pytest.mark.parametrize("verb", ["fetch", "settle"])
def test_calls_that_are_cut_in_the_middle(verb: str, fleet: Fleet) -> None:
    load = fleet.begin().everywhere(0.5)
    for when in ("reply", "mid-request", "mid-reply", "late", "request"):
        before = fleet.proxy.hits
        fleet.proxy.cut_on(script(verb).sha, when, times=6)
        eventually(lambda before=before: fleet.proxy.hits >= before + 6 or not load.left(), "six calls cut", every_s=0.02)
        fleet.proxy.cut_on(b"", times=0)
    fleet.proxy.deliver()
    load.check()
    fleet.check_alive()
    assert fleet.proxy.hits >= 6


@pytest.mark.parametrize("kind", ["normal", "pubsub"])
def test_killed_clients_come_back(kind: str, fleet: Fleet) -> None:
    load = fleet.begin().everywhere(0.5)
    with fleet.server.client() as admin:
        during(1, lambda: admin.execute_command("CLIENT", "KILL", "TYPE", kind), 0.2)
    load.check()
    fleet.check_alive()


def test_half_open_connections_are_given_up(fleet: Fleet) -> None:
    """What was sent is swallowed for longer than an answer is waited for; the old connections never answer again."""
    load = fleet.begin().everywhere(0.5)
    time.sleep(0.3)
    fleet.proxy.freeze()
    fleet.wait_lost()
    fleet.proxy.thaw()
    load.check()
    fleet.check_alive()
    fleet.check_says()
    fleet.proxy.cut()
    fleet.wait_idle()  # what this cut makes them say is not of the next test


def test_restarted_redis(fleet: Fleet) -> None:
    load = fleet.begin().everywhere(0.5)
    time.sleep(0.3)
    fleet.server.restart()
    load.check()
    fleet.check_alive()
    fleet.check_says()


def test_unreachable_for_longer_than_a_lease(fleet: Fleet) -> None:
    load = fleet.begin()
    for pool in fleet.workers:
        load.work(pool, 1, ms=4_000)  # runs on through all of it
    load.everywhere(0.3)
    time.sleep(0.3)
    fleet.proxy.refusing = True
    fleet.proxy.cut()
    time.sleep(1.7 * LEASE_S)
    fleet.proxy.refusing = False
    load.check()
    fleet.check_alive()
    fleet.check_says()


def test_stopped_redis_goes_on(fleet: Fleet) -> None:
    """The server's process stands still for longer than a lease: every call times out, is repeated, and may then arrive twice."""
    import signal

    load = fleet.begin().everywhere(0.5)
    time.sleep(0.3)
    fleet.server.kill(signal.SIGSTOP)
    time.sleep(2 * LEASE_S)
    fleet.server.kill(signal.SIGCONT)
    load.check()
    fleet.check_alive()


def test_busy_redis(fleet: Fleet) -> None:
    """Somebody's script holds the server: it answers BUSY to everything, until it is killed."""
    load = fleet.begin().everywhere(0.5)
    with fleet.server.client() as busy, fleet.server.client() as admin:

        def loop() -> None:
            with suppress(Exception):
                busy.eval("while true do end", 0)

        thread = threading.Thread(target=loop)
        thread.start()
        fleet.wait_lost("BUSY")
        admin.execute_command("SCRIPT", "KILL")
        thread.join()
    load.check()
    fleet.check_alive()
    fleet.check_says()


def test_read_only_redis(fleet: Fleet) -> None:
    load = fleet.begin().everywhere(0.5)
    time.sleep(0.3)
    with fleet.server.client() as admin:
        admin.execute_command("REPLICAOF", "127.0.0.1", "1")
        try:
            fleet.wait_lost("read-only")
        finally:
            admin.execute_command("REPLICAOF", "NO", "ONE")
    load.check()
    fleet.check_alive()
    fleet.check_says()


def test_redis_out_of_memory_refuses_tasks_and_loses_none(fleet: Fleet) -> None:
    load = fleet.begin().everywhere(0.5)
    with fleet.server.client() as admin:
        admin.config_set("maxmemory", 1)
        try:
            with pytest.raises(OperationalError, match="out of memory and refuses new data") as refused:
                fleet.tasks.work.apply_async(("refused",), queue="threads", task_id="refused")
            assert refused.value.task_ids == ("refused",)
            # what was accepted drains: its results, chains, chords and retries are written in spite of it
            load.check()
        finally:
            admin.config_set("maxmemory", 0)
    fleet.begin().everywhere(0).check()
    fleet.check_alive()
    assert "refused" not in fleet.ledger.read_text()


def test_an_idle_worker_whose_wake_channel_is_killed_takes_the_next_task(fleet: Fleet) -> None:
    fleet.begin()
    fleet.wait_idle()
    with fleet.server.client() as admin:
        admin.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    fleet.check_pickup(within_s=LEASE_S)
    fleet.check_alive()


@pytest.mark.parametrize("which", [b"fastq:wake", b""], ids=["wake", "all"])
def test_an_idle_worker_whose_connections_are_half_open_takes_the_next_task(which: bytes, fleet: Fleet) -> None:
    """Redis still counts the wake channel as a receiver, so only the worker's own look, once a lease, finds out."""
    fleet.begin()
    fleet.wait_idle()
    assert fleet.proxy.freeze(which) >= len(fleet.workers)
    fleet.proxy.thaw()
    # a lease until it looks, one until that is given up, and a little for the machine
    fleet.check_pickup(within_s=3 * LEASE_S + 2)
    fleet.check_alive()
    fleet.proxy.cut()
