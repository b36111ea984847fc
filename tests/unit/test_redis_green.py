"""The Redis transport under gevent and eventlet: a greenlet that waits for Redis lets the others run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PROGRAM = """
import sys
if sys.argv[1] == "gevent":
    from gevent import monkey; monkey.patch_all()
    import gevent
    spawn, sleep, wait = gevent.spawn, gevent.sleep, lambda g: g.get(timeout=30)
else:
    import eventlet; eventlet.monkey_patch()
    spawn, sleep, wait = eventlet.spawn, eventlet.sleep, lambda g: g.wait()
import select
from fastq.records import StoredResult
from fastq.transports import TransportOptions, open_backend, open_broker
from tests.unit.redis_parts import asked, done, ids, publication, record

options = TransportOptions()
broker, backend = open_broker(sys.argv[2], options), open_backend(sys.argv[2], options)
inbox, wake = backend.inbox("me"), broker.wake("green")
inbox.open(); wake.open()
broker.renew(["default"], ["green"], 15000)
broker.fetch(asked(1, process="green"))

ticks = 0
def tick():
    global ticks
    while True:
        ticks += 1
        sleep(0.001)
spawn(tick)
reader = spawn(lambda: inbox.read(30.0))
sleeper = spawn(lambda: select.select([wake], [], [], 30.0)[0] == [wake] and wake.drain())
while ticks < 20:
    sleep(0.001)
# both wait, and the ticks went on
broker.publish("green", 1, [publication("0")])
assert wait(sleeper) is True
fetched = broker.fetch(asked(2, process="green"))
assert ids(fetched) == ["0"]
broker.settle("green", done(fetched, inbox="me"), results=True)
assert wait(reader) == [("0", record())]
many = [spawn(lambda i=i: backend.store([StoredResult(str(i), record())]) or backend.get([str(i)])) for i in range(100)]
assert all(wait(g) == [record()] for g in many)
wake.check()
print("green")
"""


@pytest.mark.parametrize("library", ["gevent", "eventlet"])
def test_waiting_for_redis_does_not_stop_other_greenlets(redis_url: str, library: str) -> None:
    # eventlet says that it is retired when it is imported
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, library, redis_url]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.stdout.strip() == "green", run.stderr
