"""A node whose application, broker and worker processes are fakes: what is real is everything between them.

Run as ``python -m tests.unit.worker_house SCENARIO``. It prints what the broker is asked and what the processes are told.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import types
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastq import transports
from fastq.exceptions import ImproperlyConfigured
from fastq.records import Lease
from fastq.worker import nursery, services, solo, starters, supervisor
from fastq.worker.board import open_region
from fastq.worker.hello import Hello
from fastq.worker.link import Link
from fastq.worker.options import WorkerOptions
from fastq.worker.reaper import Reaper
from tests.unit.test_worker_banner import HELLO
from tests.unit.worker_fakes import FakeBroker

ROOT = str(Path(__file__).parents[2])
SCENARIO = os.environ.get("FASTQ_TEST_SCENARIO", "")


def say(*words: object) -> None:
    # in one write: several processes share the file
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


class LoudBroker(FakeBroker):
    """Say which names live and which are buried."""

    def renew(self, queues: Sequence[str], processes: Sequence[str], lease_ms: int) -> list[Lease]:
        if SCENARIO == "no-broker":
            self.down = True
        known = set(self.leases)
        old = super().renew(queues, processes, lease_ms)
        for key in sorted(set(self.leases) - known):
            say("entered", key[1])
        return old

    def condemn(self, leases: Sequence[Lease]) -> list[Lease]:
        for lease in leases:
            say("condemned", lease.process)
        return super().condemn(leases)


def run_process(app: object, *, index: int, slots: int, board_fd: int, link: Link, **more: Any) -> int:
    """Live as told by the scenario."""
    open_region(board_fd, index, slots).set_counter("pid", os.getpid())
    import multiprocessing  # lazy: as the real one would find it

    say("alive", index, os.getpid(), os.getppid(), multiprocessing.current_process().name)
    if SCENARIO == "stillborn":
        raise ImproperlyConfigured("this process cannot live")
    if SCENARIO == "young" and not Path(os.environ["FASTQ_TEST_CURED"]).exists():
        os._exit(3)
    link.send({"ready": os.getpid()})
    while not link.closed:
        for message in link.wait(None):
            say("told", index, message)
            if "start" in message and SCENARIO == "fenced":
                link.send({"fenced": message["start"]["process"]})
            if "start" in message and SCENARIO == "recycle" and not Path(os.environ["FASTQ_TEST_CURED"]).exists():
                Path(os.environ["FASTQ_TEST_CURED"]).touch()
                link.send({"recycle": "max tasks"})
                return 0
            if "stop" in message and SCENARIO == "stubborn":
                while True:
                    time.sleep(60)
            if "stop" in message:
                return 0
    return 1


def settle_in(options: WorkerOptions) -> tuple[object, WorkerOptions, dict[str, Any]]:
    if SCENARIO == "no-app":
        raise ImproperlyConfigured("no application was found")
    if SCENARIO == "broken-app":
        raise ValueError("the module is broken")
    pool = options.pool or os.environ.get("FASTQ_TEST_POOL", "prefork")
    hello: Hello = replace(
        HELLO, pool=pool, concurrency=2, processes=2, slots=1, lease_ms=1_500, queues=("default",), retry=SCENARIO != "no-broker"
    )
    return object(), options, hello.to_message()


def furnish() -> None:
    """Put the fakes in place; fresh interpreters of the node do the same."""
    process = types.ModuleType("fastq.worker.process")
    process.run_process = run_process  # type: ignore[attr-defined]
    sys.modules["fastq.worker.process"] = process
    nursery.settle_in = settle_in  # type: ignore[assignment]
    solo.settle_in = settle_in  # type: ignore[assignment]
    nursery.prepare = lambda url: None
    nursery.move_in = solo.move_in = lambda app, options, node, index=None: None  # type: ignore[assignment]
    services.open_channel = lambda url, options: transports.open_channel("memory://house", options)

    def open_store(hello: Hello) -> tuple[LoudBroker, Reaper]:
        broker = LoudBroker()
        return broker, Reaper(broker, lambda: None, max_deliveries=3, encode=lambda exc: ("text/plain", b"", None))

    supervisor.open_store = open_store
    solo.open_store = open_store
    first = f"import sys; sys.path[:0] = [{ROOT!r}]; from tests.unit.worker_house import furnish; furnish(); "
    starters._NURSERY_CODE = first + starters._NURSERY_CODE
    # no real patching: green interpreters are tested with the real thing elsewhere
    starters._GREEN_CODE["gevent"] = first + "from fastq.worker.green import main; main()"


def main() -> int:
    furnish()
    pool = sys.argv[2] if len(sys.argv) > 2 else None
    options = WorkerOptions(pool=pool, loglevel="INFO", hostname="n@h")
    logging.raiseExceptions = False
    return solo.run(options) if pool == "solo" else supervisor.run(options)


if __name__ == "__main__":
    sys.exit(main())
