"""``fastq list``, ``report``, ``shell``, ``logtool``, ``events``, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fastq.cli import cli
from fastq.cli.events import _Lines
from fastq.exceptions import FastQError

APP = """\
from fastq import FastQ
from fastq.queues import Queue, Exchange

app = FastQ("shop", broker="{url}", backend="{url}")
app.conf.shop_api_password = "hidden"
app.conf.task_queues = [Queue("default"), Queue("mail", Exchange("post", type="topic"), routing_key="mail.#")]

@app.task(name="add")
def add(x, y):
    return x + y
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    (tmp_path / "small_shop.py").write_text(APP.format(url=f"sqlite:///{tmp_path}/q.db"))
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: str, code: int = 0, input: str | None = None) -> Result:
        result = CliRunner().invoke(cli, ["-A", "small_shop", *arguments], input=input)
        assert result.exit_code == code, result.output
        return result

    yield invoke
    import sys

    sys.modules.pop("small_shop", None)


def test_list_shows_bindings_queues_and_tasks(run) -> None:  # type: ignore[no-untyped-def]
    lines = [line.split() for line in run("list", "bindings").stdout.splitlines()]
    assert lines[0] == ["Queue", "Exchange", "Routing", "Key"]
    assert lines[2:] == [["default", "default(direct)", "default"], ["mail", "post(topic)", "mail.#"]]
    run("call", "add", "-a", "[1, 2]")
    run("call", "add", "-a", "[1, 2]", "--countdown", "100")
    lines = [line.split() for line in run("list", "queues").stdout.splitlines()]
    assert lines[0] == ["Queue", "Ready", "Delayed", "Leased", "Dead"]
    assert lines[2:] == [["default", "1", "1", "0", "0"], ["mail", "0", "0", "0", "0"]]
    assert run("list", "tasks").stdout == "add\n"


def test_report_says_what_is_installed_and_no_secret(run) -> None:  # type: ignore[no-untyped-def]
    out = run("report").stdout
    assert "software -> fastq:" in out and "platform -> " in out and "q.db" in out
    assert "hidden" not in out


def test_shell_runs_a_script_with_the_application_in_it(run) -> None:  # type: ignore[no-untyped-def]
    assert run("shell", input="print(app.name, add(1, 2), chain is fastq.chain)").stdout == "shop 3 True\n"
    run("shell", "-T", input="assert 'add' not in globals()")
    assert "exclude each other" in run("shell", "-I", "--python", code=2).output


LOG = """\
 banner of the worker
[2026-11-21 07:39:27,001: INFO/MainProcess] w1@h ready.
[2026-11-21 07:39:28,001: INFO/ForkPoolWorker-1] Task shop.add[id-1] received
[2026-11-21 07:39:28,002: INFO/ForkPoolWorker-1] Task shop.add[id-1] succeeded in 0.001s: 3
[2026-11-21 07:39:28,003: INFO/ForkPoolWorker-1] Task shop.pay[id-2] received
[2026-11-21 07:39:28,004: ERROR/ForkPoolWorker-1] Task shop.pay[id-2] raised unexpected: ValueError('no')
Traceback (most recent call last):
  File "shop.py", line 3, in pay
ValueError: no
[2026-11-21 07:39:28,005: INFO/ForkPoolWorker-2] Task shop.add[id-3] received
[2026-11-21 07:39:28,006: DEBUG/ForkPoolWorker-2] something small
[2026-11-21 07:39:28,007: INFO/ForkPoolWorker-2] Task shop.add[id-4] received
[2026-11-21 07:39:28,008: INFO/ForkPoolWorker-2] Discarding revoked task: shop.add[id-4]
"""


def test_logtool_counts_and_finds(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "w.log").write_text(LOG)
    out = [line.split() for line in run("logtool", "stats", "w.log").stdout.splitlines()]
    for expected in (["3", "shop.add"], ["1", "shop.pay"], ["1", "succeeded"], ["1", "raised"], ["1", "discarded"], ["1", "ERROR"]):
        assert expected in out
    assert ["1", "not", "(yet)"] in out
    assert "id-3" in run("logtool", "incomplete", "w.log").stdout
    assert run("logtool", "incomplete", "w.log").stdout.count("\n") == 1
    errors = run("logtool", "errors", "w.log").stdout
    assert errors == run("logtool", "traces", input=LOG).stdout
    assert errors.startswith("[2026-11-21 07:39:28,004: ERROR") and errors.endswith("ValueError: no\n")
    assert run("logtool", "debug", "w.log").stdout.endswith("something small\n")


@pytest.mark.parametrize("name", ["amqp", "graph"])
def test_commands_of_celery_without_parts_are_refused_with_the_reason(name: str) -> None:
    result = CliRunner().invoke(cli, [name])
    assert result.exit_code == 2 and "is a command of Celery that fastq does not have" in result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-F", "2"], "--frequency and --maxrate are for pictures"),
        (["--camera", "os.path"], "no camera 'os.path': that is no class"),
        (["--camera", "no_such.Camera"], "No module named 'no_such'"),
        (["--camera", "x.Y", "--dump"], "give one of them"),
    ],
)
def test_events_refuses_what_makes_no_sense(run, arguments: list[str], said: str) -> None:  # type: ignore[no-untyped-def]
    result = CliRunner().invoke(cli, ["-A", "small_shop", "events", *arguments])
    if isinstance(result.exception, FastQError):  # ``main`` makes one line of it
        assert said in str(result.exception)
    else:
        assert result.exit_code == 2 and said in result.output


def test_a_line_of_events_names_the_task_whatever_it_tells_of_it() -> None:
    line = _Lines()
    common = {"timestamp": 0.0, "hostname": "w@h", "uuid": "a1"}
    first = line({"type": "task-received", "name": "shop.add", "args": "(1,)", "root_id": "a1", **common})
    assert first.endswith(" w@h task-received shop.add[a1] args=(1,)")
    last = line({"type": "task-succeeded", "result": "3", "runtime": 0.25, **common})
    assert last.endswith(" w@h task-succeeded shop.add[a1] result=3 runtime=0.25")
    assert line({"type": "task-started", **common, "uuid": "b2", "root_id": "a1"}).endswith(" task-started b2 root_id=a1")
