"""The plugin in projects as users write them, each in an interpreter of its own."""

from __future__ import annotations

import re
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]
PLUGIN = ("-p", "fastq.testing.plugin", "-p", "no:cacheprovider", "-W", "error")

TASKS = """
from fastq import Task, shared_task

@shared_task
def add(x, y):
    return x + y

class Double(Task):
    name = "double"
    def run(self, x):
        return 2 * x
"""


@pytest.fixture(autouse=True)
def only_this_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def run(pytester: pytest.Pytester, *options: str, passed: int) -> None:
    pytester.runpytest_subprocess(*PLUGIN, *options).assert_outcomes(passed=passed)


def test_a_project_tests_its_tasks(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        shop=TASKS,
        conftest="""
        import pytest

        @pytest.fixture(scope="session")
        def fastq_config():
            return {"result_extended": True, "task_default_queue": "shop"}

        @pytest.fixture(scope="session")
        def fastq_includes():
            return ["shop"]

        @pytest.fixture(scope="session")
        def fastq_class_tasks():
            import shop
            return [shop.Double]

        @pytest.fixture(scope="session", params=["solo", "threads", "asyncio"])
        def fastq_worker_pool(request):
            return request.param

        @pytest.fixture(scope="session")
        def fastq_worker_parameters():
            return {"concurrency": 2, "shutdown_timeout": 5}

        @pytest.fixture(scope="session")
        def fastq_parameters():
            return {"strict_typing": False}

        @pytest.fixture(scope="session")
        def fastq_enable_logging():
            return True
        """,
        test_shop="""
        import threading
        from datetime import timedelta

        import pytest
        from fastq import current_app

        def test_shared_and_class_based_tasks(fastq_app, fastq_worker, fastq_worker_pool, caplog):
            from shop import add
            assert current_app == fastq_app and not fastq_app.strict_typing
            assert add.delay(2, 2).get(timeout=10) == 4
            assert fastq_app.tasks["double"].delay(4).get(timeout=10) == 8
            assert fastq_worker.queues == ("shop",) and fastq_worker.pool == fastq_worker_pool
            assert "received" in caplog.text

        def test_each_test_has_a_broker_of_its_own(fastq_app):
            from shop import add
            assert fastq_app.broker_url.startswith("memory://test-")
            add.delay(1, 1)  # nobody ever runs it

        def test_a_task_of_the_test(fastq_app, fastq_worker):
            @fastq_app.task
            def mul(x, y):
                return x * y
            fastq_worker.reload()
            result = mul.delay(4, 4)
            assert result.get(timeout=10) == 16
            assert result.name == mul.name

        @pytest.mark.fastq(result_backend="disabled", task_ignore_result=True)
        def test_settings_of_one_test(fastq_app):
            assert fastq_app.conf.task_ignore_result and not fastq_app.keeps_results

        def test_the_clock(fastq_app, fastq_clock, fastq_worker):
            ran = []

            @fastq_app.task
            def later():
                ran.append(fastq_clock.now())

            due = fastq_clock.now() + timedelta(hours=2)
            later.apply_async(eta=due)
            fastq_clock.advance(hours=3)
            assert ran == [due]
        """,
        test_session="""
        import threading

        apps = []

        def test_one(fastq_session_app, fastq_session_worker):
            from shop import add
            apps.append(fastq_session_app)
            assert add.delay(1, 2).get(timeout=10) == 3

        def test_two(fastq_session_app, fastq_session_worker):
            apps.append(fastq_session_app)
            assert fastq_session_worker.is_alive() and apps[-1] is apps[0]
        """,
    )
    run(pytester, passed=3 * 5 + 2)  # five of them once for each pool


def test_an_existing_test_suite_runs_by_the_names_of_celery(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        shop=TASKS,
        conftest="""
        import pytest

        @pytest.fixture(scope="session")
        def celery_config():
            return {"broker_url": "memory://", "result_backend": "cache+memory://", "task_default_queue": "shop"}

        @pytest.fixture(scope="session")
        def celery_includes():
            return ["shop"]

        @pytest.fixture(scope="session")
        def celery_worker_parameters():
            return {"queues": ("shop", "high-prio"), "perform_ping_check": False, "without_heartbeat": True}

        @pytest.fixture(scope="session")
        def celery_worker_pool():
            return "threads"
        """,
        test_shop="""
        import pytest

        def test_create_task(celery_app, celery_worker):
            @celery_app.task
            def mul(x, y):
                return x * y
            celery_worker.reload()
            assert mul.delay(4, 4).get(timeout=10) == 16
            assert celery_worker.queues == ("shop", "high-prio")
            assert celery_worker.pool == "threads"

        @pytest.mark.celery(result_extended=True)
        def test_marker(celery_app):
            assert celery_app.conf.result_extended and celery_app.conf.task_default_queue == "shop"
            assert celery_app.backend_url == celery_app.broker_url != "memory://"

        @pytest.mark.usefixtures("celery_session_app", "celery_session_worker")
        class TestSession:
            def test_shared(self):
                from shop import add
                assert add.delay(3, 4).get(timeout=10) == 7

        @pytest.mark.usefixtures("depends_on_current_app")
        def test_current(celery_app):
            from fastq import current_app
            assert current_app == celery_app
        """,
        test_own_app="""
        import pytest
        from fastq import FastQ

        @pytest.fixture
        def celery_app():
            app = FastQ("own", broker="memory://own-of-this-project")
            yield app
            app.close()

        def test_the_worker_serves_the_projects_own_application(celery_app, celery_worker):
            assert celery_worker.app is celery_app and celery_worker.app.main == "own"
        """,
    )
    run(pytester, passed=5)


def test_where_celerys_plugin_is_loaded_its_names_stay_its_own(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        celery_stand_in="""
        import pytest

        @pytest.fixture(scope="session")
        def celery_config():
            return {"task_default_queue": "of celery"}

        @pytest.fixture
        def celery_app():
            return "celery's"
        """,
        loader="""
        import celery_stand_in

        def pytest_load_initial_conftests(early_config):
            early_config.pluginmanager.register(celery_stand_in, "celery.contrib.pytest")
        """,
        test_both="""
        def test_both(celery_app, fastq_app):
            assert celery_app == "celery's"
            assert fastq_app.conf.task_default_queue != "of celery"
        """,
    )
    run(pytester, "-p", "loader", passed=1)


def test_the_trap_tells_who_depends_on_the_current_application(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        conftest="""
        import pytest

        @pytest.fixture(scope="session")
        def use_fastq_app_trap():
            return True
        """,
        test_trap="""
        import pytest
        from fastq import current_app

        def test_trapped(fastq_app):
            with pytest.raises(RuntimeError, match="current_app.conf was used"):
                current_app.conf

        def test_allowed(fastq_app, depends_on_current_app):
            assert current_app == fastq_app
        """,
    )
    run(pytester, passed=2)


def test_a_worker_that_cannot_stop_fails_the_test_that_left_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        conftest="""
        import pytest

        @pytest.fixture(scope="session")
        def fastq_worker_parameters():
            return {"shutdown_timeout": 0.05}
        """,
        test_stuck="""
        import threading, time

        def test_stuck(fastq_app, fastq_worker):
            begun = threading.Event()

            @fastq_app.task
            def stuck():
                begun.set()
                while True:
                    time.sleep(0.01)

            stuck.delay()
            assert begun.wait(10)

        def test_the_next_one_is_well(fastq_app, fastq_worker):
            assert threading.active_count() < 6
        """,
    )
    result = pytester.runpytest_subprocess(*PLUGIN)
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*RuntimeError: the worker * did not stop within 0.05 s*stuck*"])


def test_loading_the_plugin_imports_neither_the_application_nor_the_worker(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_quick(request):
            assert request.config.pluginmanager.hasplugin("fastq.testing.plugin")
            loaded = {name for name in sys.modules if name.split(".")[0] == "fastq"}
            assert not any(name.startswith(("fastq.worker", "fastq.transports", "fastq.pools", "fastq.canvas")) for name in loaded)
            assert {name for name in loaded if name.startswith("fastq.testing")} == {
                "fastq.testing", "fastq.testing.plugin", "fastq.testing.celery_names"
            }
        """
    )
    run(pytester, passed=1)


@pytest.mark.parametrize("named", [False, True], ids=["by itself", "and named beside it"])
def test_pytest_finds_it_by_its_entry_point(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    ((name, module),) = project["entry-points"]["pytest11"].items()
    assert import_module(module)
    assert project["optional-dependencies"]["pytest"]
    # the distribution as it is once installed, whichever way this tree is
    info = pytester.mkdir("fastq_plugin-1.dist-info")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fastq-plugin\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[pytest11]\n{name} = {module}\n")
    monkeypatch.setenv("PYTHONPATH", str(pytester.path), prepend=":")
    monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    pytester.makepyfile("def test_app(fastq_app, celery_app):\n    assert fastq_app is celery_app")
    options = PLUGIN if named else PLUGIN[2:]
    pytester.runpytest_subprocess(*options).assert_outcomes(passed=1)


def test_the_examples_of_the_page_run(pytester: pytest.Pytester) -> None:
    page = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
    files = dict(re.findall(r"```python\n# (\w+)\.py\n(.*?)```", page, flags=re.DOTALL))
    assert len(files) == page.count("```python")
    pytester.makepyfile(**files)
    run(pytester, passed=sum(text.count("def test_") for text in files.values()) + 2)  # one of them for three pools
