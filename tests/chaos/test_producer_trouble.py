"""Producers and callers while the broker is in trouble: nothing is in a queue twice, and a timeout is kept."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastq import FastQ
from fastq.exceptions import OperationalError
from fastq.transports.redis.scripts import script
from tests.proxy import Proxy
from tests.servers import RedisServer
from tests.workers import Worker, eventually

DEADLINE_S = 60
WHENS = ("request", "mid-request", "reply", "mid-reply", "late")


@pytest.fixture
def proxy(redis_url: str, redis_server: RedisServer) -> Iterator[Proxy]:
    with Proxy(redis_server.port) as proxy:
        yield proxy


@pytest.fixture
def app(proxy: Proxy) -> Iterator[FastQ]:
    app = FastQ("producer", broker=proxy.url, backend=proxy.url)
    app.conf.worker_lease = 2.0
    yield app
    app.close()


def queued(server: RedisServer, queue: str = "default") -> list[bytes]:
    with server.client() as client:
        return list(client.lrange(f"fastq:{{{queue}}}:ready:0", 0, -1))


@pytest.mark.parametrize("when", WHENS)
def test_a_cut_publish_is_kept_once_and_nobody_notices(when: str, app: FastQ, proxy: Proxy, redis_server: RedisServer) -> None:
    for number in range(3):
        app.send_task("task", (number,))
        proxy.cut_on(script("publish").sha, when)
        app.send_task("task", (number,))
    assert proxy.hits == 3
    proxy.deliver()
    eventually(lambda: not proxy.ending, "late requests are read")
    assert len(queued(redis_server)) == 6


@pytest.mark.parametrize("when", WHENS)
def test_without_retry_a_cut_publish_raises_and_is_kept_at_most_once(
    when: str, app: FastQ, proxy: Proxy, redis_server: RedisServer
) -> None:
    app.send_task("task")
    proxy.cut_on(script("publish").sha, when)
    with pytest.raises(OperationalError, match="unknown whether the broker kept chosen") as raised:
        app.send_task("task", task_id="chosen", retry=False)
    assert raised.value.task_ids == ("chosen",)
    proxy.deliver()
    eventually(lambda: not proxy.ending, "late requests are read")
    assert len(queued(redis_server)) == 1 + (when in ("reply", "mid-reply", "late"))
    app.send_task("task")
    assert len(queued(redis_server)) == 2 + (when in ("reply", "mid-reply", "late"))


def test_an_unreachable_broker_raises_after_the_retries_of_the_policy(app: FastQ, proxy: Proxy, redis_server: RedisServer) -> None:
    app.send_task("task")
    proxy.refusing = True
    proxy.cut()
    before = proxy.accepted
    policy = {"max_retries": 4, "interval_start": 0, "interval_step": 0.01, "interval_max": 0.05}
    with pytest.raises(OperationalError, match="unknown whether the broker kept given-up"):
        app.send_task("task", task_id="given-up", retry=True, retry_policy=policy)
    # the first attempt meets the connection that was cut
    assert proxy.accepted - before == 4
    proxy.refusing = False
    app.send_task("task")
    assert len(queued(redis_server)) == 2


def test_many_threads_share_calls_through_cuts(app: FastQ, proxy: Proxy, redis_server: RedisServer) -> None:
    """50 threads, one connection that is cut all the time: what returned is in the queue once, what raised at most once."""
    sent: list[str] = []
    raised: list[str] = []
    stop = threading.Event()

    def produce(thread: int) -> None:
        for i in range(20):
            name = f"{thread}-{i}"
            try:
                app.send_task("task", task_id=name, retry_policy={"max_retries": 20, "interval_step": 0.01, "interval_max": 0.02})
                sent.append(name)
            except OperationalError as error:
                raised.extend(error.task_ids)

    def cut() -> None:
        while not stop.wait(0.01):
            proxy.cut()

    threads = [threading.Thread(target=produce, args=(i,)) for i in range(50)]
    cutter = threading.Thread(target=cut)
    cutter.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    stop.set()
    cutter.join()
    from fastq import _core

    kept = [_core.task_id(message) for message in queued(redis_server)]
    assert len(kept) == len(set(kept)), "something is there twice"
    assert set(sent) <= set(kept), "something that was accepted is not there"
    assert len(sent) + len(raised) == 1000
    assert set(kept) <= set(sent) | set(raised)


def test_event_loops_share_calls_through_cuts(app: FastQ, proxy: Proxy, redis_server: RedisServer) -> None:
    for when in ("reply", "mid-request", "request", "mid-reply"):
        before = len(queued(redis_server))
        proxy.cut_on(script("publish").sha, when)

        async def produce() -> None:
            await asyncio.gather(*[app.asend_task("task", (i,)) for i in range(20)])

        asyncio.run(produce())
        assert len(queued(redis_server)) == before + 20


GREEN = """\
import sys
from gevent import monkey
monkey.patch_all()
import gevent
from fastq import FastQ
app = FastQ("producer", broker=sys.argv[1], backend=sys.argv[1])
def produce(n):
    for i in range(10):
        app.send_task("task", task_id=f"{n}-{i}", retry_policy={"max_retries": 50, "interval_step": 0.01, "interval_max": 0.02})
gevent.joinall([gevent.spawn(produce, n) for n in range(20)], raise_error=True)
app.close()
print("done")
"""

FORKING = """\
import os, sys
from fastq import FastQ
app = FastQ("producer", broker=sys.argv[1], backend=sys.argv[1])
policy = {"max_retries": 50, "interval_step": 0.01, "interval_max": 0.02}
pids = []
for n in range(4):
    app.send_task("task", task_id=f"parent-{n}", retry_policy=policy)
    pid = os.fork()
    if not pid:
        for i in range(10):
            app.send_task("task", task_id=f"{n}-{i}", retry_policy=policy)
        os._exit(0)
    pids.append(pid)
    app.send_task("task", task_id=f"after-{n}", retry_policy=policy)
assert all(os.waitpid(pid, 0)[1] == 0 for pid in pids)
print("done")
"""


@pytest.mark.parametrize(("program", "expected"), [(GREEN, 200), (FORKING, 48)], ids=["gevent", "forks"])
def test_producers_of_other_kinds_send_once_through_cuts(
    program: str, expected: int, proxy: Proxy, redis_server: RedisServer, tmp_path: Path
) -> None:
    path = tmp_path / "producer.py"
    path.write_text(program)
    root = str(Path(__file__).parent.parent.parent)
    process = subprocess.Popen(
        [sys.executable, str(path), proxy.url],
        env={**os.environ, "PYTHONPATH": root},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    eventually(lambda: proxy.accepted or process.poll() is not None, "it connects")
    while process.poll() is None:
        proxy.cut()
        time.sleep(0.02)
    output = process.communicate()[0]
    assert output.endswith("done\n"), output
    from fastq import _core

    kept = [_core.task_id(message) for message in queued(redis_server)]
    assert len(kept) == len(set(kept)) == expected


# --- waiting for results ---

TASKS = """\
import os, time
from fastq import FastQ
app = FastQ("tasks", broker=os.environ["TEST_BROKER"], backend=os.environ["TEST_BROKER"])
app.conf.worker_lease = 2.0

@app.task
def echo(x):
    return x

@app.task
def await_file(path):
    while not os.path.exists(path):
        time.sleep(0.01)
    return path
"""


@pytest.fixture
def worker(redis_url: str, tmp_path: Path) -> Iterator[Worker]:
    """A worker that goes straight to the server: only the caller is in trouble."""
    (tmp_path / "tasks.py").write_text(TASKS)
    with Worker(tmp_path, "-P", "threads", "-c", "4", env={"TEST_BROKER": redis_url}).wait_ready() as worker:
        yield worker


def waiting_caller(app: FastQ, path: Path) -> tuple[threading.Thread, list[object]]:
    """Let a thread wait for a task that ends when there is a file at ``path``."""
    result = app.send_task("tasks.await_file", (str(path),))
    got: list[object] = []

    def wait() -> None:
        try:
            got.append(result.get(timeout=DEADLINE_S))
        except Exception as error:
            got.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    eventually(lambda: app.backend.waiter._mailroom is not None and app.backend.waiter._mailroom.inbox is not None, "it waits")
    return thread, got


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("trouble", ["cut", "cuts", "refused", "half-open"])
def test_a_caller_that_waits_gets_its_result(trouble: str, app: FastQ, proxy: Proxy, tmp_path: Path) -> None:
    path = tmp_path / "gate"
    thread, got = waiting_caller(app, path)
    if trouble == "refused":
        proxy.refusing = True
    if trouble == "half-open":
        assert proxy.freeze(b"fastq:inbox") == 1
        proxy.thaw()
    else:
        proxy.cut()
    if trouble == "refused":
        time.sleep(1)
    path.touch()
    if trouble == "cuts":
        for _ in range(10):
            time.sleep(0.05)
            proxy.cut()
    proxy.refusing = False
    began = time.monotonic()
    thread.join(DEADLINE_S)
    assert got == [str(path)]
    # half-open: by the slow poll, a second at first
    assert time.monotonic() - began < 10


@pytest.mark.usefixtures("worker")
def test_a_caller_whose_connections_are_half_open_recovers(app: FastQ, proxy: Proxy, tmp_path: Path) -> None:
    """The first result after that comes by the slow poll, later ones through a new inbox."""
    app.conf.broker_transport_options = {"socket_timeout": 2}
    path = tmp_path / "gate"
    thread, got = waiting_caller(app, path)
    assert proxy.freeze() >= 2
    proxy.thaw()
    path.touch()
    began = time.monotonic()
    thread.join(DEADLINE_S)
    assert got == [str(path)]
    assert time.monotonic() - began < 15
    inbox = app.backend.waiter._mailroom.inbox
    assert app.send_task("tasks.echo", (1,)).get(timeout=DEADLINE_S) == 1
    began = time.monotonic()
    for i in range(5):
        assert app.send_task("tasks.echo", (i,)).get(timeout=DEADLINE_S) == i
    # each by the slow poll would be five seconds
    assert time.monotonic() - began < 4
    assert app.backend.waiter._mailroom.inbox is not inbox


@pytest.mark.parametrize("known", [True, False], ids=["subscribed", "first"])
def test_a_caller_without_a_timeout_is_told_when_the_broker_stays_away(
    known: bool, app: FastQ, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastq.waiting.mailroom.GIVE_UP_S", 0.5)
    monkeypatch.setattr("fastq.waiting.record_reads.GIVE_UP_S", 0.5)
    result = app.send_task("never")
    if known:
        with pytest.raises(TimeoutError):
            result.get(timeout=0.1)
    proxy.refusing = True
    proxy.cut()
    for wait in (result.get, lambda: asyncio.run(result.aget()), app.AsyncResult("another").get):
        with pytest.raises(OperationalError, match="cannot be reached"):
            wait()


@pytest.mark.parametrize("trouble", ["refused", "frozen", "stopped"])
@pytest.mark.parametrize("known", [True, False], ids=["subscribed", "first"])
def test_a_timeout_is_kept_while_the_broker_is_away(trouble: str, known: bool, tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis") as server, Proxy(server.port) as proxy:
        app = FastQ("caller", broker=proxy.url, backend=proxy.url)
        try:
            result = app.send_task("never")
            if known:
                with pytest.raises(TimeoutError):
                    result.get(timeout=0.1)
            if trouble == "refused":
                proxy.refusing = True
                proxy.cut()
            elif trouble == "frozen":
                proxy.freeze()
            else:
                server.kill(signal.SIGSTOP)
            for wait in (
                lambda: result.get(timeout=0.5),
                lambda: app.AsyncResult("another").get(timeout=0.5),
                lambda: asyncio.run(result.aget(timeout=0.5)),
                lambda: asyncio.run(result.aget(timeout=1.5)),
                lambda: result.get(timeout=0.5),
            ):
                began = time.monotonic()
                with pytest.raises(TimeoutError):
                    wait()
                assert 0.4 < time.monotonic() - began < 8
        finally:
            proxy.cut()
            proxy.refusing = True
            app.close()
