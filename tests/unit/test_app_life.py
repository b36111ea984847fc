"""An application from its making to its end: constructor, signals, modules of tasks, pickling, the command."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastq import FastQ, GroupResult, ResultSet, Signature, Task, shared, shared_task, signals
from fastq.app import TaskRegistry
from fastq.app.annotations import annotate
from fastq.config import SettingWarning
from fastq.exceptions import NotRegistered
from fastq.transports.memory.stores import reset


@pytest.fixture
def app() -> Iterator[FastQ]:
    with FastQ("proj", broker="memory://app-life", set_as_current=False) as app:
        yield app
    reset("app-life")


@pytest.fixture(autouse=True)
def no_shared_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the shared tasks of these tests out of others' applications."""
    monkeypatch.setattr(shared, "_constructors", [])


# --- made ---


def test_parts_of_celery_that_are_not_here_are_a_warning() -> None:
    with pytest.warns(SettingWarning, match=r"FastQ\(loader=...\) means nothing"):
        FastQ(set_as_current=False, loader="x")
    FastQ(set_as_current=False, loader=None, amqp=None)


def test_fixups_are_called_with_the_application() -> None:
    seen: list[Any] = []
    app = FastQ(set_as_current=False, fixups=[seen.append])
    assert seen == [app]


def test_a_registry_can_be_given(app: FastQ) -> None:
    task = app.task(name="given")(print)
    other = FastQ(set_as_current=False, tasks={"given": task})
    assert other.tasks["given"] is task


def test_a_registry_takes_tasks_in_and_out(app: FastQ) -> None:
    registry = TaskRegistry()
    task = app.task(name="x")(print)
    registry.register(task)
    registry.unregister("x")
    with pytest.raises(NotRegistered):
        registry.unregister(task)


def test_without_autofinalize_tasks_are_there_once_finalized() -> None:
    app = FastQ(set_as_current=False, autofinalize=False, broker="memory://app-life")
    task = app.task(name="x")(print)
    for use in (lambda: app.tasks, app.registry, lambda: app.finalize(auto=True)):
        with pytest.raises(RuntimeError, match="Contract breach: app not finalized"):
            use()
    app.finalize()
    assert app.tasks["x"] is task


def test_the_current_application_is_that_of_the_thread() -> None:
    from fastq import current_app

    with FastQ("one") as one, FastQ("two") as two:
        assert current_app == two
        seen: list[bool] = []

        def other() -> None:
            one.set_current()
            seen.append(current_app == one)

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert seen == [True] and current_app == two


def test_built_in_tasks_are_registered_and_not_regular(app: FastQ) -> None:
    app.task(name="mine")(print)
    assert {f"fastq.{name}" for name in ("map", "starmap", "chunks", "chain", "group", "chord", "accumulate")} <= set(app.tasks)
    assert [task.name for task in app.tasks.regular()] == ["mine"]


# --- signals ---


def test_configuration_is_told_once_and_to_those_who_come_late(app: FastQ) -> None:
    told: list[str] = []
    app.conf.timezone = "Europe/Paris"

    @app.on_configure.connect
    def before(sender: FastQ, **kwargs: Any) -> None:
        told.append("configure")

    @app.on_after_configure.connect
    def after(sender: FastQ, source: Any, **kwargs: Any) -> None:
        told.append(source.timezone)

    assert told == []
    app.finalize()
    app.finalize()

    @app.on_after_configure.connect(weak=False)
    def late(sender: FastQ, **kwargs: Any) -> None:
        told.append("late")

    @app.on_after_finalize.connect
    def ended(sender: FastQ, **kwargs: Any) -> None:
        told.append(f"finalize {sender is app}")

    assert told == ["configure", "Europe/Paris", "late", "finalize True"]


def test_sending_configures_too(app: FastQ) -> None:
    told: list[str] = []

    @app.on_after_configure.connect
    def after(**kwargs: Any) -> None:
        told.append("after")

    app.send_task("x")
    app.send_task("y")
    assert told == ["after"]


def test_a_forked_child_is_told(app: FastQ) -> None:
    read, write = os.pipe()

    @app.on_after_fork.connect
    def forked(sender: FastQ, **kwargs: Any) -> None:
        os.write(write, b"forked")

    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        assert pipe.read() == b"forked"


# --- modules ---


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name in ("shop", "mail", "bare"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    for name in ("shop", "mail"):
        (tmp_path / name / "tasks.py").write_text("from fastq import shared_task\n@shared_task\ndef go(): pass\n")
    (tmp_path / "shop" / "jobs.py").write_text("seen = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [one for one in sys.modules if one.partition(".")[0] in ("shop", "mail", "bare", "broken")]:
        del sys.modules[name]


def test_tasks_are_discovered_when_the_application_is_finalized(app: FastQ, packages: Path) -> None:
    app.autodiscover_tasks(["shop", "bare"])
    app.autodiscover_tasks(lambda: ["mail"])
    app.autodiscover_tasks("shop", related_name="jobs")
    assert "shop" not in sys.modules
    app.finalize()
    assert {"shop.tasks.go", "mail.tasks.go"} <= set(app.tasks) and "shop.jobs" in sys.modules


def test_tasks_are_discovered_at_once_by_force_and_after_the_end(app: FastQ, packages: Path) -> None:
    app.autodiscover_tasks(["shop"], force=True)
    assert "shop.tasks" in sys.modules
    app.finalize()
    app.autodiscover_tasks(["mail"])
    assert "mail.tasks" in sys.modules
    app.autodiscover_tasks(["bare"], related_name=None)
    assert "bare" in sys.modules


def test_what_fails_in_a_discovered_module_is_raised(app: FastQ, packages: Path) -> None:
    (packages / "broken").mkdir()
    (packages / "broken" / "__init__.py").write_text("")
    (packages / "broken" / "tasks.py").write_text("import no_such_module_here\n")
    app.autodiscover_tasks(["broken"])
    with pytest.raises(ModuleNotFoundError, match="no_such_module_here"):
        app.finalize()
    other = FastQ(set_as_current=False)
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        other.autodiscover_tasks(["no_such_package"], force=True)


def test_without_a_list_and_without_django_nothing_is_discovered(app: FastQ) -> None:
    app.autodiscover_tasks()
    app.finalize()


def test_receivers_of_import_modules_import_more(app: FastQ) -> None:
    def more(sender: FastQ, **kwargs: Any) -> None:
        sender.task(name="more")(print)

    signals.import_modules.connect(more, sender=app)
    app.finalize()
    signals.import_modules.disconnect(more, sender=app)
    assert "more" in app.tasks


# --- tasks ---


def test_shared_task_applied_twice_is_refused() -> None:
    def f() -> None: ...

    task = shared_task(f)
    with pytest.raises(TypeError, match="is a task already: shared_task is applied to a function, once"):
        shared_task(task)


def test_annotations_change_attributes(app: FastQ) -> None:
    class ByName:
        def annotate(self, task: Task[..., Any]) -> Any:
            return {"rate_limit": "1/s"} if task.name == "a" else None

    a, b = app.task(name="a")(print), app.task(name="b")(print)
    app.conf.task_annotations = [{"*": {"time_limit": 5}, "b": {"queue": "mail"}}, ByName()]
    app.registry()
    assert (a.time_limit, a.rate_limit, b.time_limit, b.rate_limit) == (5, "1/s", 5, None)
    assert b._planned().queue == "mail"
    app.conf.task_annotations = {"a": {"time_limit": 9}}
    assert a._planned() and a.time_limit == 9


def test_attributes_may_come_from_settings(app: FastQ) -> None:
    class Mine(Task[..., Any]):
        flavour: Any = None
        from_config = (("flavour", "my_flavour"),)

    app.conf["my_flavour"] = "mint"
    one, two = app.task(name="one", base=Mine)(print), app.task(name="two", base=Mine, flavour="rum")(print)
    app.registry()
    assert (one.flavour, two.flavour) == ("mint", "rum")  # type: ignore[attr-defined]
    app.conf["my_flavour"] = "lime"
    assert one._planned() and one.flavour == "lime"  # type: ignore[attr-defined]


def test_annotations_may_wrap_a_method(app: FastQ) -> None:
    task = app.task(name="a")(lambda: 1)
    annotate(task, {"a": {"@run": lambda run: lambda: run() + 1}})
    assert task() == 2


def test_runs_are_special_only_where_they_need_be(app: FastQ) -> None:
    class Hooked(Task[..., Any]):
        def on_success(self, *args: Any) -> None: ...

    app.task(name="plain")(print)
    app.task(name="hooked", base=Hooked)(print)
    app.task(name="limited", time_limit=4)(print)
    app.task(name="tracked", track_started=True)(print)
    app.task(name="hooked_too", on_failure=print)(print)
    registry = app.registry()
    names = ("plain", "hooked", "limited", "tracked", "hooked_too")
    special = {name for name in names if registry.get(name).special}  # type: ignore[union-attr]
    assert special == {"hooked", "limited", "tracked", "hooked_too"}
    app.conf.task_soft_time_limit = 3
    app.task(name="late")(print)
    assert app.registry().get("plain").special  # type: ignore[union-attr]


def test_a_backend_of_ones_own(app: FastQ) -> None:
    store = object()
    task = app.task(name="x", backend=store)(print)
    assert task.backend is store and app.task(name="y")(print).backend is app.backend


# --- handles ---


def test_what_an_application_makes_is_its_own(app: FastQ) -> None:
    assert app.AsyncResult("x").app is app
    assert isinstance(app.ResultSet([app.AsyncResult("x")]), ResultSet)
    group = app.GroupResult("g", [app.AsyncResult("x")])
    assert isinstance(group, GroupResult) and group.app is app
    sig = app.signature("add", (1, 2), queue="q")
    assert isinstance(sig, Signature) and sig.app is app
    assert len(app.send_many([sig, sig])) == 2


def test_an_application_can_be_pickled(app: FastQ) -> None:
    app.conf.task_default_queue = "mail"
    copied = pickle.loads(pickle.dumps(app))
    assert (copied.main, copied.conf.task_default_queue, copied.broker_url) == ("proj", "mail", "memory://app-life")
    assert copied is not app


def test_a_bugreport_has_versions_and_no_secrets(app: FastQ) -> None:
    app.conf.broker_url = "redis://:secret@localhost/1"
    text = app.bugreport()
    assert "software -> fastq:" in text and "redis://" in text and "secret" not in text


def test_a_script_is_its_own_command(tmp_path: Path) -> None:
    (tmp_path / "proj.py").write_text(
        "from fastq import FastQ\n"
        "app = FastQ('proj', broker='memory://')\n"
        "@app.task\ndef f(): pass\n"
        "if __name__ == '__main__':\n    app.start()\n"
    )
    root = str(Path(__file__).parents[2])
    env = {**os.environ, "PYTHONPATH": root}
    done = subprocess.run(
        [sys.executable, "proj.py", "call", "proj.f"], cwd=tmp_path, env=env, capture_output=True, text=True, check=False,
        timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.strip()) >= 32


def test_djangos_applications_are_discovered_without_a_list(packages: Path) -> None:
    pytest.importorskip("django")
    (packages / "site_settings.py").write_text("INSTALLED_APPS = ['shop', 'mail.apps.MailConfig', 'bare']\nSECRET_KEY = 'x'\n")
    (packages / "mail" / "apps.py").write_text(
        "from django.apps import AppConfig\nclass MailConfig(AppConfig):\n    name = 'mail'\n"
    )
    code = (
        "from fastq import FastQ\n"
        "app = FastQ('site', broker='memory://')\n"
        "app.autodiscover_tasks()\n"
        "app.finalize()\n"
        "print([task.name for task in app.tasks.regular()])\n"
    )
    root = str(Path(__file__).parents[2])
    env = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{packages}", "DJANGO_SETTINGS_MODULE": "site_settings"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.strip() == "['shop.tasks.go', 'mail.tasks.go']", done.stderr
