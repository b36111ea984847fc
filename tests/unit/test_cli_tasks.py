"""``fastq call``, ``result`` and ``purge`` against the embedded broker, without a worker."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fastq._core import encode_result, packb, peek
from fastq.app import FastQ
from fastq.cli import cli
from fastq.finding import find_app
from fastq.queues import Exchange, Queue
from fastq.records import StoredResult
from fastq.transports import open_inspector

TASKS = """
from fastq import FastQ

app = FastQ("proj", broker="sqlite:///{folder}/queue.db")

@app.task
def add(x: int, y: int = 0) -> int:
    return x + y
"""

Invoke = Callable[..., Result]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A folder with one application in it, whose module is gone after the test; gives the module's name."""
    module = f"proj_{uuid.uuid4().hex[:8]}"
    tmp_path.joinpath(f"{module}.py").write_text(TASKS.format(folder=tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield module
    loaded = sys.modules.pop(module, None)
    if loaded is not None:
        loaded.app.close()


@pytest.fixture
def app(project: str, tmp_path: Path) -> FastQ:
    return find_app(project, str(tmp_path))


@pytest.fixture
def fastq(project: str) -> Invoke:
    def invoke(*args: str, **options: str) -> Result:
        return CliRunner().invoke(cli, ["-A", project, *args], prog_name="fastq", **options)  # type: ignore[arg-type]

    return invoke


def waiting(app: FastQ, queue: str = "default") -> list[bytes]:
    inspector = open_inspector(app.broker_url, app.transport_options())
    try:
        return inspector.peek(queue, 100)
    finally:
        inspector.close()


def depth(app: FastQ, queue: str = "default") -> tuple[int, int]:
    inspector = open_inspector(app.broker_url, app.transport_options())
    try:
        counts = inspector.depth(queue)
    finally:
        inspector.close()
    return counts["ready"], counts["delayed"]


def store(app: FastQ, state: str, content: object, traceback: str | None = None) -> str:
    backend = app.open_backend()
    assert backend is not None
    task_id = str(uuid.uuid4())
    record = encode_result(state, "application/x-msgpack", packb(content), traceback, 1, None)
    backend.store([StoredResult(task_id, record)])
    backend.close()
    return task_id


def test_call_prints_the_id_of_what_it_sent(project: str, app: FastQ, fastq: Invoke) -> None:
    result = fastq("call", f"{project}.add", "-a", "[1]", "-k", '{"y": 2}')
    assert result.exit_code == 0, result.output
    (message,) = waiting(app)
    sent = peek(message)
    assert result.stdout == f"{sent.id}\n"
    assert sent.name == f"{project}.add"
    assert app.serializers.loads(sent.content_type, sent.body) == [[1], {"y": 2}]


def test_call_sends_a_task_of_another_application_and_says_so(app: FastQ, fastq: Invoke) -> None:
    result = fastq("call", "elsewhere.task", "--queue", "other", "--serializer", "json")
    assert result.exit_code == 0, result.output
    assert "'elsewhere.task' is not a task of 'proj'" in result.stderr
    (message,) = waiting(app, "other")
    assert peek(message).content_type == "application/json"


def test_call_refuses_arguments_that_do_not_fit(project: str, app: FastQ, fastq: Invoke) -> None:
    result = fastq("call", f"{project}.add", "-a", "[1]", "-k", '{"z": 2}')
    assert result.exit_code == 2
    assert "Error:" in result.output and "'z'" in result.output and "Traceback" not in result.output
    assert depth(app) == (0, 0)


def test_call_delays_by_countdown_and_by_eta(project: str, app: FastQ, fastq: Invoke) -> None:
    eta = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    assert fastq("call", f"{project}.add", "-a", "[1]", "--countdown", "3600").exit_code == 0
    assert fastq("call", f"{project}.add", "-a", "[1]", "--eta", eta).exit_code == 0
    assert depth(app) == (0, 2)


@pytest.mark.parametrize("written", ["seconds", "time"])
def test_call_takes_expires_as_seconds_or_time(project: str, app: FastQ, fastq: Invoke, written: str) -> None:
    expires = "3600" if written == "seconds" else (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    result = fastq("call", f"{project}.add", "-a", "[1]", "--expires", expires)
    assert result.exit_code == 0, result.output
    (message,) = waiting(app)
    sent = peek(message)
    assert 3500_000 < sent.expires_ms - sent.enqueued_ms <= 3600_000


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["-a", "[1"], "'[1' is not JSON"),
        (["-a", '{"x": 1}'], "is not a JSON array"),
        (["-k", "[1]"], "is not a JSON object"),
        (["--eta", "tomorrow"], "'tomorrow' is not an ISO 8601 time"),
        (["--expires", "soon"], "'soon' is not a number of seconds or an ISO 8601 time"),
        (["--priority", "10"], "10 is not in the range 0<=x<=9"),
        (["--countdown", "-1"], "-1.0 is not in the range x>=0"),
        (["--eta", "2030-01-01", "--countdown", "1"], "--eta and --countdown exclude each other"),
        (["--serializer", "msgpak"], "msgpak"),
    ],
)
def test_call_says_what_is_wrong_with_an_option(project: str, app: FastQ, fastq: Invoke, args: list[str], text: str) -> None:
    result = fastq("call", f"{project}.add", "-a", "[1]", *args)
    assert result.exit_code == 2, result.output
    assert text in " ".join(result.output.split())
    assert "Traceback" not in result.output
    assert depth(app) == (0, 0)


def test_call_chooses_queues_by_exchange_and_key(fastq: Invoke, app: FastQ) -> None:
    app.conf.task_queues = [Queue("a", Exchange("x", "topic"), "a.#"), Queue("b", Exchange("x", "topic"), "b.#")]
    assert fastq("call", "x", "--exchange", "x", "--routing-key", "b.c").exit_code == 0
    assert (len(waiting(app, "a")), len(waiting(app, "b"))) == (0, 1)
    result = fastq("call", "x", "--exchange", "x", "--routing-key", "c")
    assert result.exit_code == 2 and "none of its queues takes" in result.output


def test_broker_option_wins_over_the_application(project: str, tmp_path: Path, fastq: Invoke) -> None:
    other = f"sqlite:///{tmp_path}/other.db"
    assert fastq("-b", other, "call", f"{project}.add", "-a", "[1]").exit_code == 0
    assert len(waiting(FastQ("other", broker=other))) == 1
    assert not tmp_path.joinpath("queue.db").exists()


def test_no_application_is_one_clear_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, ["call", "x"])
    assert result.exit_code == 2
    assert result.output.startswith("Error: ")
    result = CliRunner().invoke(cli, ["-A", "no_such_module_here", "call", "x"])
    assert result.exit_code == 2
    assert "no_such_module_here" in result.output


def test_result_prints_what_the_task_returned(app: FastQ, fastq: Invoke) -> None:
    assert fastq("result", store(app, "SUCCESS", {"x": [1, "a"]})).stdout == "{'x': [1, 'a']}\n"
    assert fastq("result", store(app, "SUCCESS", "text")).stdout == "text\n"


def test_result_of_a_failed_task_exits_with_1(app: FastQ, fastq: Invoke) -> None:
    try:
        raise ValueError("too bad")
    except ValueError as exc:
        # lazy: the exception must exist first
        from fastq.remote import encode_exception

        content_type, body, text = encode_exception(exc, app.serializers)
    task_id = str(uuid.uuid4())
    backend = app.open_backend()
    assert backend is not None
    backend.store([StoredResult(task_id, encode_result("FAILURE", content_type, body, text, 1, None))])
    backend.close()
    result = fastq("result", task_id)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"Error: task {task_id} ended as FAILURE: ValueError: too bad\n"
    with_traceback = fastq("result", task_id, "--traceback")
    assert with_traceback.exit_code == 1
    assert 'raise ValueError("too bad")' in with_traceback.stdout


def test_result_that_does_not_come_in_time(fastq: Invoke) -> None:
    result = fastq("-q", "result", str(uuid.uuid4()), "--timeout", "0.05")
    assert result.exit_code == 1
    assert result.output == "Error: The operation timed out.\n"


def test_result_without_a_backend_says_so(project: str, fastq: Invoke) -> None:
    result = fastq("result", str(uuid.uuid4()), "--result-backend", "disabled://")
    assert result.exit_code in (1, 2)
    assert "result" in result.output and result.output.startswith("Error: ")


def fill(fastq: Invoke) -> None:
    for queue in ("a", "a", "b"):
        assert fastq("call", "x", "--queue", queue).exit_code == 0
    assert fastq("call", "x", "--queue", "b", "--countdown", "3600").exit_code == 0


def test_purge_asks_first_and_names_what_it_would_drop(app: FastQ, fastq: Invoke) -> None:
    fill(fastq)
    result = fastq("purge", input="n\n")
    assert result.exit_code == 1
    assert "a: 2 ready, 0 delayed" in result.output
    assert "b: 1 ready, 1 delayed" in result.output
    assert (depth(app, "a"), depth(app, "b")) == ((2, 0), (1, 1))


def test_purge_says_how_many_it_dropped(app: FastQ, fastq: Invoke) -> None:
    fill(fastq)
    result = fastq("purge", input="y\n")
    assert result.exit_code == 0
    assert "Purged 4 messages from 2 queues." in result.output
    assert (depth(app, "a"), depth(app, "b")) == ((0, 0), (0, 0))


def test_purge_does_not_ask_about_nothing(fastq: Invoke) -> None:
    assert fastq("purge").output.startswith("No queues to purge on sqlite://")
    fill(fastq)
    assert fastq("purge", "-f").exit_code == 0
    result = fastq("purge")
    assert result.exit_code == 0
    assert result.output.startswith("No messages wait on sqlite://") and "(in a, b)" in result.output


def test_purge_touches_only_the_chosen_queues(app: FastQ, fastq: Invoke) -> None:
    fill(fastq)
    assert fastq("purge", "-f", "-X", "b").output == "Purged 2 messages from 1 queue.\n"
    assert depth(app, "b") == (1, 1)
    assert fastq("purge", "-f", "-Q", "b").output == "Purged 2 messages from 1 queue.\n"


def test_a_mistake_in_the_users_module_is_shown_without_how_we_came_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.joinpath("broken_app.py").write_text("import not_installed_anywhere\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    result = CliRunner().invoke(cli, ["-A", "broken_app", "call", "x"], prog_name="fastq")
    assert result.exit_code == 1
    lines = result.output.splitlines()
    assert lines[0] == "Error: the application cannot be loaded."
    assert lines[2] == f'  File "{tmp_path}/broken_app.py", line 1, in <module>'
    assert lines[-1] == "ModuleNotFoundError: No module named 'not_installed_anywhere'"


def test_call_knows_the_tasks_of_included_modules(project: str, app: FastQ, fastq: Invoke, tmp_path: Path) -> None:
    extra = f"extra_{project}"
    code = f"from {project} import app\n@app.task(name='extra', queue='else')\ndef extra(): ...\n"
    tmp_path.joinpath(f"{extra}.py").write_text(code)
    app.conf.include = (extra,)
    result = fastq("call", "extra")
    assert result.exit_code == 0 and "not a task" not in result.output, result.output
    assert depth(app) == (0, 0) and len(waiting(app, "else")) == 1
