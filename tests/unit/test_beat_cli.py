"""``fastq schedule`` and the options of ``fastq beat``: what is asked wrongly is said, with a code of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from fastq.cli import cli

MODULE = """
from fastq import FastQ
app = FastQ("site", broker="sqlite:///beat.db", set_as_current=False)

@app.task(name="mail.send")
def send(to): pass

app.conf.beat_schedule = {"daily": {"task": "mail.send", "schedule": 86400, "args": ("all",)}}
"""

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    module = f"beat_site_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{module}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(cli, ["-A", module, *arguments])

    return run


def test_entries_are_listed_added_changed_paused_run_and_removed(run: Run) -> None:
    assert "daily  mail.send  every 86400s" in run("schedule", "list").stdout
    how = ("--crontab", "0 4 * * *", "--tz", "Europe/Paris", "-a", '["me"]', "--queue", "m")
    added = run("schedule", "add", "night", "mail.send", *how)
    assert added.exit_code == 0, added.output
    assert added.stdout.startswith("added night: next run ")
    said = json.loads(run("schedule", "show", "night", "-j").stdout)
    assert said["schedule"]["tz"] == "Europe/Paris"
    assert (said["args"], said["options"], said["state"], said["origin"]) == (["me"], {"queue": "m"}, "waiting", "api")
    assert run("schedule", "change", "night", "--every", "90s", "--missed", "skip").exit_code == 0
    shown = run("schedule", "show", "night").stdout
    assert "schedule:    every 90s" in shown
    assert "missed runs: not sent" in shown
    assert run("schedule", "pause", "night").stdout == "paused night\n"
    states = [json.loads(line)["state"] for line in run("schedule", "list", "-j").stdout.splitlines()]
    assert states == ["new", "paused"]
    assert run("schedule", "resume", "night").stdout.startswith("resumed night: next run ")
    assert len(run("schedule", "run", "night").stdout.strip()) == 36
    assert run("schedule", "remove", "night").stdout == "removed night\n"
    assert run("schedule", "show", "night").exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("schedule", "lits"), 2, "Did you mean 'list'?"),
        (("schedule", "show", "dayly"), 1, "Did you mean 'daily'?"),
        (("schedule", "remove", "daily"), 2, "comes from the application's code"),
        (("schedule", "add", "x", "mail.send"), 2, "one of --every, --crontab and --solar"),
        (("schedule", "add", "x", "mail.send", "--every", "1s", "--crontab", "* * * * *"), 2, "exclude each other"),
        (("schedule", "add", "x", "mail.send", "--every", "1s", "--tz", "UTC"), 2, "--tz is the zone of a --crontab"),
        (("schedule", "add", "x", "mail.send", "--every", "soon"), 2, "not a span of time"),
        (("schedule", "add", "x", "mail.send", "--every", "0s", "-a", "[1]"), 2, "more than 0 seconds"),
        (("schedule", "add", "x", "mail.send", "--crontab", "0 25 * * *", "-a", "[1]"), 2, "25 is out of range"),
        (("schedule", "add", "x", "mail.send", "--crontab", "0 4 * * *", "--tz", "Mars/Base", "-a", "[1]"), 2, "Mars/Base"),
        (("schedule", "add", "x", "mail.send", "--solar", "noon"), 2, "EVENT,LAT,LON"),
        (("schedule", "add", "x", "mail.send", "--every", "1s"), 2, "missing a required argument"),
        (("schedule", "add", "x", "mail.send", "--every", "1s", "-a", "5"), 2, "JSON array"),
        (("schedule", "add", "daily", "mail.send", "--every", "1s", "-a", "[1]"), 2, "already"),
        (("schedule", "change", "daily"), 2, "Nothing to change"),
        (("beat", "-S", "shared", "-s", "file"), 2, "exclude each other"),
        (("beat", "-S", "persistnt"), 2, "did you mean 'persistent'"),
        (("beat", "-S", "no.such.Scheduler"), 2, "cannot be imported"),
        (("beat", "--max-interval", "0"), 2, "max-interval"),
        (("beat", "worker.leese=3"), 2, "leese"),
        (("worker", "-s", "file"), 2, "give -B too"),
    ],
)
def test_what_is_asked_wrongly_is_said(run: Run, arguments: tuple[str, ...], code: int, text: str) -> None:
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert text.lower() in result.output.lower()


def test_an_entry_that_cannot_be_meant_stops_beat_at_its_start(run: Run, tmp_path: Path) -> None:
    (module,) = tmp_path.glob("*.py")
    for wrong, text in (
        ({"task": "mail.send", "schedule": 1, "options": {"queeu": "q"}}, "unexpected option 'queeu'"),
        ({"task": "mail.send", "shedule": 1}, "unknown key 'shedule'"),
        ({"task": "mail.send", "schedule": "daily"}, "beat_schedule['wrong']"),
        ({"task": "mail.send", "schedule": 1, "missed": "often"}, "missed='often' is not one of once, skip, all"),
    ):
        module.write_text(f"{MODULE}\napp.conf.beat_schedule['wrong'] = {wrong!r}\n")
        sys.modules.pop(module.stem, None)
        result = run("beat")
        assert result.exit_code == 2, result.output
        assert text in result.output


def test_the_help_of_both_commands_names_their_options(run: Run) -> None:
    assert "--max-interval" in run("beat", "--help").stdout
    assert "resume" in run("schedule", "--help").stdout


def test_a_scheduler_of_ones_own_is_made_as_celery_makes_it() -> None:
    from fastq import FastQ
    from fastq.beat.service import Service

    made: list[dict[str, Any]] = []

    class Own:
        max_interval = 0.01

        def __init__(self, **given: Any) -> None:
            made.append(given)
            self.ticks = 0

        def tick(self) -> float:
            self.ticks += 1
            if self.ticks == 3:
                service.stop()
            return 0.001

        def close(self) -> None:
            made.append({"closed": True})

    app = FastQ("own", broker="memory://own", set_as_current=False)
    service = Service(app, max_interval=7, schedule_filename="f", scheduler_cls=Own)
    service.start()
    assert made == [{"app": app, "schedule_filename": "f", "max_interval": 7, "lazy": False}, {"closed": True}]
    assert service.scheduler.ticks == 3
