"""``fastq config`` and ``fastq upgrade``."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fastq.cli import cli

APP = """
from fastq import FastQ

app = FastQ("proj", broker="redis://:hunter2@localhost/0", worker_lease=20, set_as_current=False)
app.conf.update(CELERYD_PREFETCH_MULTIPLIER=1, my_own="mine")
"""

Invoke = Callable[..., Result]


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Invoke]:
    module = f"proj_{uuid.uuid4().hex[:8]}"
    tmp_path.joinpath(f"{module}.py").write_text(APP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def run(*args: str) -> Result:
        return CliRunner().invoke(cli, ["-A", module, *args], prog_name="fastq")

    yield run
    sys.modules.pop(module, None)


def line(result: Result, name: str) -> str:
    (found,) = (line for line in result.stdout.splitlines() if line.split()[:1] == [name])
    return " ".join(found.split())


def test_each_value_is_shown_with_its_place(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTQ_TASK_DEFAULT_QUEUE", "other")
    result = invoke("--result-backend", "redis://:hunter2@r", "config")
    assert result.exit_code == 0, result.output
    assert line(result, "worker_lease") == "worker_lease 20.0 a keyword of FastQ(...)"
    assert line(result, "task_default_queue") == "task_default_queue 'other' environment FASTQ_TASK_DEFAULT_QUEUE"
    assert line(result, "result_backend") == "result_backend 'redis://:**@r' the command line"
    assert line(result, "task_acks_late") == "task_acks_late True default"
    assert line(result, "my_own") == "my_own 'mine' app.conf"
    assert "hunter2" not in result.output


def test_what_is_accepted_only_is_marked_and_left_out_unless_set(invoke: Invoke) -> None:
    result = invoke("config")
    assert "app.conf; accepted, nothing to set: how much a process holds" in line(result, "worker_prefetch_multiplier")
    assert "broker_pool_limit" not in result.stdout
    assert "are left out (--all shows them)" in result.stderr
    assert "default; accepted, nothing to set" in line(invoke("config", "--all"), "broker_pool_limit")
    assert "accepted" in line(invoke("config", "BROKER_POOL_LIMIT"), "broker_pool_limit")


def test_values_for_programs(invoke: Invoke) -> None:
    shown = json.loads(invoke("config", "--json", "--changed").stdout)
    assert shown["worker_lease"] == {"value": 20.0, "from": "a keyword of FastQ(...)"}
    assert shown["broker_url"]["value"] == "redis://:**@localhost/0"
    assert shown["worker_prefetch_multiplier"]["accepted"]
    assert "task_acks_late" not in shown
    assert set(json.loads(invoke("config", "--json", "--all").stdout)) > set(shown)


def test_names_choose_what_is_shown(invoke: Invoke) -> None:
    assert set(json.loads(invoke("config", "--json", "worker_l*", "CELERY_ACKS_LATE").stdout)) >= {"worker_lease", "task_acks_late"}
    result = invoke("config", "worker_leese")
    assert result.exit_code == 2
    assert result.stderr == "Error: there is no setting 'worker_leese' (did you mean 'worker_lease'?)\n"


def test_a_config_module_can_be_named_before_the_command(invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTQ_CONFIG_MODULE", "")  # put back afterwards
    module = f"conf_{uuid.uuid4().hex[:8]}"
    tmp_path.joinpath(f"{module}.py").write_text("task_default_queue = 'named'\n")
    result = invoke("--config", module, "--loader", "x", "config", "task_default_queue")
    sys.modules.pop(module, None)
    assert line(result, "task_default_queue") == f"task_default_queue 'named' config object {module}"


# --- upgrade ---

OLD = """\
# The settings of Celery 3\u00e9.
import os
from other import CELERY_IMPORTS

BROKER_URL = os.environ.get('CELERY_RESULT_BACKEND', "redis://h")   # keep me
BROKER_POOL_LIMIT: int = 3
if BROKER_URL:
    CELERYD_CONCURRENCY = 4; CELERY_TASK_RESULT_EXPIRES = 60
CELERY_ACCEPT_CONTENT = ['json']
\u00e9 = CELERY_ACCEPT_CONTENT
DEBUG = True

class Config:
    CELERY_ACKS_LATE = True

task_serializer = "json"
CELERY_TASK_SERIALIZER = "json"
app.conf.update(CELERY_ROUTES={}, **{'CELERYBEAT_SCHEDULE': {}, "BROKER_URL": BROKER_URL})
app.conf.CELERY_ALWAYS_EAGER = app.conf['CELERY_QUEUES']
os.environ.update({'CELERY_RESULT_BACKEND': 'x'}, CELERY_RESULT_BACKEND='x')
print("CELERY_RESULT_BACKEND is text")
"""

NEW = """\
# The settings of Celery 3\u00e9.
import os
from other import CELERY_IMPORTS

broker_url = os.environ.get('CELERY_RESULT_BACKEND', "redis://h")   # keep me
broker_pool_limit: int = 3
if broker_url:
    worker_concurrency = 4; result_expires = 60
accept_content = ['json']
\u00e9 = accept_content
DEBUG = True

class Config:
    task_acks_late = True

task_serializer = "json"
CELERY_TASK_SERIALIZER = "json"
app.conf.update(task_routes={}, **{'beat_schedule': {}, "broker_url": broker_url})
app.conf.task_always_eager = app.conf['task_queues']
os.environ.update({'CELERY_RESULT_BACKEND': 'x'}, CELERY_RESULT_BACKEND='x')
print("CELERY_RESULT_BACKEND is text")
"""


def upgrade(*args: str) -> Result:
    return CliRunner().invoke(cli, ["upgrade", "settings", *args], prog_name="fastq")


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_old_names_become_new_ones_and_nothing_else_changes(tmp_path: Path, ends: str) -> None:
    path = tmp_path / "celeryconfig.py"
    path.write_bytes(OLD.replace("\n", ends).encode())
    path.chmod(0o640)
    result = upgrade(str(path))
    assert result.exit_code == 0, result.output
    assert path.read_bytes() == NEW.replace("\n", ends).encode()
    assert path.with_name("celeryconfig.py.orig").read_bytes() == OLD.replace("\n", ends).encode()
    assert path.stat().st_mode & 0o777 == 0o640
    assert f"{path}:5: BROKER_URL -> broker_url\n" in result.stdout
    assert f"{path}:6: BROKER_POOL_LIMIT -> broker_pool_limit (accepted, nothing to set: " in result.stdout
    assert f"{path}:3: CELERY_IMPORTS stays: it is imported" in result.stdout
    assert "CELERY_TASK_SERIALIZER stays: task_serializer stands in the file too" in result.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == ["celeryconfig.py", "celeryconfig.py.orig"]


def test_an_upgraded_file_needs_no_second_upgrade(tmp_path: Path) -> None:
    path = tmp_path / "conf.py"
    path.write_text("BROKER_URL = 1\n")
    upgrade(str(path), "--no-backup")
    result = upgrade(str(path))
    assert result.stdout == f"Nothing to change in {path}.\n"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("flag", ["--django", "--compat"])
def test_names_of_a_namespace_keep_it(tmp_path: Path, flag: str) -> None:
    path = tmp_path / "settings.py"
    path.write_text("BROKER_URL = 'x'\nCELERY_RESULT_BACKEND = 'y'\nCELERYD_CONCURRENCY = 3\nCELERY_TASK_TIME_LIMIT = 5\n")
    upgrade(str(path), flag)
    assert path.read_text() == (
        "CELERY_BROKER_URL = 'x'\nCELERY_RESULT_BACKEND = 'y'\nCELERY_WORKER_CONCURRENCY = 3\nCELERY_TASK_TIME_LIMIT = 5\n"
    )


def test_an_earlier_backup_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "conf.py"
    path.write_text("BROKER_URL = 1\n")
    path.with_name("conf.py.orig").write_text("precious")
    assert upgrade(str(path)).stderr == f"The old file is kept as {path}.orig2.\n"
    assert path.with_name("conf.py.orig").read_text() == "precious"
    assert path.with_name("conf.py.orig2").read_text() == "BROKER_URL = 1\n"


def test_a_file_that_is_not_python_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "conf.py"
    path.write_text("BROKER_URL = \n")
    result = upgrade(str(path))
    assert result.exit_code == 2
    assert result.stderr == f"Error: {path}, line 1: this is not Python: invalid syntax\n"
    assert path.read_text() == "BROKER_URL = \n"
    path.write_bytes(b"# coding: nonsense\nBROKER_URL = 1\n")
    assert upgrade(str(path)).exit_code == 2


def test_the_encoding_of_a_file_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "conf.py"
    path.write_bytes("# coding: latin-1\nx = '\u00e9'; BROKER_URL = 1\n".encode("latin-1"))
    upgrade(str(path))
    assert path.read_bytes() == "# coding: latin-1\nx = '\u00e9'; broker_url = 1\n".encode("latin-1")
