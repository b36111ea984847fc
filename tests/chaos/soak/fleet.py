"""The nodes, the producer and the broker of a soak, and which process was hit by what: only that may have made a run vain."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.soak.beaters import Beats, environment
from tests.chaos.soak.producer import PACE
from tests.chaos.soak.steering import ENOUGH
from tests.chaos.soak.workload import SIDE, birth
from tests.proxy import ProxyProcess
from tests.servers import RedisServer
from tests.workers import children

__all__ = ["ROOT", "SLOTS", "Fleet", "Hit", "Node", "Proc"]

ROOT = Path(__file__).parents[3]
#: how poisonous tasks end their process
POISONED = (-signal.SIGKILL, -signal.SIGSEGV, 3)
#: the options of a node of each pool
SLOTS = {
    "prefork": ("-c", "2"),
    "threads": ("-c", "8"),
    "gevent": ("-c", "20"),
    "eventlet": ("-c", "20"),
    "asyncio": ("-c", "20"),
    "solo": (),
}


@dataclass(frozen=True)
class Hit:
    """Something that may have made a run vain: the task runs, or has run, elsewhere too."""

    node: str
    #: see ``workload.birth``; "": every process of the node
    process: str
    began: float
    ended: float
    cause: str


@dataclass(frozen=True)
class Proc:
    """A live process of a node."""

    pid: int
    #: supervisor, worker, nursery or keeper
    role: str
    #: the same for the process that takes its place
    lineage: str


@dataclass
class Node:
    """One worker node, started again when it ends."""

    name: str
    pool: str
    url: str
    folder: Path
    proxy: ProxyProcess | None = None
    #: the socket where it answers scrapes, "": nowhere. A port may be in use by somebody else's connection when it starts again
    door: str = ""
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0
    started: float = 0.0
    #: exit codes that are in order, by what has been done to it since its start
    expected: tuple[int, ...] = ()

    @property
    def log_path(self) -> Path:
        return self.folder / "logs" / f"{self.name}-{self.starts}.log"

    def start(self) -> None:
        self.starts += 1
        self.started = time.time()
        self.expected = ()
        env = {**os.environ, "PYTHONPATH": str(ROOT), "SOAK_BROKER": self.url, "SOAK_BACKEND": self.url}
        env |= {"SOAK_FOLDER": str(self.folder), "SOAK_NODE": self.name, "PYTHONFAULTHANDLER": "1"}
        command = [sys.executable, "-m", "fastq", "-A", "tests.chaos.soak.workload", "worker", "-P", self.pool, "-l", "WARNING"]
        command += ["-Q", f"default,{SIDE}", *(("--http", f"unix:{self.door}") if self.door else ())]
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, *SLOTS[self.pool], "-n", f"{self.name}@soak"],
                cwd=self.folder, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def may_end(self, *codes: int) -> None:
        """Something is about to be done to it that ends it so; a second thing may come before the first has ended it."""
        self.expected += codes

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def up(self) -> bool:
        return self.process is not None and self.process.poll() is None and " ready." in self.log_path.read_text(errors="replace")

    def procs(self) -> list[Proc]:
        """Return its live processes, the first the one that was started."""
        if self.process is None or self.process.poll() is not None:
            return []
        role = "worker" if self.pool == "solo" else "supervisor"
        found = [Proc(self.pid, role, f"{self.name} {role}")]
        for pid in children(self.pid):
            with contextlib.suppress(OSError):
                comm = Path("/proc", str(pid), "comm").read_text().strip()
                if "PoolWorker" in comm:
                    found.append(Proc(pid, "worker", f"{self.name} {comm.removeprefix('fq:')}"))
                elif "LeaseKeeper" in comm:
                    found.append(Proc(pid, "keeper", f"{self.name} keeper"))
                else:
                    found.append(Proc(pid, "nursery", f"{self.name} {'nursery' if self.forks else 'starting'}"))
        return found

    @property
    def forks(self) -> bool:
        return self.pool in ("prefork", "threads", "asyncio")

    def send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)


@dataclass
class Fleet:
    """All that runs. ``watch`` starts again what has ended; it and the faults may be in different threads."""

    folder: Path
    pools: tuple[str, ...]
    broker: str
    seed: int
    poison_every_s: float
    #: seconds from one thing that it is told to the next; 0: it is left alone
    steer_every_s: float = 0.0
    #: how many share the timetable; 0: nothing is sent from there
    beaters: int = 0
    nodes: list[Node] = field(default_factory=list)
    server: RedisServer | None = None
    hits: list[Hit] = field(default_factory=list)
    #: nodes that ended without cause, or otherwise than they must
    surprises: list[str] = field(default_factory=list)
    incarnations: int = 0
    producer: subprocess.Popen[bytes] | None = None
    producer_proxy: ProxyProcess | None = None
    steerer: subprocess.Popen[bytes] | None = None
    steerers: int = 0
    beats: Beats | None = None
    beats_proxy: ProxyProcess | None = None

    def start(self) -> None:
        for name in ("runs", "ticks", "ledger", "logs", "steered"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "pace").write_bytes(PACE.pack(0, 0, 0))
        with (self.folder / "pace").open("r+b") as file:
            self._pace = mmap.mmap(file.fileno(), PACE.size)
        if self.broker == "redis":
            # what was accepted is on disk, so that a killed server may lose none of it
            options = ("--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction")
            self.server = RedisServer(self.folder / "redis", *options)
            self.url = self.server.url
            self.producer_proxy = ProxyProcess(self.server.port)
        else:
            self.url = f"sqlite:///{self.folder / 'fastq.db'}"
        for pool in self.pools:
            name = f"{pool}{sum(node.pool == pool for node in self.nodes) or ''}"
            proxy = ProxyProcess(self.server.port) if self.server else None
            # a socket's path must be short (107 bytes), test directories are long
            door = f"{tempfile.gettempdir()}/fastq-soak-{os.getpid()}-{name}.sock" if self.steer_every_s else ""
            self.nodes.append(Node(name, pool, proxy.url if proxy else self.url, self.folder, proxy, door))
        for node in self.nodes:
            node.start()
        if self.beaters:
            self.beats_proxy = ProxyProcess(self.server.port) if self.server else None
            url = self.beats_proxy.url if self.beats_proxy else self.url
            self.beats = Beats(self.folder, environment(self.folder, url), self.beaters, self.surprises)
            self.beats.start()

    def pace(self, unfinished: int, most: int, stop: bool = False) -> None:
        self._pace[:] = PACE.pack(max(0, unfinished), most, stop)

    def start_producer(self) -> None:
        self.incarnations += 1
        url = self.producer_proxy.url if self.producer_proxy else self.url
        env = {**os.environ, "PYTHONPATH": str(ROOT), "SOAK_BROKER": url, "SOAK_BACKEND": url, "SOAK_FOLDER": str(self.folder)}
        command = [sys.executable, "-m", "tests.chaos.soak.producer", "--folder", str(self.folder), "--seed", str(self.seed)]
        command += ["--incarnation", str(self.incarnations), "--poison-every", str(self.poison_every_s)]
        command += [] if self.steer_every_s else ["--no-doom"]
        with (self.folder / "logs" / f"producer-{self.incarnations}.log").open("wb") as log:
            self.producer = subprocess.Popen(
                command, cwd=self.folder, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def start_steerer(self) -> None:
        if not self.steer_every_s:
            return
        self.steerers += 1
        with (self.folder / "logs" / f"steerer-{self.steerers}.log").open("wb") as log:
            self.steerer = subprocess.Popen(
                [*self._steering(), "--incarnation", str(self.steerers)],
                cwd=self.folder, env=self._client(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def _steering(self) -> list[str]:
        command = [sys.executable, "-m", "tests.chaos.soak.steering", "--folder", str(self.folder), "--seed", str(self.seed)]
        command += ["--every", str(self.steer_every_s), "--nodes", *(f"{node.name}@soak" for node in self.nodes)]
        return [*command, "--doors", *(node.door for node in self.nodes)]

    def _client(self) -> dict[str, str]:
        """Return the environment of a client that no fault cuts off but the broker's own."""
        env = {**os.environ, "PYTHONPATH": str(ROOT), "SOAK_BROKER": self.url, "SOAK_BACKEND": self.url}
        return {**env, "SOAK_FOLDER": str(self.folder)}

    def stop_steerer(self, deadline_s: float) -> None:
        """Let it set everything right, and end."""
        steerer, self.steerer = self.steerer, None
        if steerer is None:
            return
        (self.folder / ENOUGH).touch()
        try:
            code = steerer.wait(deadline_s)
        except subprocess.TimeoutExpired:
            self.surprises.append(f"the steerer did not end within {deadline_s:g} s")
            steerer.kill()
            steerer.wait()
            return
        if code == -signal.SIGKILL:  # a fault was faster
            self.start_steerer()
            self.stop_steerer(deadline_s)
        elif code:
            self.surprises.append(f"the steerer {self.steerers} ended with {code}")

    def look(self) -> dict[str, Any]:
        """Ask all nodes, which are up and have nothing to do; say what is wrong with what they answer."""
        looked = subprocess.run([*self._steering(), "--look"], cwd=self.folder, env=self._client(), capture_output=True, text=True)
        if looked.returncode:
            return {"failed": looked.stderr[-2000:]}
        return dict(json.loads(looked.stdout))

    def watch(self) -> None:
        """Start again what has ended."""
        if self.beats is not None:
            self.beats.watch()
        if self.steerer is not None and (code := self.steerer.poll()) is not None:
            if code != -signal.SIGKILL:
                self.surprises.append(f"the steerer {self.steerers} ended with {code}")
            self.start_steerer()
        for node in self.nodes:
            assert node.process is not None
            code = node.process.poll()
            if code is not None:
                self._judge(node, code)
                node.start()
        if self.producer is not None and (code := self.producer.poll()) is not None:
            if code != -signal.SIGKILL:
                self.surprises.append(f"the producer {self.incarnations} ended with {code}")
            self.start_producer()

    def _judge(self, node: Node, code: int) -> None:
        expected = node.expected
        if node.pool == "solo" and code in POISONED:
            return  # whatever else was done to it, a poisonous task may have been faster
        if code not in expected:
            text = f"instead of {' or '.join(map(str, expected))}" if expected else "without cause"
            self.surprises.append(f"{time.strftime('%H:%M:%S')} node {node.name} ended with {code} {text}: {node.log_path.name}")

    def hit(self, node: Node, process: str, began: float, cause: str) -> None:
        self.hits.append(Hit(node.name, process, began, time.time(), cause))

    def births(self, procs: list[Proc]) -> Iterator[str]:
        for proc in procs:
            with contextlib.suppress(OSError):
                yield birth(proc.pid)

    def stop_producer(self, deadline_s: float) -> None:
        producer, self.producer = self.producer, None
        if producer is None:
            return
        try:
            code = producer.wait(deadline_s)
        except subprocess.TimeoutExpired:
            self.surprises.append(f"the producer did not end within {deadline_s:g} s")
            producer.kill()
            producer.wait()
        else:
            if code:
                self.surprises.append(f"the producer {self.incarnations} ended with {code}")

    def stop_nodes(self, deadline_s: float) -> None:
        """End all nodes warm, as a deploy does."""
        for node in self.nodes:
            node.send(signal.SIGTERM)
        end = time.monotonic() + deadline_s
        for node in self.nodes:
            assert node.process is not None
            try:
                code = node.process.wait(max(0.1, end - time.monotonic()))
                if code:
                    self.surprises.append(f"node {node.name} ended with {code} after TERM at the end: {node.log_path.name}")
            except subprocess.TimeoutExpired:
                self.surprises.append(f"node {node.name} did not end within {deadline_s:g} s of TERM: {node.log_path.name}")

    def close(self) -> None:
        """Leave no process behind."""
        for node in self.nodes:
            if node.process is not None and node.process.poll() is None:
                pids = [node.pid, *children(node.pid)]
                for pid in pids:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                node.process.wait(60)
            if node.proxy is not None:
                node.proxy.close()
            if node.door:
                Path(node.door).unlink(missing_ok=True)
        if self.beats is not None:
            self.beats.close()
        if self.beats_proxy is not None:
            self.beats_proxy.close()
        for process in (self.producer, self.steerer):
            if process is not None:
                process.kill()
                process.wait(60)
        if self.producer_proxy is not None:
            self.producer_proxy.close()
        if self.server is not None:
            self.server.stop()
