"""Floors: the same work done by hand, with nothing that a task queue adds.

Measured in the same run as what is held against them."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import redis as redis_py
import redis_loop

from fastq.bench.stats import median, percentile

if TYPE_CHECKING:
    from places import RedisPlace


def loops(place: RedisPlace, n: int) -> dict[str, float]:
    """Run ``n`` no-ops through the hand-written loops of ``redis_loop.py``; return tasks/s by how results are stored:
    ``set`` a key each (what was tried when the target was set), ``slot`` fields of one hash per time slot as fastq does."""
    rates = {}
    for name, script, slot in (("set", redis_loop.SETTLE_SET, False), ("slot", redis_loop.SETTLE_SLOT, True)):
        place.start()
        bench = redis_loop.Bench(place.broker_url, n, batch=300)
        bench.fill()
        begun = time.perf_counter()
        done = bench.hand(redis_loop.raw_script("settle", script), slot)
        rates[name] = done / (time.perf_counter() - begun)
        if done != n:
            raise RuntimeError(f"the hand-written loop found {done} messages where {n} were expected")
    return rates


# --- two processes that play ping-pong with the hops of delay().get() ---

SEND = """
redis.call('RPUSH', KEYS[1], ARGV[1])
return redis.call('PUBLISH', 'bench:wake', '1')
"""
TAKE = """
local message = redis.call('LPOP', KEYS[1])
if message then redis.call('HSET', KEYS[2], '1', message) end
return message
"""
REPLY = """
redis.call('HDEL', KEYS[1], '1')
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
return redis.call('PUBLISH', 'bench:inbox', ARGV[2])
"""


def _connect(port: int) -> redis_py.Redis[bytes]:
    # RESP2: there a published message is an ordinary reply, which a bare connection returns
    return redis_py.Redis(port=port, protocol=2, socket_timeout=None)


def _subscribe(client: redis_py.Redis[bytes], channel: str) -> Any:
    """Return a bare connection that is subscribed: what comes is read from it with nothing in between."""
    connection = client.connection_pool.make_connection()
    connection.send_command("SUBSCRIBE", channel)
    connection.read_response()
    return connection


def pong(port: int) -> None:
    """Answer every ping: woken, fetch, settle with the reply. Ends when its standard input does."""
    client = _connect(port)
    take, reply = client.register_script(TAKE), client.register_script(REPLY)
    take(keys=["bench:none", "bench:pongs"])
    wake = _subscribe(client, "bench:wake")
    print("ready", flush=True)
    while True:
        wake.read_response()
        message = take(keys=["bench:pings", "bench:pongs"])
        if message == b"stop":
            return
        reply(keys=["bench:pongs", "bench:replies"], args=[message[:36], message])


def ping_pong(place: RedisPlace, n: int, message: bytes) -> tuple[float, float]:
    """Return p50 and p99 in seconds of: send script, wake by pub/sub, fetch script, settle script, reply by pub/sub."""
    client = _connect(place.port)
    send = client.register_script(SEND)
    other = subprocess.Popen([sys.executable, __file__, "pong", str(place.port)], stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None
        if other.stdout.readline() != b"ready\n":
            raise RuntimeError("the other side of the ping-pong did not start")
        inbox = _subscribe(client, "bench:inbox")
        waits = []
        for i in range(n + 50):
            begun = time.perf_counter()
            send(keys=["bench:pings"], args=[message])
            inbox.read_response()
            if i >= 50:
                waits.append(time.perf_counter() - begun)
        send(keys=["bench:pings"], args=[b"stop"])
        other.wait(10)
    finally:
        if other.poll() is None:
            other.kill()
            other.wait()
        assert other.stdout is not None
        other.stdout.close()
        client.close()
    return median(waits), percentile(waits, 0.99)


if __name__ == "__main__":
    if sys.argv[1] != "pong":
        raise SystemExit(f"unknown part {sys.argv[1]!r}, expected pong")
    pong(int(sys.argv[2]))
