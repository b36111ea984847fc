"""What a machine knows of its Redis server's clock."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from fastq.transports.base import TransportOptions
from fastq.transports.redis import RedisBroker
from fastq.transports.redis.clock import ServerClock
from fastq.transports.redis.connection import Connection

#: ms by which the server's clock is ahead
AHEAD_MS = 5_000


@pytest.fixture(autouse=True)
def still(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let time stand still where no server is asked: what is compared is not how busy this machine is."""
    if "redis_url" not in request.fixturenames:
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now)


def made(opened_at: float = 0.0) -> tuple[ServerClock, Any]:
    connection = SimpleNamespace(opened_at=opened_at, clock_ms=lambda: int(time.time() * 1000) + AHEAD_MS)
    return ServerClock(connection), connection  # type: ignore[arg-type]


def wrong_ms(clock: ServerClock) -> float:
    return abs(clock.now_ms() - time.time() * 1000 - AHEAD_MS)


def test_a_clock_that_was_never_seen_is_asked() -> None:
    clock, _ = made()
    assert wrong_ms(clock) < 50


def test_connecting_is_not_counted_as_a_part_of_the_call() -> None:
    now = time.time()
    clock, connection = made(opened_at=now)
    clock.see(int(now * 1000) + AHEAD_MS, now - 10)
    assert wrong_ms(clock) < 50, "half of the ten seconds would be five"
    assert connection.opened_at == now


def test_an_answer_that_took_long_tells_less_than_one_that_did_not() -> None:
    clock, _ = made()
    now = time.time()
    clock.see(int(now * 1000) + AHEAD_MS, now)
    clock.see(int(now * 1000) + AHEAD_MS, now - 10)
    assert wrong_ms(clock) < 50
    clock.see(int(now * 1000) + AHEAD_MS + 700, time.time())
    assert wrong_ms(clock) > 600, "one that took as little as the first is believed"


def test_a_new_connection_may_lead_to_another_clock() -> None:
    clock, connection = made()
    now = time.time()
    clock.see(int(now * 1000), now)
    connection.opened_at = time.time()
    clock.see(int(time.time() * 1000) + AHEAD_MS, time.time() - 1)
    assert wrong_ms(clock) < 100


def test_a_slow_connect_puts_no_clock_wrong(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = Connection._connect

    def slowly(self: Connection, host: str, port: int) -> Any:
        time.sleep(1.5)
        return connect(self, host, port)

    monkeypatch.setattr(Connection, "_connect", slowly)
    broker = RedisBroker(redis_url, TransportOptions())
    broker.renew(["default"], ["p"], 1_000)
    assert abs(broker.now_ms() - time.time() * 1000) < 600, "server and test have one clock; half of the connect is 750 ms"
    broker.close()
