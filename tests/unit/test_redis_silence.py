"""A server whose host is gone says nothing at all. That is known within the timeout, and in a worker process within a lease."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastq.exceptions import OperationalError
from fastq.transports import TransportOptions
from fastq.transports.redis import RedisBroker
from tests.integration.conftest import TASKS
from tests.servers import RedisServer
from tests.unit.redis_parts import asked, publication
from tests.workers import Worker, eventually


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that greets, and then answers nothing any more."""
    listener = socket.create_server(("127.0.0.1", 0))
    open_sockets: list[socket.socket] = []

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                open_sockets.append(client)
                threading.Thread(target=greet, args=(client,), daemon=True).start()

    def greet(client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(1 << 16):
                if b"EVALSHA" not in data:
                    client.sendall(b"+OK\r\n" * data.count(b"CLIENT\r\n"))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    for end in (listener, *open_sockets):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()
    thread.join(10)


def test_a_call_that_is_never_answered_ends_at_the_timeout(silent: int) -> None:
    broker = RedisBroker(f"redis://127.0.0.1:{silent}", TransportOptions(socket_timeout_s=0.3))
    for call in (lambda: broker.publish("a", 1, [publication("0")]), lambda: broker.fetch(asked(1))):
        started = time.monotonic()
        with pytest.raises(OperationalError, match="did not answer in time"):
            call()
        assert 0.25 < time.monotonic() - started < 20
        assert not broker._connection.is_open, "the next call connects anew"


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this system has no TCP_USER_TIMEOUT")
@pytest.mark.parametrize(("timeout_s", "expected_ms"), [(12.5, 12_500), (0.2, 5_000)])
def test_the_kernel_gives_up_on_a_host_that_acknowledges_nothing(
    redis_server: RedisServer, timeout_s: float, expected_ms: int
) -> None:
    broker = RedisBroker(redis_server.url, TransportOptions(socket_timeout_s=timeout_s))
    broker.now_ms()
    raw = broker._connection.raw_or_none()
    assert raw is not None and raw._sock is not None
    assert raw._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == expected_ms
    assert raw._sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    broker.close()


@pytest.mark.parametrize("pool", ["prefork", "asyncio"])
def test_a_worker_process_finds_out_within_a_lease(pool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a lease of 2 s; an answer may otherwise take 30 s."""
    with RedisServer(tmp_path / "redis") as server:
        for name, value in (("TEST_BROKER", server.url), ("TEST_FOLDER", str(tmp_path)), ("TEST_LEASE", "2")):
            monkeypatch.setenv(name, value)
        (tmp_path / "tasks.py").write_text(TASKS)
        with Worker(tmp_path, "-P", pool, "-c", "1", "-l", "INFO").wait_ready() as worker:
            server.kill(signal.SIGSTOP)
            lost = "Connection to the broker lost: Redis at"
            eventually(lambda: lost in worker.log, lambda: f"{lost!r} in the worker's log:\n{worker.log}", deadline_s=25)
            assert "did not answer" in worker.log
            server.kill(signal.SIGCONT)
            assert worker.terminate() == 0, worker.log
