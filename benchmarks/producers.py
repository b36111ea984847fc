"""Send tasks as fast as one process can, and print the rates as one line of JSON. Started by ``targets.py``.

python benchmarks/producers.py one|bulk URL N ROUNDS
python benchmarks/producers.py threads|greenlets URL N ROUNDS CALLERS
"""

from __future__ import annotations

import sys

if __name__ == "__main__" and sys.argv[1] == "greenlets":
    from gevent import monkey

    monkey.patch_all()

import json
import threading
import time
from collections.abc import Callable
from typing import Any

from fastq.bench import tasks


def rate(fn: Callable[[], object], n: int) -> float:
    begun = time.perf_counter()
    fn()
    return n / (time.perf_counter() - begun)


def one(noop: Any, url: str, n: int, rounds: int) -> dict[str, list[float]]:
    """Take turns with bare LPUSH calls of a message as long as ours."""
    import redis as redis_py  # lazy: only this mode needs it

    client = redis_py.Redis.from_url(url)
    noop.delay(0)
    message = client.lindex("fastq:{default}:ready:0", 0)
    assert isinstance(message, bytes), "the queue's key is not where it was expected"

    def push() -> None:
        for _ in range(n):
            client.lpush("bench:floor", message)

    def delay() -> None:
        for i in range(n):
            noop.delay(i)

    rates: dict[str, list[float]] = {"lpush": [], "delay": []}
    for _ in range(rounds):
        rates["lpush"].append(rate(push, n))
        rates["delay"].append(rate(delay, n))
    return rates


def crowd(noop: Any, n: int, rounds: int, callers: int) -> dict[str, list[float]]:
    """Let many callers send at once; under gevent's patch its threads are greenlets."""
    each = n // callers
    noop.delay(0)

    def once() -> float:
        gate = threading.Barrier(callers + 1)

        def call() -> None:
            gate.wait()
            for i in range(each):
                noop.delay(i)

        threads = [threading.Thread(target=call) for _ in range(callers)]
        for thread in threads:
            thread.start()
        gate.wait()
        begun = time.perf_counter()
        for thread in threads:
            thread.join()
        return each * callers / (time.perf_counter() - begun)

    return {"delay": [once() for _ in range(rounds)]}


def bulk(noop: Any, n: int, rounds: int) -> dict[str, list[float]]:
    noop.delay_many([(0,)])
    args = [(i,) for i in range(n)]
    return {"delay_many": [rate(lambda: noop.delay_many(args), n) for _ in range(rounds)]}


def main(mode: str, url: str, n: int, rounds: int, callers: int = 1) -> None:
    bench = tasks.build(url, url)
    noop = bench.tasks["noop"]
    if mode == "one":
        rates = one(noop, url, n, rounds)
    elif mode == "bulk":
        rates = bulk(noop, n, rounds)
    elif mode in ("threads", "greenlets"):
        rates = crowd(noop, n, rounds, callers)
    else:
        raise SystemExit(f"unknown mode {mode!r}, expected one, bulk, threads or greenlets")
    bench.app.close()
    print(json.dumps(rates))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
