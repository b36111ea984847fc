"""Whatever comes on the control channel, and whoever looks: a node keeps its leases, runs each task once, and answers again."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from fastq._core import packb
from tests.integration.conftest import TASKS, ran
from tests.servers import RedisServer, free_port
from tests.workers import Worker, eventually, load_module, write_module

#: broadcasts a second, and for how many seconds
FLOOD, FLOOD_S = 10_000, 1.5
#: more than a restart of the server takes on a busy machine
LEASE_S = 5


def scrape(port: int, enough: threading.Event, statuses: list[int]) -> None:
    while not enough.wait(0.02):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
            connection.request("GET", "/metrics")
            answer = connection.getresponse()
            answer.read()
            statuses.append(answer.status)


@pytest.mark.parametrize("pool", ["prefork", "solo", "gevent"])
def test_a_node_outlives_floods_garbage_scrapes_and_lost_connections(
    pool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "effects"
    folder.mkdir()
    with RedisServer(tmp_path / "redis", "--appendonly", "yes", "--appendfsync", "always") as server:
        for name, value in (("TEST_BROKER", server.url), ("TEST_FOLDER", str(folder)), ("TEST_LEASE", str(LEASE_S))):
            monkeypatch.setenv(name, value)
        tasks = load_module(write_module(tmp_path, "tasks", TASKS), monkeypatch)
        port = free_port()
        # two nodes: one would take the tasks of the other if it renewed too late
        with (
            Worker(tmp_path, "-P", pool, "-c", "1", "-n", "steady", "-l", "INFO", "--http", f"127.0.0.1:{port}") as steady,
            Worker(tmp_path, "-P", "threads", "-c", "1", "-n", "other", "-l", "INFO", "-Q", "default,elsewhere") as other,
        ):
            workers = [steady.wait_ready(), other.wait_ready()]
            held = [tasks.wait_for.delay(f"gate-{i}") for i in range(2)]
            eventually(lambda: len(ran(folder, "waiting-")) == 2, "a task runs on each")

            def answered() -> bool:
                return len(tasks.app.control.broadcast("ping", reply=True, timeout=1)) == 2

            enough, statuses = threading.Event(), list[int]()
            scraper = threading.Thread(target=scrape, args=(port, enough, statuses))
            scraper.start()
            try:
                with contextlib.closing(server.client()) as client:
                    requests = [packb({"method": "stats", "ticket": "t", "reply_to": "nobody"}), os.urandom(200), b"", b"\xc1"]
                    until = time.monotonic() + FLOOD_S
                    sent, began = 0, time.monotonic()
                    while time.monotonic() < until:
                        pipe = client.pipeline(transaction=False)
                        for i in range(100):
                            pipe.publish("fastq:control:0", requests[i % 4])
                        pipe.execute()
                        sent += 100
                        time.sleep(max(0.0, began + sent / FLOOD - time.monotonic()))
                    eventually(answered, lambda: f"both answer after the flood\n{steady.log}{other.log}")
                    client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
                    eventually(answered, lambda: f"both answer on new connections\n{steady.log}{other.log}")
                    server.kill(signal.SIGKILL)
                    server.start()
                    eventually(answered, lambda: f"both answer after the restart\n{steady.log}{other.log}")
            finally:
                enough.set()
                scraper.join()
            for i in range(2):
                (folder / f"gate-{i}").touch()
            assert [result.get(timeout=60) for result in held] == ["gate-0", "gate-1"]
            assert len(ran(folder, "waiting-")) == 2, "no lease was lost: each ran once"
            assert statuses and set(statuses) == {200}
            for worker in workers:
                assert worker.terminate() == 0, worker.log
                assert "was taken away" not in worker.log and "Traceback" not in worker.log
                assert worker.log.count("was not obeyed") <= 20 and "more control requests were not obeyed" in worker.log
        tasks.app.close()
