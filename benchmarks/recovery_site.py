"""Where processes are killed: a private broker, worker nodes on it, and the journal that their tasks write."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from places import PLACES

import fastq
from fastq import FastQ
from fastq.bench import proctree

HERE = Path(__file__).parent
#: where the application (``recovery_app.py``) finds its settings
ENV = "FASTQ_RECOVERY"
#: seconds for what is not measured: a node's start, the start of tasks, the end of the last
PATIENCE_S = 60.0
LOOK_S = 0.01


class RecoveryError(Exception):
    """Say what did not happen."""


class Journal:
    """What tasks have written, read as it grows."""

    def __init__(self, path: Path) -> None:
        path.touch()
        self._file = path.open("rb")
        self._rest = b""
        #: key -> (pid, seconds) per run
        self.starts: dict[str, list[tuple[int, float]]] = defaultdict(list)
        #: (key, pid) of every run that has ended
        self.ends: Counter[tuple[str, int]] = Counter()
        self.ended: set[str] = set()

    def read(self) -> None:
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        for line in lines:
            event, key, pid, at_ns = line.decode().split()
            if event == "start":
                self.starts[key].append((int(pid), int(at_ns) / 1e9))
            else:
                self.ends[key, int(pid)] += 1
                self.ended.add(key)

    def running(self, keys: Iterable[str]) -> dict[str, int]:
        """Return who runs each of these keys now: key -> pid; those that nobody runs are left out."""
        found = {}
        for key in keys:
            for pid, _ in self.starts.get(key, ())[-1:]:
                if not self.ends[key, pid]:
                    found[key] = pid
        return found

    def close(self) -> None:
        self._file.close()


class Node:
    """One ``fastq worker``; ``host``: 12 hex digits of another host, "" this one."""

    def __init__(self, site: Site, name: str, pool: str, slots: int, *, host: str = "", survivor: bool = False) -> None:
        self.name, self.pool, self.slots = name, pool, slots
        self.log_path = site.folder / f"{name}.{time.monotonic_ns()}.log"
        env = {k: v for k, v in os.environ.items() if not k.startswith(("FASTQ_", "CELERY_"))}
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        env[ENV] = json.dumps({**site.described, "survivor": survivor})
        source = str(Path(fastq.__file__).parents[1])
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [source, str(HERE), env.get("PYTHONPATH")]))
        program = [str(HERE / "recovery_host.py"), host] if host else ["-m", "fastq"]
        command = [sys.executable, *program, "-A", "recovery_app", "worker", "-P", pool, "-l", "INFO", "-n", f"{name}@%h"]
        if pool != "solo":
            command += ["-c", str(slots)]
        with self.log_path.open("wb") as log:
            self.spawned_s = time.monotonic()
            self.process = subprocess.Popen(
                command, cwd=site.folder, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self.pid = self.process.pid
        self._ready = False
        #: all processes that were ever seen of it
        self.pids: set[int] = {self.pid}

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    @property
    def ready(self) -> bool:
        if not self._ready:
            self._ready = " ready." in self.log
            if not self._ready and self.process.poll() is not None:
                raise RecoveryError(f"node {self.name} ended with {self.process.returncode}:\n{self.log[-2000:]}")
        return self._ready

    def tree(self) -> list[int]:
        found = proctree.tree(self.pid)
        self.pids.update(found)
        return found

    def keeper_pid(self) -> int:
        """Return who keeps the leases: the supervisor, or the child of a solo worker."""
        if self.pool != "solo":
            return self.pid
        for pid in self.tree()[1:]:
            with contextlib.suppress(OSError):
                if "LeaseKeeper" in Path("/proc", str(pid), "comm").read_text():
                    return pid
        raise RecoveryError(f"solo node {self.name} has no lease keeper:\n{self.log[-2000:]}")

    def kill_all(self) -> None:
        """SIGKILL every process, who keeps the leases first: nobody is left who could hand back, as on a host that is gone."""
        keeper, pids = self.keeper_pid(), self.tree()
        for pid in [keeper, *(pid for pid in pids if pid != keeper)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def clear_away(self) -> None:
        """Be gone, whatever is left."""
        with contextlib.suppress(RecoveryError):
            self.kill_all()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.process.wait(PATIENCE_S)

    def stop(self) -> None:
        """Stop as an operator does."""
        if self.process.poll() is None:
            self.tree()
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(15)
        self.clear_away()


class Site:
    """One series of kills: a broker of its own and everything that was sent to it."""

    def __init__(self, broker: str, pool: str, lease_s: float) -> None:
        self.pool = pool
        self.folder = Path(tempfile.mkdtemp(prefix="fastq-recovery-"))
        (self.folder / "first").mkdir()
        self.journal = Journal(self.folder / "journal")
        self.place: Any = PLACES[broker]()
        self.place.start()
        self.version = f"{broker} {self.place.version}"
        self.described = {"broker": self.place.broker_url, "lease_s": lease_s, "folder": str(self.folder)}
        self.app = FastQ("recovery", broker=self.place.broker_url, backend=self.place.broker_url)
        self.nodes: list[Node] = []
        self.results: dict[str, Any] = {}
        #: how often the process was killed that ran a key
        self.deaths: Counter[str] = Counter()
        self._names = 0

    # --- nodes ---

    def start(self, name: str, slots: int, *, host: str = "", survivor: bool = False) -> Node:
        node = Node(self, name, self.pool, slots, host=host, survivor=survivor)
        self.nodes.append(node)
        return node

    def await_ready(self, nodes: Sequence[Node]) -> None:
        self.wait(lambda: all([node.ready for node in nodes]), "nodes ready")

    def forget(self, nodes: Sequence[Node]) -> None:
        for node in nodes:
            node.clear_away()
            node.log_path.unlink()
            self.nodes.remove(node)

    # --- tasks ---

    def send(self, task: str, count: int) -> list[str]:
        """Send so many tasks and return their keys."""
        keys = []
        for _ in range(count):
            self._names += 1
            key = f"{task}-{self._names}"
            self.results[key] = self.app.send_task(f"recovery_app.{task}", args=[key])
            keys.append(key)
        return keys

    def hold(self, count: int) -> list[str]:
        """Send tasks that stay until their process dies."""
        return self.send("hold_async" if self.pool == "asyncio" else "hold", count)

    def wait(self, reached: Callable[[], object], what: str, within_s: float = PATIENCE_S) -> None:
        deadline_s = time.monotonic() + within_s
        while True:
            self.journal.read()
            if reached():
                return
            if time.monotonic() > deadline_s:
                logs = "\n".join(f"--- {node.name}\n{node.log[-1500:]}" for node in self.nodes[-4:])
                raise RecoveryError(f"{self.pool}: not within {within_s:g} s: {what}\n{logs}")
            time.sleep(LOOK_S)

    def fill(self, victims: Sequence[Node], slots: int, *, spare: int = 0) -> dict[str, int]:
        """Send held tasks until every slot of every victim has one; return who runs which: key -> pid.

        ``spare``: slots of a survivor. It takes some of them too, and ends them soon: so more are sent, and some to keep it busy,
        until all are where they should be.
        """
        keys = self.hold(len(victims) * slots)
        theirs = {pid for victim in victims for pid in victim.tree()}
        held: dict[str, int] = {}

        def all_held() -> bool:
            nonlocal held
            held = {key: pid for key, pid in self.journal.running(keys).items() if pid in theirs}
            ended = sum(key in self.journal.ended for key in keys)
            if len(held) + ended < len(keys):
                return False
            if len(held) == len(victims) * slots:
                return True
            keys.extend(self.hold(len(victims) * slots - len(held) + spare))
            return False

        self.wait(all_held, f"{len(victims) * slots} slots of victims busy")
        return held

    def await_again(self, killed: dict[str, float], within_s: float) -> dict[str, float]:
        """Wait until every killed task runs again; ``killed``: key -> when. Return how long each took."""
        runs = {key: self.deaths[key] for key in killed}
        starts = self.journal.starts
        what = f"{len(killed)} killed tasks running again"
        self.wait(lambda: all(len(starts[key]) > runs[key] for key in killed), what, within_s)
        return {key: starts[key][runs[key]][1] - at_s for key, at_s in killed.items()}

    def count(self) -> tuple[int, int, int]:
        """Wait for the end of everything; return (tasks, lost, runs that no kill explains)."""
        (self.folder / "release").touch()
        deadline_s = time.monotonic() + PATIENCE_S
        lost = 0
        for key, result in self.results.items():
            try:
                good = result.get(timeout=max(0.1, deadline_s - time.monotonic())) == key
            except Exception:  # whatever it ended in, it is not its result
                good = False
            lost += not good
        self.journal.read()
        extra = sum(max(0, len(runs) - 1 - self.deaths[key]) for key, runs in self.journal.starts.items())
        return len(self.results), lost, extra

    # --- the end ---

    def __enter__(self) -> Site:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        for node in self.nodes:
            if exc is None:
                node.stop()
            else:
                node.clear_away()
        self.app.close()
        self.place.close()
        self.journal.close()
        shutil.rmtree(self.folder, ignore_errors=True)
