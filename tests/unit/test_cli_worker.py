"""What ``fastq worker`` makes of its options. The worker itself is replaced: tests/integration starts real ones."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from fastq.cli import cli
from fastq.worker.options import WorkerOptions

Ran = list[tuple[str, WorkerOptions]]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Ran:
    """Every (entry, options) that the command would have run."""
    calls: Ran = []

    def entry(name: str) -> Any:
        def run(options: WorkerOptions) -> int:
            calls.append((name, options))
            return 7

        return SimpleNamespace(run=run)

    for name in ("supervisor", "solo"):
        monkeypatch.setitem(sys.modules, f"fastq.worker.{name}", entry(name))
    return calls


def invoke(*args: str) -> Result:
    return CliRunner().invoke(cli, args, prog_name="fastq")


def test_every_option_reaches_the_worker(ran: Ran) -> None:
    line = "worker -A proj -P gevent -c 500 --processes 2 -Q a,b -X b -l info -n w1@%h --prefetch 0 --max-tasks-per-child 9 --purge"
    result = invoke(*line.split(), *["-I", "x,y", "--no-retry", "-b", "redis://b", "--result-backend", "redis://r"])
    assert result.exit_code == 7, result.output
    assert ran == [
        (
            "supervisor",
            WorkerOptions(
                app="proj",
                pool="gevent",
                concurrency=500,
                processes=2,
                queues=("a", "b"),
                exclude_queues=("b",),
                purge=True,
                loglevel="INFO",
                hostname="w1@%h",
                prefetch=0,
                max_tasks_per_child=9,
                retry=False,
                broker="redis://b",
                result_backend="redis://r",
                include=("x", "y"),
            ),
        )
    ]


def test_without_options_the_application_decides(ran: Ran) -> None:
    invoke("worker")
    assert ran == [("supervisor", WorkerOptions())]


def test_options_before_the_command_count_and_those_after_it_win(ran: Ran) -> None:
    invoke("-A", "first", "-b", "redis://b", "-q", "worker", "-A", "second")
    assert ran == [("supervisor", WorkerOptions(app="second", broker="redis://b", quiet=True))]


def test_solo_runs_in_the_foreground(ran: Ran) -> None:
    invoke("worker", "-P", "solo", "-c", "4")
    assert ran == [("solo", WorkerOptions(pool="solo", concurrency=4))]


@pytest.mark.parametrize(("alias", "pool"), [("processes", "prefork"), ("aio", "asyncio")])
def test_pool_aliases(ran: Ran, alias: str, pool: str) -> None:
    invoke("worker", "--pool", alias)
    assert ran[0][1].pool == pool


def test_options_of_celery_with_nothing_to_switch_off_are_accepted(ran: Ran) -> None:
    result = invoke("worker", "--without-gossip", "--without-mingle", "--without-heartbeat")
    assert result.exit_code == 7
    assert ran == [("supervisor", WorkerOptions())]


def test_options_of_celery_that_mean_something_else_here_are_accepted(ran: Ran) -> None:
    result = invoke("worker", "-O", "fair", "--prefetch-multiplier", "1")
    assert result.exit_code == 7, result.output
    assert ran == [("supervisor", WorkerOptions())]
    invoke("worker", "--disable-prefetch", "-c", "auto")
    assert ran[1:] == [("supervisor", WorkerOptions(prefetch=0))]


def test_limits_and_settings_behind_the_options_reach_the_worker(ran: Ran) -> None:
    result = invoke("worker", "--time-limit", "30", "--soft-time-limit", "2.5", "worker.lease=20", "task_acks_late=no")
    assert result.exit_code == 7, result.output
    options = ran[0][1]
    assert options.settings == {"task_time_limit": 30, "task_soft_time_limit": 2.5, "worker_lease": 20, "task_acks_late": False}
    assert WorkerOptions.from_json(options.to_json()) == options


@pytest.mark.parametrize("level", ["debug", "Info", "WARNING"])
def test_loglevel_in_any_case(ran: Ran, level: str) -> None:
    invoke("worker", "-l", level)
    assert ran[0][1].loglevel == level.upper()


def test_unknown_pool_names_the_known_ones(ran: Ran) -> None:
    result = invoke("worker", "-P", "gevnt")
    assert result.exit_code == 2
    assert "unknown pool 'gevnt'. Did you mean 'gevent'?" in " ".join(result.output.split())
    assert "Known pools: prefork, threads, gevent, eventlet, asyncio, solo, processes, aio." in " ".join(result.output.split())
    assert not ran


def test_missing_pool_library_names_the_extra(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "gevent" else find(name, *rest))
    result = invoke("worker", "-P", "gevent")
    assert result.exit_code == 2
    assert "pip install 'fastq[gevent]'" in result.output
    assert not ran


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["-c", "0"], "0 is not in the range x>=1"),
        (["-c", "many"], "'many' is not a valid integer"),
        (["-l", "loud"], "'loud' is not one of"),
        (["-Q", ","], "names nothing"),
        (["--workdir", "/no/such/folder"], "does not exist"),
        (["--concurency", "3"], "Did you mean"),
        (["--time-limit", "-1"], "is not in the range"),
        (["--time-limit", "5", "--soft-time-limit", "6"], "--soft-time-limit 6 is more than --time-limit 5"),
        (["-O", "best"], "'best' is not one of"),
        (["--disable-prefetch", "--prefetch", "3"], "exclude each other"),
        (["worker.leese=20"], "no setting 'worker_leese' (did you mean 'worker_lease'?)"),
        (["stray"], "'stray': expected a setting and its value"),
    ],
)
def test_wrong_options_say_what_was_seen(ran: Ran, args: list[str], text: str) -> None:
    result = invoke("worker", *args)
    assert result.exit_code == 2
    assert text in " ".join(result.output.split())
    assert "Traceback" not in result.output
    assert not ran


def test_workdir_is_entered_before_the_worker_starts(ran: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(os.getcwd())
    invoke("worker", "--workdir", str(tmp_path))
    assert Path.cwd() == tmp_path


def test_worker_command_imports_no_application(tmp_path: Path) -> None:
    tmp_path.joinpath("tasks.py").write_text("raise SystemExit('imported by the supervisor')\n")
    script = (
        "import sys; from types import SimpleNamespace\n"
        "sys.modules['fastq.worker.supervisor'] = SimpleNamespace(run=lambda options: 3)\n"
        "from fastq.cli import main; main(['worker', '-A', 'tasks'])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "")
