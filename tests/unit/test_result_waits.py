"""Waiting: callbacks, states that are not final, and greenlets."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastq import FastQ, ResultSet
from fastq.exceptions import TimeoutError
from fastq.transports import memory
from fastq.waiting import mailroom
from tests.unit.result_rig import sent, store

ROOT = Path(__file__).parents[2]


@pytest.fixture
def app(request: pytest.FixtureRequest) -> Iterator[FastQ]:
    with FastQ("proj", broker=f"memory://{request.node.name}", set_as_current=False) as app:
        yield app
    memory.reset(request.node.name)


@pytest.fixture(autouse=True)
def no_slow_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailroom, "POLL_FIRST_S", 600.0)


def until(condition: Any) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def start(work: Any) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_states_that_are_not_final_do_not_end_a_wait(app: FastQ) -> None:
    (result,) = sent(app, "x")
    got: list[Any] = []
    waiting = start(lambda: got.append(result.get(timeout=20)))
    until(lambda: app.backend.waiter._room().inbox)
    for state, value in (("STARTED", {"pid": 1}), ("PROGRESS", {"done": 1}), ("RETRY", ValueError("busy"))):
        store(app, "x", value, state, told=True)
        until(lambda state=state: result.known_state == state)
        assert waiting.is_alive() and not got
    store(app, "x", 5, told=True)
    waiting.join(20)
    assert got == [5]


def test_then_is_called_once_when_the_result_comes_to_whoever_waits(app: FastQ) -> None:
    a, b, c = sent(app, "a", "b", "c")
    seen: list[Any] = []
    b.then(seen.append)
    b.then(seen.append)
    waiting = start(lambda: a.get(timeout=20))
    until(lambda: app.backend.waiter._room().inbox)
    store(app, "b", 2, told=True)
    until(lambda: len(seen) == 2)
    assert seen == [b, b] and waiting.is_alive()
    store(app, "a", 1, told=True)
    waiting.join(20)
    b.then(seen.append)
    assert len(seen) == 3, "what has come is called at once"
    store(app, "c", KeyError("k"), "FAILURE")
    c.then(lambda result: seen.append(result.state))
    assert len(seen) == 3, "nobody has looked"
    assert c.ready() and seen[-1] == "FAILURE", "whatever the state"
    assert app.backend.waiter._room().watched == {} or c.ready()


@pytest.mark.parametrize("foreign", [False, True])
def test_then_is_called_by_ones_own_wait(app: FastQ, foreign: bool) -> None:
    result = app.AsyncResult("x") if foreign else sent(app, "x")[0]
    seen: list[Any] = []
    result.then(lambda r: seen.append(r.get()))
    store(app, "x", 5)
    assert result.get(timeout=20) == 5 and seen == [5]
    assert app.backend.waiter._room().watched == {}


def test_a_callback_may_wait_for_other_results(app: FastQ) -> None:
    a, b, c = sent(app, "a", "b", "c")
    seen: list[Any] = []
    b.then(lambda _: seen.append(c.get(timeout=20)))
    waiting = start(lambda: a.get(timeout=20))
    until(lambda: app.backend.waiter._room().inbox)
    store(app, "b", 2, told=True)
    until(lambda: c.id in app.backend.waiter._room().waiting)
    store(app, "c", 3, told=True)
    until(lambda: seen)
    store(app, "a", 1, told=True)
    waiting.join(20)
    assert seen == [3] and not waiting.is_alive()


def test_callbacks_are_called_while_an_event_loop_waits(app: FastQ) -> None:
    a, b, c = sent(app, "a", "b", "c")
    seen: list[Any] = []
    b.then(lambda _: seen.append(c.get(timeout=20)))

    async def work() -> Any:
        waiting = asyncio.ensure_future(a.aget(timeout=20))
        while not app.backend.waiter._room().inbox:
            await asyncio.sleep(0.001)
        store(app, "b", 2, told=True)
        while c.id not in app.backend.waiter._room().waiting:
            await asyncio.sleep(0.001)
        store(app, "c", 3, told=True)
        while not seen:
            await asyncio.sleep(0.001)
        store(app, "a", 1, told=True)
        return await waiting

    assert asyncio.run(work()) == 1 and seen == [3]
    assert not app.backend.waiter._room().tickets


def test_what_a_callback_raises_goes_to_on_error_or_the_log(app: FastQ, caplog: pytest.LogCaptureFixture) -> None:
    (a,) = sent(app, "a")
    errors: list[Exception] = []

    def broken(_: Any) -> None:
        raise ValueError("in the callback")

    a.then(broken, errors.append)
    a.then(broken)
    store(app, "a", 1)
    assert a.get(timeout=20) == 1
    assert [str(exc) for exc in errors] == ["in the callback"]
    assert "A callback of result a raised" in caplog.text


def test_then_of_a_set_is_called_when_all_have_ended(app: FastQ) -> None:
    results = ResultSet(sent(app, "a", "b"), app)
    seen: list[Any] = []
    results.then(seen.append)
    store(app, "a", 1)
    assert results[0].get(timeout=20) == 1 and seen == []
    store(app, "b", 2, told=True)
    assert results.get(timeout=20) == [1, 2]
    assert seen == [results]
    results.then(seen.append)
    assert len(seen) == 2


def test_a_server_that_is_away_is_not_asked_in_a_busy_loop(app: FastQ, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastq.exceptions import OperationalError

    tries: list[float] = []

    def refused() -> Any:
        tries.append(time.monotonic())
        raise OperationalError("away")

    monkeypatch.setattr(app.backend.waiter, "_open_inbox", refused)
    (result,) = sent(app, "x")
    ticks: list[int] = []
    with pytest.raises(TimeoutError):
        result.get(timeout=0.3, interval=0.1, on_interval=lambda: ticks.append(1))
    assert len(tries) < 20 and ticks


PROGRAM = """
import sys
if sys.argv[1] == "gevent":
    from gevent import monkey; monkey.patch_all()
    import gevent
    spawn, sleep, wait = gevent.spawn, gevent.sleep, lambda g: g.get(timeout=30)
else:
    import eventlet; eventlet.monkey_patch()
    spawn, sleep, wait = eventlet.spawn, eventlet.sleep, lambda g: g.wait()
from fastq import FastQ, ResultSet
from tests.unit.result_rig import sent, store

app = FastQ("x", broker=sys.argv[2], backend=sys.argv[2], key_prefix=sys.argv[1], set_as_current=False)
ids = [str(i) for i in range(200)]
results = ResultSet(sent(app, *ids), app)
seen = []
results.then(seen.append)
joins = [spawn(results.join, 30), spawn(results.get, 30), spawn(lambda: sorted(results.iterate(30)))]
single = [spawn(result.get, 30) for result in results]
ticks = 0
while not app.backend.waiter._room().inbox or ticks < 20:
    ticks += 1
    sleep(0.001)
# all wait, and this one went on
for i, id in enumerate(ids):
    store(app, id, i, told=True)
assert all(wait(join) == list(range(200)) for join in joins)
assert [wait(one) for one in single] == list(range(200))
assert seen == [results]
print("green")
"""


@pytest.mark.parametrize("library", ["gevent", "eventlet"])
def test_greenlets_wait_side_by_side(redis_url: str, library: str) -> None:
    # eventlet says that it is retired when it is imported
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, library, redis_url]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.stdout.strip() == "green", run.stderr
