"""``fastq beat`` and ``fastq worker -B`` from the command line, in processes of their own."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastq import FastQ
from tests.chaos.beats import Beat, sent
from tests.workers import Worker, children, eventually, write_module

MODULE = """
from fastq import FastQ
app = FastQ("site", broker={url!r}, beat_lease=60, task_default_queue="ticks")

@app.task(name="tick")
def tick(n):
    with open("ran", "a") as file:
        file.write(f"{{tick.request.id}}\\n")

app.conf.beat_schedule = {{"often": {{"task": "tick", "schedule": 0.2, "args": (1,)}}}}
"""


@pytest.fixture(params=["redis", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return request.getfixturevalue("redis_url") if request.param == "redis" else f"sqlite:///{tmp_path}/beat.db"


@pytest.fixture
def site(url: str, tmp_path: Path) -> FastQ:
    write_module(tmp_path, "tasks", MODULE.format(url=url))
    return FastQ("site", broker=url, task_default_queue="ticks", set_as_current=False)


def test_a_beat_says_what_it_does_takes_changes_in_and_hands_over(site: FastQ, url: str, tmp_path: Path) -> None:
    with Beat(tmp_path) as first:
        first.wait_log("Scheduler: Sending due task often (tick)")
        log = first.log
        for line in (
            r"fastq beat v[\d.]+ is starting\.",
            r"    \. broker -> (redis|sqlite)://",
            r"    \. loader -> site",
            r"    \. scheduler -> fastq\.beat\.shared\.SharedScheduler",
            r"    \. db -> .*\(shared, 'site'\)",
            r"    \. logfile -> \[stderr\]@%INFO",
            r"    \. maxinterval -> 5\.00 minutes \(300s\)",
            r"beat: Starting\.\.\.",
        ):
            assert re.search(line, log), line
        # the lease is a minute, so what follows is not its end
        with Beat(tmp_path) as second:
            second.wait_log("beat: Starting...")
            # changes hold at once, from another process
            added = Worker.command(tmp_path, "schedule", "add", "cli", "tick", "--every", "0.2s", "-a", "[2]")
            assert (added.returncode, added.stderr) == (0, "")
            first.wait_log("Sending due task cli (tick)")
            site.schedules.pause("often")
            paused_ms = time.time() * 1000
            runs = site.schedules.get("cli").runs
            eventually(lambda: site.schedules.get("cli").runs >= runs + 3, "more ticks of the other entry")
            assert max(sent(url)["often"]) < paused_ms + 1000
            assert site.schedules.leader().startswith("beat@")
            assert "Sending" not in second.log
            began = time.monotonic()
            assert first.end(signal.SIGTERM) == 0
            second.wait_log("Sending due task cli (tick)")
            assert time.monotonic() - began < 30, "the lead was not handed over: its lease is 60 s"
            assert "beat: Shutting down..." in first.log
            assert second.end(signal.SIGINT) == 0
    found = sent(url)
    assert all(len(dues) == len(set(dues)) for dues in found.values())
    # nobody leads, and that is said; what was added is still there
    listed = Worker.command(tmp_path, "schedule", "list")
    assert re.search(r"cli +tick +every 0\.2s .* waiting +api", listed.stdout), listed.stdout
    assert re.search(r"often +tick +every 0\.2s .* paused +app", listed.stdout), listed.stdout
    assert "No beat is running" in listed.stderr


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_a_worker_with_a_beat_of_its_own_replaces_and_ends_it(pool: str, redis_url: str, tmp_path: Path) -> None:
    write_module(tmp_path, "tasks", MODULE.format(url=redis_url))
    with Worker(tmp_path, "-P", pool, "-c", "1", "-B", "-l", "INFO", "beat.lease=0.5") as worker:
        worker.wait_log("Sending due task often (tick)")
        eventually(lambda: (tmp_path / "ran").exists(), "a tick to run")
        (beat,) = [pid for pid in children(worker.pid) if is_beat(pid)]
        led = worker.log.count("beat: leading")
        os.kill(beat, signal.SIGKILL)
        worker.wait_log("The beat of this node (-B) has ended")
        eventually(lambda: [pid for pid in children(worker.pid) if is_beat(pid)], "another beat")
        (beat,) = [pid for pid in children(worker.pid) if is_beat(pid)]
        # not "twice": a beat that a busy machine holds up for longer than its lease leads anew
        eventually(lambda: worker.log.count("beat: leading") > led, lambda: f"the other beat to lead\n{worker.log}")
        assert worker.terminate() == 0
        eventually(lambda: not is_beat(beat), "the beat to end with its worker")
    ran = (tmp_path / "ran").read_text().split()
    assert len(ran) == len(set(ran))


def is_beat(pid: int) -> bool:
    try:
        return b"--embedded" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


@pytest.fixture
def beats() -> Iterator[list[Beat]]:
    started: list[Beat] = []
    yield started
    for beat in started:
        with beat:
            pass


def test_a_beat_with_a_file_keeps_its_state_there(redis_url: str, tmp_path: Path, beats: list[Beat]) -> None:
    write_module(tmp_path, "tasks", MODULE.format(url=redis_url))
    beats.append(Beat(tmp_path, "-s", "state"))
    beats[0].wait_log("Sending due task often (tick)")
    assert re.search(r"scheduler -> fastq\.beat\.persistent\.PersistentScheduler", beats[0].log)
    assert re.search(r"db -> .*state", beats[0].log)
    assert beats[0].end() == 0
    assert list(tmp_path.glob("state*"))
    assert Worker.command(tmp_path, "schedule", "list").stdout.count("new") == 1
