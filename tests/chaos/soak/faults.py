"""What is done to a soak: one fault after the other, chosen by a seed, each written down with its time and its victim.

A fault that may make a run vain says so with ``Fleet.hit``. Those that do not (a stopped process whose supervisor lives, cut
connections, a broker that was away) must not cost a second run, and the count at the end checks that.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.chaos.soak.beaters import STARTING, Beater
from tests.chaos.soak.fleet import Fleet, Node, Proc
from tests.proxy import ProxyProcess

__all__ = ["Faults", "Happened"]


@dataclass(frozen=True)
class Happened:
    began: float
    ended: float
    name: str
    target: str
    #: the broker was out of reach for somebody: outcomes may have had to wait
    broker: bool

    def __str__(self) -> str:
        at = time.strftime("%H:%M:%S", time.localtime(self.began)) + f".{int(self.began % 1 * 1000):03d}"
        return f"{at} +{self.ended - self.began:.1f} s  {self.name}: {self.target}"


@dataclass
class Faults:
    """Break something every now and then, in a thread of its own."""

    fleet: Fleet
    chance: random.Random
    every_s: float
    lease_s: float
    log: Callable[[str], None]
    only: tuple[str, ...] = ()
    happened: list[Happened] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="faults", daemon=True)
        #: what went wrong with a fault itself
        self.failure: BaseException | None = None
        #: name -> (weight, what, whether the broker is out of reach)
        table: dict[str, tuple[int, Callable[[], str], bool]] = {
            "kill process": (6, self._kill_process, False),
            "kill supervisor": (3, self._kill_supervisor, False),
            "kill nursery": (2, self._kill_nursery, False),
            "kill keeper": (1, self._kill_keeper, False),
            "kill node": (4, self._kill_node, False),
            "TERM": (3, lambda: self._end("TERM"), False),
            "QUIT": (2, lambda: self._end("QUIT"), False),
            "INT INT": (2, lambda: self._end("INT INT"), False),
            "freeze process": (3, self._freeze_process, False),
            "freeze supervisor": (2, self._freeze_supervisor, False),
            "freeze node": (3, self._freeze_node, False),
            "kill producer": (2, self._kill_producer, False),
        }
        if self.fleet.steer_every_s:
            table["kill steerer"] = (2, self._kill_steerer, False)
        if self.fleet.beats is not None:
            table |= {
                "kill beat": (5, self._kill_beat, False),
                "kill all beats": (2, self._kill_beats, False),
                "TERM beat": (3, self._end_beat, False),
                "freeze beat": (4, self._freeze_beat, False),
            }
        if self.fleet.server is not None:
            if self.fleet.beats is not None:
                table["cut beats in calls"] = (4, self._cut_beats_in_calls, False)
                table["half-open beats"] = (2, self._mute_beats, False)
            table |= {
                "cut": (4, self._cut, True),
                "cut in calls": (4, self._cut_in_calls, True),
                "slow": (2, self._slow, False),
                "half-open": (3, self._half_open, True),
                "client kill": (3, self._client_kill, True),
                "kill redis": (2, self._kill_redis, True),
                "freeze redis": (2, self._freeze_redis, True),
                "oom": (2, self._oom, False),
            }
        else:
            table["locked"] = (3, self._locked, True)
        roles = {"kill nursery": any(node.forks for node in self.fleet.nodes), "kill keeper": "solo" in self.fleet.pools}
        roles["kill supervisor"] = roles["freeze supervisor"] = self.fleet.pools != ("solo",)
        self.table = {n: f for n, f in table.items() if roles.get(n, True) and (not self.only or n in self.only)}

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        names = list(self.table)
        weights = [self.table[name][0] for name in names]
        due = time.monotonic() + self.every_s
        try:
            while not self._stop.wait(max(0.0, due - time.monotonic())):
                due = max(due, time.monotonic() - self.every_s) + self.every_s
                name = self.chance.choices(names, weights)[0]
                _, fault, broker = self.table[name]
                began = time.time()
                target = fault()
                self.happened.append(Happened(began, time.time(), name, target, broker))
                self.log(str(self.happened[-1]))
        except BaseException as exc:
            self.failure = exc
            raise

    # --- victims ---

    def _node(self, *pools_not: str) -> Node | None:
        nodes = [node for node in self.fleet.nodes if node.pool not in pools_not and node.up]
        return self.chance.choice(nodes) if nodes else None

    def _proc(self, role: str) -> tuple[Node, Proc] | None:
        found = [(node, proc) for node in self.fleet.nodes if node.up for proc in node.procs() if proc.role == role]
        return self.chance.choice(found) if found else None

    def _wait(self, seconds: float) -> None:
        time.sleep(seconds)

    def _leases(self) -> float:
        return self.lease_s * self.chance.uniform(0.8, 3.0)

    # --- death ---

    def _kill_process(self) -> str:
        if (victim := self._proc("worker")) is None:
            return "nobody there"
        node, proc = victim
        if node.pool == "solo":
            node.may_end(-signal.SIGKILL)
        return self._kill(node, [proc], "killed")

    def _kill_keeper(self) -> str:
        if (victim := self._proc("keeper")) is None:
            return "nobody there"
        node, proc = victim
        node.may_end(1)
        # the worker finishes what it runs, and ends; its lease stands still meanwhile
        self.fleet.hit(node, "", time.time(), "keeper killed")
        _kill(proc.pid, signal.SIGKILL)
        return f"{node.name} keeper {proc.pid}"

    def _kill_nursery(self) -> str:
        if (victim := self._proc("nursery")) is None:
            return "nobody there"
        node, proc = victim
        _kill(proc.pid, signal.SIGKILL)
        return f"{node.name} nursery {proc.pid}"

    def _kill_supervisor(self) -> str:
        if (node := self._node("solo")) is None:
            return "nobody there"
        node.may_end(-signal.SIGKILL)
        began = time.time()
        _kill(node.pid, signal.SIGKILL)
        self.fleet.hit(node, "", began, "supervisor killed")
        return f"{node.name} {node.pid}"

    def _kill_node(self) -> str:
        if (node := self._node()) is None:
            return "nobody there"
        node.may_end(-signal.SIGKILL)
        return self._kill(node, node.procs(), "node killed", whole=True)

    def _kill(self, node: Node, procs: list[Proc], cause: str, whole: bool = False) -> str:
        began = time.time()
        births = list(self.fleet.births(procs))
        for proc in procs:
            _kill(proc.pid, signal.SIGKILL)
        for process in [""] if whole else births:
            self.fleet.hit(node, process, began, cause)
        return f"{node.name} {', '.join(f'{proc.role} {proc.pid}' for proc in procs)}"

    def _end(self, how: str) -> str:
        if (node := self._node()) is None:
            return "nobody there"
        # the first INT may be enough
        node.may_end(*{"TERM": (0,), "QUIT": (1,), "INT INT": (0, 1)}[how])
        began = time.time()
        pid = node.pid
        if how == "INT INT":
            node.send(signal.SIGINT)
            self._wait(self.chance.uniform(0.6, 1.0))
            if node.pid == pid:  # else it has ended, and another has taken its place
                node.send(signal.SIGINT)
        else:
            node.send(getattr(signal, f"SIG{how}"))
        deadline = time.monotonic() + 30
        while node.process is not None and node.pid == pid and node.process.poll() is None and time.monotonic() < deadline:
            self._wait(0.02)
        if how != "TERM":
            self.fleet.hit(node, "", began, f"stopped by {how}")
        took = time.time() - began
        if took > 30:
            self.fleet.surprises.append(f"node {node.name} did not end within 30 s of {how}: {node.log_path.name}")
        return f"{node.name} {pid}, ended after {took:.1f} s"

    def _kill_producer(self) -> str:
        producer = self.fleet.producer
        if producer is None:
            return "nobody there"
        producer.kill()
        return str(producer.pid)

    def _kill_steerer(self) -> str:
        steerer = self.fleet.steerer
        if steerer is None:
            return "nobody there"
        steerer.kill()
        return str(steerer.pid)

    # --- beats ---

    def _beater(self) -> Beater:
        assert self.fleet.beats is not None
        return self.chance.choice(list(self.fleet.beats.running.values()))

    def _kill_beat(self, *victims: Beater) -> str:
        victims = victims or (self._beater(),)
        for victim in victims:
            victim.expected += (-signal.SIGKILL,)
            victim.process.kill()
        return ", ".join(f"{victim.name} {victim.pid}" for victim in victims)

    def _kill_beats(self) -> str:
        assert self.fleet.beats is not None
        return self._kill_beat(*self.fleet.beats.running.values())

    def _end_beat(self) -> str:
        victim = self._beater()
        victim.expected += (0, STARTING)
        victim.process.send_signal(signal.SIGTERM)
        return f"{victim.name} {victim.pid}"

    def _freeze_beat(self) -> str:
        """Stop it for longer than its lead lasts: it goes on as if it led still."""
        victim, seconds = self._beater(), self.chance.uniform(0.5, 4.0)
        _kill(victim.pid, signal.SIGSTOP)
        try:
            self._wait(seconds)
        finally:
            _kill(victim.pid, signal.SIGCONT)
        return f"{victim.name} {victim.pid}, {seconds:.1f} s"

    def _cut_beats_in_calls(self) -> str:
        """Cut their calls of scripts: what fires ticks, renews the lead and reads entries."""
        return self._cut_calls(self.fleet.beats_proxy, 8, self.chance.uniform(1.0, 3.0))

    def _cut_calls(self, proxy: ProxyProcess | None, n: int, seconds: float) -> str:
        """Cut the next calls of scripts that go through ``proxy``, ``n`` at most."""
        assert proxy is not None
        when = self.chance.choice(("request", "mid-request", "reply", "mid-reply"))
        before = proxy.hits
        proxy.cut_on("EVALSHA", when, n)
        self._wait(seconds)
        proxy.cut_on("EVALSHA", when, 0)
        return f"{proxy.hits - before} at {when}"

    def _mute_beats(self) -> str:
        proxy, seconds = self.fleet.beats_proxy, self.chance.uniform(0.5, 4.0)
        assert proxy is not None
        n = proxy.freeze()
        self._wait(seconds)
        proxy.thaw()
        proxy.cut()
        return f"{n} connections, {seconds:.1f} s, then reset"

    # --- frost ---

    def _freeze_process(self) -> str:
        if (victim := self._proc("worker")) is None:
            return "nobody there"
        node, proc = victim
        # solo's keeper renews the lease as a supervisor does
        return self._freeze([proc], self._leases(), node.name)

    def _freeze_supervisor(self) -> str:
        if (node := self._node("solo")) is None:
            return "nobody there"
        return self._freeze(node.procs()[:1], self._leases(), node.name, hit=node)

    def _freeze_node(self) -> str:
        if (node := self._node()) is None:
            return "nobody there"
        return self._freeze(node.procs(), self._leases(), node.name, hit=node)

    def _freeze(self, procs: list[Proc], seconds: float, name: str, hit: Node | None = None) -> str:
        began = time.time()
        for proc in procs:
            _kill(proc.pid, signal.SIGSTOP)
        try:
            self._wait(seconds)
        finally:
            for proc in procs:
                _kill(proc.pid, signal.SIGCONT)
        if hit is not None:
            self.fleet.hit(hit, "", began, f"frozen for {seconds:.1f} s")
        return f"{name} {', '.join(f'{proc.role} {proc.pid}' for proc in procs)}, {seconds:.1f} s"

    # --- the broker ---

    def _cut(self) -> str:
        node = self.chance.choice(self.fleet.nodes)
        everybody = self.chance.random() < 0.5
        proxies = [*(n.proxy for n in self.fleet.nodes), self.fleet.producer_proxy, self.fleet.beats_proxy]
        proxies = proxies if everybody else [node.proxy]
        return f"{'all' if everybody else node.name}, {sum(proxy.cut() for proxy in proxies if proxy is not None)} connections"

    def _cut_in_calls(self) -> str:
        """Cut a node's, or the producer's, next calls of scripts: before, in the middle or after, the reply lost."""
        proxies = [(node.name, node.proxy) for node in self.fleet.nodes] + [("producer", self.fleet.producer_proxy)]
        name, proxy = self.chance.choice(proxies)
        return f"{name}, {self._cut_calls(proxy, 5, self.chance.uniform(0.5, 2.0))}"

    def _slow(self) -> str:
        seconds = self.chance.uniform(1, 3)
        proxies = [n.proxy for n in self.fleet.nodes if n.proxy] + [self.fleet.producer_proxy]
        for proxy in proxies:
            assert proxy is not None
            proxy.latency(0.025)
        self._wait(seconds)
        for proxy in proxies:
            assert proxy is not None
            proxy.latency(0)
        return f"50 ms a round trip for {seconds:.1f} s"

    def _half_open(self) -> str:
        """Swallow everything that a node says and is told; then let new connections in. Half of the time the old ones are ended."""
        node = self.chance.choice(self.fleet.nodes)
        assert node.proxy is not None
        seconds, ends = self._leases(), self.chance.random() < 0.5
        began = time.time()
        n = node.proxy.freeze()
        self._wait(seconds)
        node.proxy.thaw()
        if ends:
            node.proxy.cut()
        self.fleet.hit(node, "", began, f"half-open for {seconds:.1f} s")
        return f"{node.name}, {n} connections, {seconds:.1f} s{', then reset' if ends else ''}"

    def _client_kill(self) -> str:
        assert self.fleet.server is not None
        with contextlib.closing(self.fleet.server.client()) as client:
            n = client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            n += client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        return f"{n} clients"

    def _kill_redis(self) -> str:
        server = self.fleet.server
        assert server is not None
        server.kill(signal.SIGKILL)
        self._wait(self.chance.uniform(0, 2))
        server.start()
        return f"restarted as {server.pid}"

    def _freeze_redis(self) -> str:
        server = self.fleet.server
        assert server is not None
        seconds = self.chance.uniform(1, 3)
        server.kill(signal.SIGSTOP)
        self._wait(seconds)
        server.kill(signal.SIGCONT)
        return f"{seconds:.1f} s"

    def _oom(self) -> str:
        server = self.fleet.server
        assert server is not None
        seconds = self.chance.uniform(1, 3)
        with contextlib.closing(server.client()) as client:
            client.config_set("maxmemory", 1)
            self._wait(seconds)
            client.config_set("maxmemory", 0)
        return f"{seconds:.1f} s"

    def _locked(self) -> str:
        """Hold the write lock of the SQLite file."""
        seconds = self.chance.uniform(0.5, 2.0)
        with contextlib.closing(sqlite3.connect(self.fleet.folder / "fastq.db", timeout=60, isolation_level=None)) as sql:
            sql.execute("BEGIN IMMEDIATE")
            self._wait(seconds)
            sql.execute("ROLLBACK")
        return f"{seconds:.1f} s"


def _kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
