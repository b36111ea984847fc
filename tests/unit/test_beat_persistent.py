"""The scheduler with its runs in a file: what it remembers, and what it does with a file it cannot use."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fastq import FastQ
from fastq.beat import PersistentScheduler
from fastq.exceptions import ImproperlyConfigured
from fastq.schedules import schedule

START = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Recorder(PersistentScheduler):
    def send_task(self, name: str, args: Any = None, kwargs: Any = None, **options: Any) -> Any:  # type: ignore[override]
        self.sent = [*getattr(self, "sent", []), name]


@pytest.fixture
def now() -> list[datetime]:
    return [START]


@pytest.fixture
def app(now: list[datetime]) -> Iterator[FastQ]:
    with FastQ("beats", broker="memory://", backend="memory://") as app:
        app.conf.beat_schedule = {"each": {"task": "t", "schedule": schedule(10, nowfun=lambda: now[0])}}
        yield app


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "schedule"


def open_on(app: FastQ, file: Path, **options: Any) -> Recorder:
    return Recorder(app, schedule_filename=str(file), **options)


def test_runs_are_remembered_and_what_was_missed_is_sent_once(app: FastQ, file: Path, now: list[datetime]) -> None:
    first = open_on(app, file)
    assert first.info == f"    . db -> {file}"
    now[0] += timedelta(seconds=10)
    assert first.tick() == 0
    first.close()
    now[0] += timedelta(hours=1)
    second = open_on(app, file)
    assert (second.schedule["each"].total_run_count, second.schedule["each"].last_run_at) == (1, START + timedelta(seconds=10))
    assert second.tick() == 0
    assert second.tick() > 0
    assert second.sent == ["t"]
    second.close()
    state = json.loads(file.read_text())
    assert state["entries"] == {"each": {"last_run_at": now[0].isoformat(), "total_run_count": 2}}
    assert (state["tz"], state["utc"], state["format"]) == ("UTC", True, "fastq-beat")


def test_entries_come_from_the_application_and_only_runs_from_the_file(app: FastQ, file: Path, now: list[datetime]) -> None:
    first = open_on(app, file)
    first.add(name="gone", task="t", schedule=1)
    now[0] += timedelta(seconds=10)
    first.tick()
    first.close()
    app.conf.beat_schedule = {"each": {"task": "other", "schedule": 99}, "new": {"task": "t", "schedule": 1}}
    second = open_on(app, file)
    assert set(second.schedule) == {"each", "new"}
    assert (second.schedule["each"].task, second.schedule["each"].total_run_count) == ("other", 1)
    second.close()


def test_it_writes_after_as_many_tasks_as_it_is_told(app: FastQ, file: Path, now: list[datetime]) -> None:
    app.conf.beat_sync_every = 2
    scheduler = open_on(app, file)

    def written() -> int:
        return int(json.loads(file.read_text())["entries"]["each"]["total_run_count"])

    counts = []
    for _ in range(4):
        now[0] += timedelta(seconds=10)
        assert scheduler.tick() == 0
        counts.append(written())
    assert counts == [0, 2, 2, 4]
    # or after a time
    app.conf.beat_sync_every = 0
    scheduler.sync_every = -1
    now[0] += timedelta(seconds=10)
    scheduler.tick()
    assert written() == 5
    scheduler.close()


@pytest.mark.parametrize(
    "content",
    [b"\x00\x06\x15a dbm of another program", b'{"format": "fastq-beat", "entr', b"[]", b'{"entries": {}}',
     b'{"format": "fastq-beat", "entries": {"each": {"last_run_at": "noon", "total_run_count": 1}}}'],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_moved_aside(
    app: FastQ, file: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    file.write_bytes(content)
    scheduler = open_on(app, file)
    assert scheduler.schedule["each"].total_run_count == 0
    scheduler.close()
    (aside,) = file.parent.glob("schedule.*.unreadable")
    assert aside.read_bytes() == content
    assert "damaged or not a file of fastq beat" in caplog.text
    assert str(aside) in caplog.text
    assert json.loads(file.read_text())["entries"]["each"]["total_run_count"] == 0


def test_an_empty_file_is_a_new_one(app: FastQ, file: Path, caplog: pytest.LogCaptureFixture) -> None:
    file.touch()
    open_on(app, file).close()
    assert not caplog.records


def test_a_changed_time_zone_forgets_the_runs(
    app: FastQ, file: Path, now: list[datetime], caplog: pytest.LogCaptureFixture
) -> None:
    scheduler = open_on(app, file)
    now[0] += timedelta(seconds=10)
    scheduler.tick()
    scheduler.close()
    app.conf.timezone = "Europe/Berlin"
    with caplog.at_level(logging.WARNING):
        scheduler = open_on(app, file)
    assert caplog.messages == ["Reset: Timezone changed from 'UTC' to 'Europe/Berlin'"]
    assert scheduler.schedule["each"].total_run_count == 0
    scheduler.close()
    app.conf.enable_utc = False
    caplog.clear()
    open_on(app, file).close()
    assert caplog.messages == ["Reset: UTC changed from enabled to disabled"]


def test_a_second_process_is_refused_the_file(app: FastQ, file: Path) -> None:
    code = (
        "import sys\nfrom fastq import FastQ\nfrom fastq.beat import PersistentScheduler\n"
        "scheduler = PersistentScheduler(FastQ('other', broker='memory://'), schedule_filename=sys.argv[1])\n"
        "print('has it', flush=True)\nsys.stdin.read()\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "has it\n"
        with pytest.raises(ImproperlyConfigured, match=rf"is used by another beat \(pid {holder.pid}\)"):
            open_on(app, file)
    finally:
        holder.communicate(timeout=60)
    open_on(app, file).close()


def test_a_folder_that_is_not_there_is_named(app: FastQ, tmp_path: Path) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"beat_schedule_filename: .*nowhere/file cannot be used: No such file"):
        open_on(app, tmp_path / "nowhere" / "file")


def test_a_disk_that_is_full_stops_no_task(
    app: FastQ, file: Path, now: list[datetime], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler = open_on(app, file, sync_every_tasks=1)

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("os.fsync", full)
        now[0] += timedelta(seconds=10)
        assert scheduler.tick() == 0
    assert scheduler.sent == ["t"]
    assert "beat: cannot write what has been sent" in caplog.text
    assert json.loads(file.read_text())["entries"]["each"]["total_run_count"] == 0
    scheduler.close()
    assert json.loads(file.read_text())["entries"]["each"]["total_run_count"] == 1
