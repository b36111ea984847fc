"""Applications and tasks: names, options, arguments, sharing."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import fastq
from fastq import FastQ, Task, current_app, current_task, shared, shared_task
from fastq.config import SettingWarning
from fastq.exceptions import DuplicateTaskNameWarning, ImproperlyConfigured, NotRegistered


@pytest.fixture
def app() -> Iterator[FastQ]:
    with FastQ("proj", broker="memory://app-tasks", set_as_current=False) as app:
        yield app


def add(x: int, y: int = 1) -> int:
    """Add."""
    return x + y


# --- names ---


def test_a_task_is_named_by_its_module_and_function(app: FastQ) -> None:
    task = app.task(add)
    assert task.name == f"{__name__}.add"
    assert task.__name__ == "add" and task.__doc__ == "Add." and task.__module__ == __name__
    assert task.__wrapped__ is add
    assert app.tasks[task.name] is task
    assert app.task(name="short")(add).name == "short"


def test_a_script_names_its_tasks_by_the_application_or_its_file(tmp_path: Path) -> None:
    path = tmp_path / "my_jobs.py"
    for main, expected in (("'given'", "given.work"), ("", "my_jobs.work")):
        path.write_text(f"from fastq import FastQ\napp = FastQ({main})\n@app.task\ndef work(): pass\nprint(work.name)\n")
        for command in ([str(path)], ["-m", "my_jobs"]):
            done = subprocess.run([sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, check=True, env=_env())
            assert done.stdout.strip() == expected


def _env() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(Path(fastq.__file__).parent.parent)}


def test_naming_can_be_overridden() -> None:
    class Named(FastQ):
        def gen_task_name(self, name: str, module: str) -> str:
            return name.upper()

    assert Named(set_as_current=False).task(add).name == "ADD"


def test_of_two_functions_with_one_name_the_first_is_the_task_and_a_reloaded_one_replaces(app: FastQ) -> None:
    first = app.task(name="x")(add)

    def other() -> None: ...

    with pytest.warns(DuplicateTaskNameWarning, match=r"two tasks are named 'x': .*add and .*other; the task is .*add"):
        second = app.task(name="x")(other)
    assert second is first and app.tasks["x"] is first
    again = app.task(name="x")(add)
    assert app.tasks["x"] is again is not first


def test_a_registered_task_replaces_another_of_its_name(app: FastQ) -> None:
    app.task(name="x")(add)

    class Other(Task[[], None]):
        name = "x"

        def run(self) -> None: ...

    with pytest.warns(DuplicateTaskNameWarning, match=r"the task is .*Other"):
        task = app.register_task(Other)
    assert app.tasks["x"] is task


def test_an_unknown_task_is_named_with_a_close_one(app: FastQ) -> None:
    app.task(name="proj.resize")(add)
    with pytest.raises(NotRegistered, match=r"no task named 'proj.resise' is registered.*did you mean 'proj.resize'"):
        app.tasks["proj.resise"]
    assert app.tasks.get("nothing") is None


# --- kinds of tasks ---


def test_called_directly_a_task_is_its_function(app: FastQ) -> None:
    @app.task(bind=True)
    def who(self: Task[..., Any], x: int) -> tuple[Any, ...]:
        return self.name, self.request.called_directly, self.request.id, tuple(self.request.args), bool(current_task), x

    assert app.task(add)(2, y=3) == 5
    assert who(7) == (who.name, True, None, (7,), True, 7)
    assert not current_task
    assert repr(current_task) == "<no current task>"


def test_an_async_task_called_directly_gives_its_coroutine(app: FastQ) -> None:
    import asyncio

    @app.task
    async def double(x: int) -> int:
        return 2 * x

    assert asyncio.run(double(4)) == 8


def test_a_base_class_gives_options_attributes_and_state(app: FastQ) -> None:
    class Counting(Task[..., Any]):
        queue = "counted"
        ignore_result = True

        def __init__(self) -> None:
            self.seen = 0

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            self.seen += 1
            return super().__call__(*args, **kwargs)

    task = app.task(base=Counting, priority=3)(add)
    assert isinstance(task, Counting)
    assert (task.queue, task.priority, task.ignore_result) == ("counted", 3, True)
    assert task(1) == 2 and task.seen == 1
    entry = app.registry().get(task.name)
    assert entry is not None and entry.ignore_result
    assert entry.fn(1) == 2 and task.seen == 2
    with pytest.raises(TypeError, match=r"expected a subclass of fastq.Task"):
        app.task(base=int)(add)


def test_a_class_based_task_is_registered_explicitly(app: FastQ) -> None:
    class Multiply(app.Task):  # type: ignore[name-defined, misc]
        def run(self, x: int, y: int) -> int:
            return x * y

    task = app.register_task(Multiply)
    assert task.name == f"{__name__}.Multiply"
    assert task(3, 4) == 12
    replaced = app.register_task(Multiply())
    assert app.tasks[task.name] is replaced
    with pytest.raises(TypeError, match="missing a required argument: 'y'"):
        replaced.delay(1)


def test_unknown_options_become_attributes_and_close_ones_warn(app: FastQ) -> None:
    assert app.task(name="a", flavour="sweet")(add).flavour == "sweet"  # type: ignore[attr-defined]
    with pytest.warns(UserWarning, match="'ignore_results' means nothing to fastq .did you mean 'ignore_result'"):
        app.task(name="b", ignore_results=True)(add)


def test_the_decorator_refuses_what_is_no_function(app: FastQ) -> None:
    for wrong in (3, "name"):
        with pytest.raises(TypeError, match="takes a function, or keyword options only"):
            app.task(wrong)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="is a task already"):
        app.task(app.task(add))


# --- arguments ---


def test_wrong_arguments_raise_at_the_caller(app: FastQ) -> None:
    task = app.task(name="proj.add")(add)
    for args, kwargs, text in (
        ((), {}, r"proj.add\(\) missing a required argument: 'x'"),
        ((1, 2, 3), {}, r"proj.add\(\) too many positional arguments"),
        ((1,), {"z": 1}, r"proj.add\(\) got an unexpected keyword argument 'z'"),
        ((1,), {"x": 1}, r"proj.add\(\) multiple values for argument 'x'"),
    ):
        with pytest.raises(TypeError, match=text):
            task.delay(*args, **kwargs)
        with pytest.raises(TypeError, match=text):
            task.apply_async(args, kwargs)
    with pytest.raises(TypeError, match=r"call 1: proj.add\(\) missing a required argument: 'x'"):
        task.delay_many([(1,), ()])
    with pytest.raises(TypeError, match="call 0: expected a tuple of arguments, got int: 5"):
        task.delay_many([5])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="args must be a list or tuple of arguments, not str"):
        task.apply_async("ab")
    with pytest.raises(TypeError, match="kwargs must be a mapping"):
        task.apply_async((1,), [1])  # type: ignore[arg-type]


def test_signatures_of_every_kind_are_checked(app: FastQ) -> None:
    @app.task(name="starred")
    def starred(a: int, *rest: int, key: int = 0, **more: int) -> None: ...

    @app.task(name="keyed")
    def keyed(*, key: int) -> None: ...

    @app.task(name="bound", bind=True)
    def bound(self: Any, a: int) -> None: ...

    starred.delay(1, 2, 3, key=4, other=5)
    keyed.delay(key=1)
    bound.delay(1)
    wrong: list[tuple[Task[..., Any], tuple[int, ...]]] = [(starred, ()), (keyed, ()), (keyed, (1,)), (bound, (1, 2))]
    for task, args in wrong:
        with pytest.raises(TypeError):
            task.delay(*args)


def test_checking_can_be_switched_off(app: FastQ) -> None:
    app.task(name="unchecked", typing=False)(add).delay(1, 2, 3, 4)  # type: ignore[call-arg]
    loose = FastQ("loose", broker="memory://app-loose", strict_typing=False, set_as_current=False)
    loose.task(add).delay()  # type: ignore[call-arg]
    loose.close()


# --- current and shared ---


@pytest.fixture
def no_current(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "_current", shared._Current())
    monkeypatch.setattr(shared, "_default", [])
    monkeypatch.setattr(shared, "_constructors", [])


@pytest.mark.usefixtures("no_current")
def test_the_application_made_last_is_current_in_every_thread() -> None:
    first = FastQ("first", broker="memory://")
    assert current_app == first and current_app.main == "first"
    seen: list[str | None] = []
    thread = threading.Thread(target=lambda: seen.append(current_app.main))
    thread.start()
    thread.join()
    assert seen == ["first"]
    second = FastQ("second", set_as_current=False)
    assert current_app.main == "first"
    second.set_current()
    assert current_app.main == "second"
    first.set_default()
    assert current_app.main == "second"
    second.close()
    assert current_app.main == "first"


@pytest.mark.usefixtures("no_current")
def test_without_an_application_one_is_made_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTQ_BROKER_URL", "memory://from-environment")
    assert current_app.broker_url == "memory://from-environment"
    assert current_app._get_current_object() is current_app._get_current_object()  # type: ignore[attr-defined]


@pytest.mark.usefixtures("no_current")
def test_a_shared_task_belongs_to_whichever_application_is_current() -> None:
    @shared_task(queue="library")
    def early(x: int) -> int:
        return x

    one = FastQ("one", broker="memory://")
    assert isinstance(early, Task)
    assert early.name == f"{__name__}.early"
    assert early.app is one and early.queue == "library"
    assert early(3) == 3
    assert early.name in one.tasks
    two = FastQ("two", broker="memory://")
    two.finalize()
    assert two.tasks[early.name] is not one.tasks[early.name]

    @shared_task
    def late() -> None: ...

    assert late.name in two.tasks, "declared after the application was finalized"
    assert late.app is two
    with pytest.raises(TypeError, match="is a task already"):
        shared_task(late)
    with pytest.raises(TypeError, match="takes a function"):
        shared_task("name")  # type: ignore[call-overload]


# --- application ---


def test_keywords_are_settings_and_misspelt_ones_are_refused() -> None:
    app = FastQ("x", broker="memory://", task_default_queue="q", set_as_current=False, changes={"task_default_priority": 2})
    assert (app.conf.task_default_queue, app.conf.task_default_priority) == ("q", 2)
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'brokr'.*did you mean 'broker'"):
        FastQ("x", brokr="memory://")
    with pytest.raises(TypeError, match="name, not list"):
        FastQ(["x"])  # type: ignore[arg-type]


def test_configuration_reaches_tasks_that_were_used_before(app: FastQ) -> None:
    task = app.task(add)
    task.delay(1)
    app.conf.task_default_queue = "moved"
    assert task._planned().queue == "moved"
    task.queue = "own"
    assert task._planned().queue == "own"


def test_config_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    app = FastQ(config_source={"task_default_queue": "source"}, set_as_current=False)
    assert app.conf.task_default_queue == "source"
    app.config_from_object({"FASTQ_TASK_DEFAULT_QUEUE": "spaced"}, namespace="FASTQ")
    assert app.conf.task_default_queue == "spaced"
    with pytest.raises(ImproperlyConfigured, match="MY_CONFIG is not set"):
        app.config_from_envvar("MY_CONFIG")
    assert not app.config_from_envvar("MY_CONFIG", silent=True)
    monkeypatch.setenv("MY_CONFIG", "fastq.config:SETTINGS")
    assert app.config_from_envvar("MY_CONFIG")


def test_naive_times_are_in_the_applications_zone(app: FastQ) -> None:
    assert app.timezone is UTC
    assert app.now().utcoffset() is not None
    app.conf.timezone = "Asia/Tokyo"
    assert app.aware(datetime(2024, 1, 1, 9)) == datetime(2024, 1, 1, tzinfo=UTC)
    app.conf.timezone = "Mars/Olympus"
    with pytest.raises(ImproperlyConfigured, match="'Mars/Olympus': no such zone"):
        _ = app.timezone
    app.conf.update(timezone=None, enable_utc=False)
    assert app.aware(datetime(2024, 1, 1)).utcoffset() == datetime(2024, 1, 1).astimezone().utcoffset()


def test_include_is_imported_once_the_application_is_finalized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "included_tasks.py").write_text("from fastq import shared_task\n@shared_task(name='inc.x')\ndef x(): pass\n")
    (tmp_path / "included_broken.py").write_text("import no_such_library_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(shared, "_constructors", [])
    app = FastQ("x", broker="memory://", include=["included_tasks"], set_as_current=False)
    assert "included_tasks" not in sys.modules
    app.finalize()
    assert "inc.x" in app.registry()
    missing = FastQ("x", include="no_such_module_x", set_as_current=False)
    with pytest.raises(ImproperlyConfigured, match=r"include \(a keyword of FastQ.*names the module 'no_such_module_x'"):
        missing.finalize()
    broken = FastQ("x", include="included_broken", set_as_current=False)
    with pytest.raises(ModuleNotFoundError, match="no_such_library_at_all"):
        broken.finalize()


def test_the_registry_is_frozen_and_made_anew_after_a_late_task(app: FastQ) -> None:
    app.task(name="a")(add)
    app.finalize()
    first = app.registry()
    assert app.registry() is first
    a = first.get("a")

    @app.task(name="b", track_started=True, acks_late=False)
    async def b() -> None: ...

    second = app.registry()
    assert second is not first and "b" not in first
    entry = second.get("b")
    assert a is not None and entry is not None
    assert (entry.is_async, entry.track_started, entry.acks_late, entry.ignore_result) == (True, True, False, False)
    again = second.get("a")
    assert again is not None and again.index == a.index


def test_where_messages_and_results_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "project"
    (project / "deep" / "er").mkdir(parents=True)
    (project / "pyproject.toml").write_text("")
    monkeypatch.chdir(project / "deep" / "er")
    app = FastQ(set_as_current=False)
    assert app.broker_url == f"sqlite:///{project}/fastq.db" and app.broker_is_embedded
    assert app.backend_url == app.broker_url
    for keywords, backend in (
        ({"broker": "redis://h"}, "disabled://"),
        ({"broker": "memory://"}, "memory://"),
        ({"broker": "sqlite:////x.db"}, "sqlite:////x.db"),
        ({"broker": "redis://h", "backend": "redis://i"}, "redis://i"),
        ({"backend": "disabled"}, "disabled://"),
    ):
        app = FastQ(set_as_current=False, **keywords)  # type: ignore[arg-type]
        assert app.backend_url == backend
        assert app.broker_is_embedded is ("broker" not in keywords)
        assert app.keeps_results is (backend != "disabled://")


def test_the_embedded_broker_is_named_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    app = FastQ(set_as_current=False)
    with caplog.at_level("INFO", "fastq.app"):
        _ = app.broker_url, app.backend_url
        app.conf.task_default_queue = "x"
        _ = app.broker_url
    assert [record.message for record in caplog.records] == [
        f"No broker is configured: using the embedded one, sqlite:///{tmp_path}/fastq.db"
    ]


def test_transport_options_follow_the_settings() -> None:
    app = FastQ(
        broker="memory://", set_as_current=False, result_expires=None, task_max_deliveries=5, key_prefix="p:", worker_lease=2.5,
        broker_transport_options={"a": 1},
    )  # fmt: skip
    options = app.transport_options()
    assert (options.result_expires_s, options.max_deliveries, options.prefix, options.lease_ms) == (None, 5, "p:", 2500)
    assert options.extra == {"a": 1}


def test_tasks_and_results_can_be_pickled_and_copied(app: FastQ) -> None:
    task = app.task(name="proj.pickled")(add)
    app.set_current()
    assert pickle.loads(pickle.dumps(task)) is task
    result = app.AsyncResult("an-id")
    assert pickle.loads(pickle.dumps(result)) == result == copy.copy(result)
    assert hash(result) == hash("an-id") and result == "an-id" and str(result) == "an-id"
    assert repr(result) == "<AsyncResult: an-id>"


def test_importing_fastq_imports_no_client_and_starts_nothing() -> None:
    code = (
        "import sys, threading, fastq, logging\n"
        "from fastq import FastQ\n"
        "app = FastQ('x')\n"
        "@app.task\ndef f(): pass\n"
        "heavy = {'redis', 'asyncio', 'sqlite3', 'ssl', 'socket', 'gevent', 'eventlet', 'click', 'rich', 'pickle'}\n"
        "handlers = [logging.getLogger().handlers, logging.getLogger('fastq').handlers]\n"
        "print(sorted(heavy & set(sys.modules)), threading.active_count(), handlers)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_env())
    assert done.stdout.strip() == "[] 1 [[], []]"


def test_the_public_names_are_there() -> None:
    for name in fastq.__all__:
        assert hasattr(fastq, name)


def test_warnings_of_settings_are_their_own_class() -> None:
    assert issubclass(SettingWarning, UserWarning)
