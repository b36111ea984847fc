"""The floor for workers on Redis: a hand-written loop of the same shape, no pool, no supervisor, no overlap.

    python benchmarks/redis_loop.py [--url redis://127.0.0.1:6379/0] [--tasks 100000] [--batch 300] [--json FILE]

Each round trip settles one batch with its results and fetches the next; in between the compiled core runs the batch (peek, load,
call a no-op task, encode the outcome). Three loops, the same tasks:

``set``   the smallest scripts that can do it, each result a key of its own (SET .. EX), as DESIGN section 5 measured
``slot``  the same with fastq's results: fields of one hash per time slot
``fastq`` fastq's own broker: fences, call numbers, priorities, promotion, byte limits, wakes

Without ``--url`` a private redis-server is started. Keys start with ``fastq-bench:`` and are removed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fastq import _core as core
from fastq.records import DONE, Delivery, Entry, Fetch, Publication, Registry, Settlement
from fastq.transports.base import TransportOptions
from fastq.transports.redis.address import parse
from fastq.transports.redis.broker import RedisBroker
from fastq.transports.redis.connection import Connection
from fastq.transports.redis.scripts import Script

PREFIX = "fastq-bench:"
QUEUE = "default"

FETCH = """
local popped = redis.call('LPOP', KEYS[1], ARGV[2])
if not popped then return {{}, {}} end
local fields, tags = {}, {}
for i = 1, #popped do
  tags[i] = ARGV[1] .. ':' .. i
  fields[2 * i - 1] = tags[i]
  fields[2 * i] = popped[i]
end
redis.call('HSET', KEYS[2], unpack(fields))
return {tags, popped}
"""

SETTLE_SET = """
local n = tonumber(ARGV[1])
redis.call('HDEL', KEYS[1], unpack(ARGV, 2, n + 1))
for i = n + 2, 3 * n + 1, 2 do
  redis.call('SET', 'fastq-bench:result:' .. ARGV[i], ARGV[i + 1], 'EX', 86400)
end
"""

SETTLE_SLOT = """
local n = tonumber(ARGV[1])
redis.call('HDEL', KEYS[1], unpack(ARGV, 2, n + 1))
redis.call('HSET', KEYS[2], unpack(ARGV, n + 2, 3 * n + 1))
redis.call('EXPIRE', KEYS[2], 86400)
"""


def noop() -> None:
    """Do nothing."""


def raw_script(name: str, text: str) -> Script:
    import hashlib

    return Script(name, text.encode(), hashlib.sha1(text.encode()).hexdigest().encode())


class Bench:
    """One server, one connection, one registry; ``settlements`` is what the core has emitted."""

    def __init__(self, url: str, tasks: int, batch: int) -> None:
        self.options = TransportOptions(prefix=PREFIX)
        self.broker = RedisBroker(url, self.options)
        self.connection = Connection(parse(url), self.options, "bench")
        self.tasks, self.batch = tasks, batch
        self.registry = Registry([Entry("bench.noop", noop)])
        self.settlements: deque[Settlement] = deque()
        self.runner = core.Runner(
            emit=self.settlements.append,
            loads=lambda content_type, body: core.unpackb(body),
            dumps=lambda entry, value: ("application/x-msgpack", core.packb(value)),
            on_error=self._fail,
        )
        self.producer = 0

    @staticmethod
    def _fail(delivery: Delivery, exc: BaseException, runtime_ns: int) -> Settlement:
        raise SystemExit(f"a no-op task failed: {exc!r}")

    def clear(self) -> None:
        cursor = b"0"
        while True:
            cursor, names = self.connection.call([("SCAN", cursor, "MATCH", f"{PREFIX}*", "COUNT", 10_000)])[0]
            if names:
                self.connection.call([("UNLINK", *names)])
            if cursor == b"0":
                return

    def fill(self) -> float:
        """Publish the tasks through the broker; return messages/s."""
        self.producer += 1
        body = core.encode_call((), {})
        now = self.broker.now_ms()
        ids = core.new_ids(now, self.tasks)
        messages = [core.encode(i, "bench.noop", "application/x-msgpack", body, now, None, 0, None, None) for i in ids]
        publications = [Publication(QUEUE, message) for message in messages]
        started = time.perf_counter()
        for number, at in enumerate(range(0, self.tasks, 10_000)):
            self.broker.publish(f"bench{self.producer}", number, publications[at : at + 10_000])
        return self.tasks / (time.perf_counter() - started)

    def run(self, tags: Sequence[str], messages: Sequence[bytes]) -> list[Settlement]:
        """Run one batch in the core and return its outcomes."""
        self.runner.run_many(0, core.deliveries(QUEUE, tags, messages, self.registry))
        outcomes = list(self.settlements)
        self.settlements.clear()
        return outcomes

    def hand(self, settle: Script, slot: bool) -> int:
        fetch = raw_script("fetch", FETCH)
        ready, leased = self.broker.keys.queue(QUEUE).ready[0], f"{PREFIX}leased"
        call = done = 0
        settling: list[tuple[Any, ...]] = []
        while True:
            call += 1
            replies = self.connection.call([*settling, (fetch, 2, ready, leased, call, self.batch)])
            tags, messages = replies[-1]
            if not tags:
                return done
            outcomes = self.run([tag.decode() for tag in tags], messages)
            keys = [leased, self.broker.keys.result(outcomes[0].id)[0]] if slot else [leased]
            settling = [
                (
                    *(settle, len(keys), *keys, len(outcomes)),
                    *[outcome.tag for outcome in outcomes],
                    *[word for outcome in outcomes for word in (outcome.id, outcome.result)],
                )
            ]
            done += len(outcomes)

    def fastq(self) -> int:
        # A name is never used twice, and its lease went with ``clear``.
        calls = 0
        process = f"bench{self.producer}"
        self.broker.renew([QUEUE], [process], 3_600_000)
        outcomes: list[Settlement] = []
        done = 0
        while True:
            calls += 1
            settled = self.broker.settle(process, outcomes, results=True, fetch=Fetch(process, calls, (QUEUE,), self.batch))
            assert settled.fetched is not None
            if not settled.fetched.leased:
                return done
            outcomes = []
            for leased in settled.fetched.leased:
                outcomes += self.run(leased.tags, leased.messages)
            assert all(outcome.verdict == DONE for outcome in outcomes)
            done += len(outcomes)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--url", help="a Redis to use; without it a private one is started")
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", help="write the numbers to this file")
    options = parser.parse_args()
    server = None
    url = options.url
    if url is None:
        from tests.servers import RedisServer

        server = RedisServer()
        url = server.url
    try:
        bench = Bench(url, options.tasks, options.batch)
        loops: dict[str, Callable[[], int]] = {
            "set": lambda: bench.hand(raw_script("settle", SETTLE_SET), False),
            "slot": lambda: bench.hand(raw_script("settle", SETTLE_SLOT), True),
            "fastq": bench.fastq,
        }
        rates: dict[str, list[float]] = {"publish": [], **{name: [] for name in loops}}
        for _ in range(options.rounds):
            for name, loop in loops.items():
                bench.clear()
                rates["publish"].append(bench.fill())
                bench.connection.call([("CONFIG", "RESETSTAT")])
                cpu, started = time.process_time(), time.perf_counter()
                done = loop()
                wall = time.perf_counter() - started
                rates[name].append(done / wall)
                stats = bench.connection.call([("INFO", "commandstats")])[0].decode().splitlines()
                commands = sum(int(line.partition("calls=")[2].partition(",")[0]) for line in stats if "calls=" in line)
                assert done == options.tasks, (done, options.tasks)
                print(
                    f"{name:6} {done / wall:9,.0f} tasks/s   {(time.process_time() - cpu) / done * 1e6:5.2f} us CPU of ours a task"
                    f"   {commands * 1000 / done:7.1f} commands per 1,000 tasks"
                )
        bench.clear()
        median = {name: statistics.median(values) for name, values in rates.items()}
        print("median " + "   ".join(f"{name} {value:,.0f}/s" for name, value in median.items()))
        if options.json:
            Path(options.json).write_text(json.dumps({"tasks": options.tasks, "batch": options.batch, "rates": rates}, indent=1))
    finally:
        if server is not None:
            server.stop()


if __name__ == "__main__":
    main()
