"""Pause, resume and run now while two beats share the schedule, and one of them is killed meanwhile."""

from __future__ import annotations

import contextlib
import signal
import time
from pathlib import Path

import pytest

from fastq import FastQ
from tests.chaos.beats import Beat, sent
from tests.workers import eventually, write_module

MODULE = """
from fastq import FastQ
app = FastQ("steered", broker={url!r}, beat_lease=0.5, task_default_queue="ticks")

@app.task(name="tick")
def tick(): pass

app.conf.beat_schedule = {{name: {{"task": "tick", "schedule": 0.2, "missed": "all"}} for name in ("steered", "other")}}
"""


@pytest.fixture(params=["redis", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return request.getfixturevalue("redis_url") if request.param == "redis" else f"sqlite:///{tmp_path}/beat.db"


def test_a_paused_entry_rests_and_runs_now_whichever_of_two_beats_leads(url: str, tmp_path: Path) -> None:
    write_module(tmp_path, "tasks", MODULE.format(url=url))
    site = FastQ("steered", broker=url, task_default_queue="ticks", set_as_current=False)

    def pass_some() -> None:
        """Wait until the other entry has been sent a few times more."""
        runs = site.schedules.get("other").runs
        eventually(lambda: site.schedules.get("other").runs >= runs + 3, "more ticks of the other entry")

    with contextlib.ExitStack() as stack:
        beats = [stack.enter_context(Beat(tmp_path)) for _ in range(2)]
        for beat in beats:
            beat.wait_log("beat: Starting...")
        eventually(lambda: len(sent(url)) == 2, "ticks of both")
        site.schedules.pause("steered")
        before = sent(url)["steered"]
        pass_some()
        assert sent(url)["steered"] == before, "a tick was sent after pause() had returned"

        site.schedules.run_now("steered")
        leading: list[Beat] = []
        # on a busy machine its lease may have ended just now
        eventually(lambda: leading.extend(b for b in beats if f":{b.pid}:" in site.schedules.leader()) or leading, "a leader")
        leading[0].end(signal.SIGKILL)
        site.schedules.run_now("steered")
        pass_some()
        now_and_now = sent(url)["steered"][len(before) :]
        assert len(now_and_now) == 2, "each run_now() is one run, and the next leader leaves what is paused alone"

        resumed_ms = time.time() * 1000
        assert site.schedules.resume("steered").state == "waiting"
        pass_some()
        # rests again, so that what was sent can be compared
        entry = site.schedules.pause("steered")
        after = sent(url)["steered"][len(before) + 2 :]
        assert after and after[0] > resumed_ms - 50, "what would have been due while it rested was not missed"
        assert after == list(range(after[0], after[-1] + 1, 200)), "a tick was lost or repeated"
        other = sent(url)["other"]
        assert other == list(range(other[0], other[-1] + 1, 200)), "the other entry has lost or repeated a tick"
        assert entry.runs == len(before) + len(after), "run_now() is no run of the schedule"
