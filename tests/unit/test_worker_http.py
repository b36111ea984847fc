"""Health and metrics over HTTP: the pages of a node, and a server that nobody can hold up."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import HTTPError

import pytest
from click.testing import CliRunner
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_metrics

from fastq.cli import cli
from fastq.exceptions import ImproperlyConfigured
from fastq.worker.board import Board
from fastq.worker.http import doors as doors_module
from fastq.worker.http import server as server_module
from fastq.worker.http.address import Address
from fastq.worker.http.doors import Door, Doors, doors_here
from fastq.worker.http.pages import Pages, unready
from fastq.worker.http.server import Request, Response, Server
from fastq.worker.http.usage import usage_of
from fastq.worker.loop import Loop
from fastq.worker.node import WorkerProcess
from fastq.worker.shutdown import Stage
from fastq.worker.tallies import Tallies
from tests.workers import eventually


@pytest.fixture
def board() -> Iterator[Board]:
    made = Board()
    yield made
    made.close()


@pytest.fixture
def node(board: Board, request: pytest.FixtureRequest) -> Any:
    """A node of two processes that is ready."""
    processes = [
        WorkerProcess(index, os.getpid(), f"ForkPoolWorker-{index + 1}", True, 0.0, ("n",), board.region(index, 1))
        for index in (0, 1)
    ]
    return SimpleNamespace(
        name=f"test/{os.getpid()}-{time.monotonic_ns()}@{'h' * 80}",
        started_at=1_700_000_000.0,
        loop=Loop(),
        hello=SimpleNamespace(http="", lease_ms=15_000, pool="prefork"),
        stage=Stage.RUNNING,
        queues=("default",),
        reachable=True,
        renewed_s=time.monotonic(),
        wanted=2,
        restarts={"died": 1},
        processes=lambda: processes,
        tallies=Tallies(board.tallies),
        steering=SimpleNamespace(capacity=SimpleNamespace(slots=1)),
    )


@pytest.fixture
def turning() -> Iterator[Callable[[Loop], Callable[[], None]]]:
    """Turn a loop in a thread until the test ends."""
    running: list[tuple[Loop, threading.Thread]] = []

    def turn(loop: Loop) -> Callable[[], None]:
        """Turn a loop; return what ends that: only then may another thread touch what was in the loop."""

        def tick() -> None:
            loop.after(0.02, tick)  # so that it sees that it is to stop

        tick()
        thread = threading.Thread(target=loop.run)
        thread.start()
        running.append((loop, thread))

        def halt() -> None:
            loop.stop()
            thread.join()

        return halt

    yield turn
    for loop, thread in running:
        loop.stop()
        thread.join()


class Site:
    """A server with answers of its own, on a loop that turns."""

    def __init__(self, turning: Callable[[Loop], Callable[[], None]]) -> None:
        self.answer: Callable[[Request], Response] = lambda request: Response(200, f"{request.method} {request.path}".encode())
        self.loop = Loop()
        listening = Address("127.0.0.1", 0).listen()
        self.address = listening.getsockname()
        self.server = Server(self.loop, listening, lambda request: self.answer(request))
        self.halt = turning(self.loop)

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, 10)

    def send(self, data: bytes) -> bytes:
        """Send bytes, and return all that comes back."""
        with self.connect() as client:
            client.sendall(data)
            return everything(client)

    def get(self, path: str = "/x") -> bytes:
        return self.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())


def everything(client: socket.socket) -> bytes:
    data = b""
    try:
        while more := client.recv(65536):
            data += more
    except ConnectionResetError:
        pass
    return data


@pytest.fixture
def site(turning: Callable[[Loop], Callable[[], None]]) -> Iterator[Site]:
    made = Site(turning)
    yield made
    made.halt()
    made.server.close()


# --- the server ---


def test_one_request_gets_one_answer_and_the_connection_ends(site: Site) -> None:
    answer = site.get("/some?where=1")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.split(b"\r\n")[0] == b"HTTP/1.1 200 OK"
    assert b"Connection: close" in head and b"Content-Length: 9" in head
    assert body == b"GET /some"
    assert site.send(b"HEAD /some HTTP/1.0\n\n").endswith(b"Connection: close\r\n\r\n")
    assert site.send(b"GET http://h:1/some HTTP/1.1\r\n\r\n").endswith(b"GET /some")
    eventually(lambda: not len(site.server), "all connections are gone")


def test_a_request_may_come_in_pieces(site: Site) -> None:
    with site.connect() as client:
        for piece in (b"GE", b"T /x HT", b"TP/1.1\r\nAcc", b"ept: a\r", b"\n\r", b"\n"):
            client.sendall(piece)
            time.sleep(0.01)
        client.shutdown(socket.SHUT_WR)
        assert everything(client).endswith(b"GET /x")


@pytest.mark.parametrize(
    "data, status",
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"400"),
        (b"\r\n\r\n", b"400"),
        (b"hello\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1 more\r\n\r\n", b"400"),
        (b"GET / FTP/1.1\r\n\r\n", b"400"),
        (b"G\x00T / HTTP/1.1\r\n\r\n", b"400"),
        (b"GET / HTTP/2.0\r\n\r\n", b"505"),
        (b"POST /ready HTTP/1.1\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000, b"405"),
        (b"GET /" + b"a" * 9_000, b"431"),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 2_000 + b"\r\n", b"431"),
    ],
    ids=[
        "TLS",
        "empty",
        "one word",
        "four words",
        "another protocol",
        "zero byte",
        "HTTP/2",
        "a body",
        "long path",
        "many headers",
    ],
)
def test_what_is_no_request_gets_an_error(site: Site, data: bytes, status: bytes) -> None:
    assert site.send(data).startswith(b"HTTP/1.1 " + status)
    assert site.get().startswith(b"HTTP/1.1 200")


def test_a_page_that_fails_is_an_error_of_the_server_and_the_loop_goes_on(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.answer = lambda request: Response(200, b"x" if request.path == "/x" else 1 / 0)  # type: ignore[arg-type]
    assert site.get("/broken").startswith(b"HTTP/1.1 500")
    assert "ZeroDivisionError" in caplog.text
    assert site.get().startswith(b"HTTP/1.1 200")


def test_a_client_that_is_slow_to_ask_is_dropped(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "REQUEST_S", 0.2)
    with site.connect() as client:
        began = time.monotonic()
        client.sendall(b"GET / HT")
        assert everything(client) == b""
        assert time.monotonic() - began > 0.15


def test_a_client_that_does_not_take_its_answer_is_dropped(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "ANSWER_S", 0.2)
    site.answer = lambda request: Response(200, b"x" * (32 << 20))
    with site.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        eventually(lambda: len(site.server) == 1, "it is connected")
        eventually(lambda: not len(site.server), "it is dropped")
        site.answer = lambda request: Response(200, b"")
        assert site.get().startswith(b"HTTP/1.1 200")


def test_a_large_answer_reaches_a_client_that_reads_slowly(site: Site) -> None:
    site.answer = lambda request: Response(200, b"x" * (4 << 20))
    with site.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        time.sleep(0.05)
        assert len(everything(client).partition(b"\r\n\r\n")[2]) == 4 << 20


def test_many_idle_clients_keep_nobody_out(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "CONNECTIONS_MAX", 4)
    idle = [site.connect() for _ in range(20)]
    try:
        assert site.get().startswith(b"HTTP/1.1 200")
        assert len(site.server) <= 4
        assert everything(idle[0]) == b""  # the oldest made room
    finally:
        for client in idle:
            client.close()
    eventually(lambda: not len(site.server), "all connections are gone")


def test_without_descriptors_the_loop_does_not_spin(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[float] = []

    class Exhausted:
        def __init__(self, real: socket.socket) -> None:
            self.real = real

        def fileno(self) -> int:
            return self.real.fileno()

        def accept(self) -> Any:
            calls.append(time.monotonic())
            if len(calls) < 3:
                raise OSError(24, "Too many open files")
            return self.real.accept()

        def close(self) -> None:
            self.real.close()

    monkeypatch.setattr(server_module, "PAUSE_S", 0.1)
    site.server._listening = Exhausted(site.server._listening)  # type: ignore[assignment]
    assert site.get().startswith(b"HTTP/1.1 200")
    assert calls[1] - calls[0] >= 0.09 and calls[2] - calls[1] >= 0.09


# --- the pages ---


def ask(node: Any, path: str, accept: str = "") -> tuple[int, str, str]:
    answer = Pages(node).answer(Request("GET", path, accept))
    return answer.status, answer.content_type, answer.body.decode()


def test_a_node_is_ready_while_all_its_processes_take_tasks(node: Any) -> None:
    assert unready(node) == []
    assert ask(node, "/ready") == (200, "application/json", f'{{"node": "{node.name}", "ready": true, "reasons": []}}\n')


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"stage": Stage.WARM}, "it is stopping (warm)"),
        ({"renewed_s": 0.0}, "the broker has not answered yet"),
        ({"reachable": False}, "the broker does not answer: the leases were renewed 0.0 s ago, and last 15 s"),
        ({"renewed_s": -100.0}, "s ago, and last 15 s"),
        ({"queues": ()}, "it takes tasks from no queue"),
        ({"wanted": 3}, "2 of 3 processes take tasks"),
    ],
)
def test_a_node_that_is_not_ready_says_why_and_is_live(node: Any, change: dict[str, Any], reason: str) -> None:
    vars(node).update(change)
    status, _, body = ask(node, "/ready")
    said = json.loads(body)
    assert (status, said["ready"]) == (503, False)
    assert any(reason in text for text in said["reasons"]), said
    assert ask(node, "/live")[0] == 200


def test_other_pages_say_what_there_is(node: Any) -> None:
    assert ask(node, "/")[0] == 200
    status, _, body = ask(node, "/healthz")
    assert status == 404 and "/metrics" in body


def test_metrics_can_be_read_by_prometheus_in_both_formats(node: Any, board: Board) -> None:
    for index in (0, 1):
        tally = board.region(index, 1).tally
        assert tally is not None
        tally.add('tasks."odd"\n', "succeeded", 3)
    board.region(0, 1).slot_begin(0, "i", "n", 1)
    for accept, parse, kind in (
        ("", read_metrics, "text/plain"),
        ("application/openmetrics-text;version=1.0.0", read_openmetrics, "application/openmetrics-text"),
    ):
        status, content_type, body = ask(node, "/metrics", accept)
        assert (status, content_type.partition(";")[0]) == (200, kind)
        samples = {
            (sample.name, *sorted(sample.labels.items())): sample.value for family in parse(body) for sample in family.samples
        }
        assert samples["fastq_tasks_total", ("outcome", "succeeded"), ("task", 'tasks."odd"\n')] == 6
        assert samples["fastq_slots", ("state", "busy")] == 1 == samples["fastq_slots", ("state", "free")]
        assert samples["fastq_process_restarts_total", ("reason", "died")] == 1
        assert samples["fastq_process_restarts_total", ("reason", "recycled")] == 0
        assert samples["fastq_process_resident_memory_bytes", ("process", "supervisor")] > 1_000_000
        assert samples["fastq_broker_reachable",] == samples["fastq_node_ready",] == 1
        assert samples["fastq_lease_seconds",] == 15


def test_without_the_client_library_metrics_name_the_extra(
    node: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "fastq.worker.http.metrics", raising=False)
    for name in [name for name in sys.modules if name.startswith("prometheus_client.")]:
        monkeypatch.delitem(sys.modules, name)
    pages = Pages(node)
    pages.check_metrics()
    assert "pip install 'fastq[metrics]'" in caplog.text
    answer = pages.answer(Request("GET", "/metrics"))
    assert answer.status == 501 and b"pip install 'fastq[metrics]'" in answer.body
    assert pages.answer(Request("GET", "/ready")).status == 200


def test_what_a_process_uses_is_read_from_the_system() -> None:
    usage = usage_of(os.getpid())
    assert usage is not None and usage.cpu_s > 0 and usage.rss_bytes > 1_000_000
    assert usage_of(2**22 + 1) is None


# --- where ---


@pytest.mark.parametrize(
    "text, address",
    [
        ("127.0.0.1:9808", Address("127.0.0.1", 9808)),
        (":9808", Address("", 9808)),
        ("*:9808", Address("", 9808)),
        ("[::1]:1", Address("::1", 1)),
        ("unix:/run/w.sock", Address(path="/run/w.sock")),
        ("unix:///run/w.sock", Address(path="/run/w.sock")),
    ],
)
def test_addresses_are_read_and_written(text: str, address: Address) -> None:
    assert Address.parse(text) == address == Address.parse(str(address))


@pytest.mark.parametrize(
    "text, why",
    [
        ("9808", "the port is missing"),
        ("localhost:http", "'http' is no port"),
        ("localhost:70000", "'70000' is no port"),
        ("::1:9808", "stands in brackets"),
        ("unix:", "1 to 107 bytes"),
        ("unix:" + "a" * 108, "1 to 107 bytes"),
        ("localhost:", "'' is no port"),
    ],
)
def test_a_wrong_address_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="is no address for health and metrics") as caught:
        Address.parse(text)
    assert why in str(caught.value)


def test_an_address_in_use_is_refused(tmp_path: Path) -> None:
    with Address("127.0.0.1", 0).listen() as taken:
        address = Address("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(ImproperlyConfigured, match=rf"cannot be served at {address}: the address is already in use"):
            address.listen()
    with pytest.raises(ImproperlyConfigured, match=r"cannot be served at no-such-host\.invalid:1"):
        Address("no-such-host.invalid", 1).listen()
    path = Address(path=str(tmp_path / "here"))
    with path.listen(), pytest.raises(ImproperlyConfigured, match="already in use"):
        path.listen()
    path.listen().close()  # what a killed worker left is taken over
    path.leave()
    assert not (tmp_path / "here").exists()
    (tmp_path / "here").write_text("a file of somebody")
    with pytest.raises(ImproperlyConfigured, match="already in use"):
        path.listen()


@pytest.mark.parametrize("abstract", [True, False], ids=["abstract", "file"])
def test_a_node_is_found_by_its_local_socket_until_it_ends(
    node: Any, abstract: bool, turning: Callable[[Loop], Callable[[], None]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if abstract and sys.platform != "linux":
        pytest.skip("abstract sockets are Linux'")
    monkeypatch.setattr(doors_module, "ABSTRACT", abstract)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    if not abstract:
        left = Door(2**22 + 1, "killed@h", os.getuid())  # a pid that cannot be
        (tmp_path / f"fastq-{os.getuid()}").mkdir()
        with socket.socket(socket.AF_UNIX) as killed:
            killed.bind(left.name)
        assert left in doors_here(os.getuid())
        assert left.connect(1) is None
    doors = Doors(node)
    doors.open()
    halt = turning(node.loop)
    assert [door.pid for door in doors_here(os.getuid()) if door.is_of(node.name)] == [os.getpid()]
    assert abstract or left not in doors_here(os.getuid())

    def health(*more: str) -> tuple[int, str]:
        result = CliRunner().invoke(cli, ["health", "-n", node.name, *more])
        return result.exit_code, result.output.rstrip("\n")

    assert health() == (0, f"ready: {node.name}")
    node.queues = ()
    assert health() == (1, f"not ready: {node.name}: it takes tasks from no queue")
    assert health("--live") == (0, f"live: {node.name}")
    halt()
    code, said = health("--timeout", "0.3")
    assert (code, said) == (1, f"not ready: {node.name}: it does not answer")
    doors.close()
    assert health() == (1, f"not ready: no worker named {node.name} runs here")
    assert list(tmp_path.glob("*/*")) == []


def test_other_users_and_other_containers_are_strangers(node: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    doors, door = Doors(node), Door(os.getpid(), node.name, os.getuid())
    ours, theirs = socket.socketpair()
    with ours, theirs, door.listen():
        for uid, admitted in ((os.getuid(), True), (0, True), (os.getuid() + 1, False)):
            monkeypatch.setattr(doors_module, "_peer", lambda client, door, uid=uid: (os.getpid(), uid))
            assert doors._admit(ours) is admitted
        for pid, uid in ((0, os.getuid()), (os.getpid(), os.getuid() + 1)):
            monkeypatch.setattr(doors_module, "_peer", lambda client, door, pid=pid, uid=uid: (pid, uid))
            assert door.connect(1) is None
    door.leave()


def test_health_asks_at_an_address(node: Any, turning: Callable[[Loop], Callable[[], None]], tmp_path: Path) -> None:
    node.hello.http = f"unix:{tmp_path / 'w'}"
    doors = Doors(node)
    doors.open()
    halt = turning(node.loop)
    try:
        result = CliRunner().invoke(cli, ["health", "--http", node.hello.http])
        assert (result.exit_code, result.output) == (0, f"ready: {node.name}\n")
    finally:
        halt()
        doors.close()
    result = CliRunner().invoke(cli, ["health", "--http", node.hello.http])
    assert result.exit_code == 1 and "No such file" in result.output
    with Address("127.0.0.1", 0).listen() as silent:
        result = CliRunner().invoke(cli, ["health", "--timeout", "0.2", "--http", f"127.0.0.1:{silent.getsockname()[1]}"])
        assert result.exit_code == 1 and "it does not answer" in result.output


def test_health_is_not_fooled_by_another_server(site: Site) -> None:
    host, port = site.address
    result = CliRunner().invoke(cli, ["health", "--http", f"{host}:{port}"])
    assert (result.exit_code, result.output) == (1, f"not ready: {host}:{port}: this is not the health of a fastq worker\n")


def test_health_asked_wrongly_exits_with_2() -> None:
    for arguments, text in (
        (["--http", "9808"], "the port is missing"),
        (["--http", ":1", "-n", "w"], "exclude each other"),
        (["--timeout", "0"], "0"),
    ):
        result = CliRunner().invoke(cli, ["health", *arguments])
        assert result.exit_code == 2 and text in result.output


def test_totals_of_all_processes_are_added_up(board: Board) -> None:
    tallies = Tallies(board.tallies)
    assert tallies.totals().tasks == {}
    for index in (0, 3):
        tally = board.region(index, 1).tally
        assert tally is not None
        tally.add("one", "succeeded", 2)
        tally.count("given_back", 5)
    tallies.own.add("one", "failed")
    totals = tallies.totals()
    assert totals.tasks["one"].outcomes["succeeded"] == 4
    assert (totals.ended, totals.outcome("failed"), totals.given_back) == (5, 1, 10)
    assert totals.for_record() == {"one": [4, 1, 0.0, 0.0]}
    assert totals.wait_since(totals) == (0, 0.0)


def test_a_scrape_over_tcp_is_what_prometheus_expects(node: Any, turning: Callable[[Loop], Callable[[], None]]) -> None:
    with Address("127.0.0.1", 0).listen() as free:
        node.hello.http = f"127.0.0.1:{free.getsockname()[1]}"
    doors = Doors(node)
    doors.open()
    halt = turning(node.loop)
    try:
        with urllib.request.urlopen(f"http://{node.hello.http}/metrics", timeout=10) as answer:
            assert {family.name for family in read_metrics(answer.read().decode())} >= {"fastq_tasks", "fastq_node_info"}
        node.reachable = False
        with pytest.raises(HTTPError, match="503") as caught:
            urllib.request.urlopen(f"http://{node.hello.http}/ready", timeout=10)
        caught.value.close()
    finally:
        halt()
        doors.close()


def test_the_page_on_monitoring_names_every_metric(node: Any) -> None:
    page = (Path(__file__).parents[2] / "docs" / "monitoring.md").read_text(encoding="utf-8")
    documented = dict(re.findall(r"^\| `(fastq_[a-z_]+)` \| (\w+) \|", page, re.MULTILINE))
    there = {}
    for family in read_metrics(ask(node, "/metrics")[2]):
        # the parser of the plain format sees an info as a gauge
        kind = "info" if family.name.endswith("_info") else family.type
        there[family.name + ("_total" if kind == "counter" else "")] = kind
    assert documented == there


def test_health_costs_neither_the_application_nor_the_client_library() -> None:
    code = """
import sys
from fastq.cli import main
try:
    main(["health", "-n", "nobody@nowhere"])
finally:
    unwanted = {"prometheus_client", "redis", "gevent", "asyncio", "rich", "fastq.worker.supervisor", "http.server"}
    assert not unwanted & set(sys.modules), unwanted & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd="/", check=False)
    assert (done.returncode, done.stderr) == (1, "")
