"""The plugin for pytest: fixtures for an application, a worker inside the process and a clock, and the marker ``fastq``.

pytest finds it by its entry point. To be loaded costs next to nothing: fastq itself is imported when a fixture is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from fastq.app import FastQ
    from fastq.testing.clock import Clock
    from fastq.testing.worker import InProcessWorker

#: Celery's plugin: where it is loaded its fixtures keep their names
_CELERY_PLUGINS = ("celery", "celery.contrib.pytest")
_CELERY_NAMES = "fastq.testing.celery_names"


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker, and take Celery's names for the fixtures where nobody else has them."""
    config.addinivalue_line("markers", "fastq(**settings): settings of the application that the fixture fastq_app makes")
    plugins = config.pluginmanager
    if not any(plugins.hasplugin(name) for name in (*_CELERY_PLUGINS, _CELERY_NAMES)):
        config.addinivalue_line("markers", "celery(**settings): the same for celery_app, as Celery's plugin has it")
        plugins.import_plugin(_CELERY_NAMES)


def has_celery_names(config: pytest.Config) -> bool:
    return bool(config.pluginmanager.hasplugin(_CELERY_NAMES))


def _default(request: pytest.FixtureRequest, name: str, otherwise: Any) -> Any:
    """Return what a project that comes from Celery says by the fixture of that name."""
    return request.getfixturevalue(name) if has_celery_names(request.config) else otherwise


# --- to be overridden by a project ---


@pytest.fixture(scope="session")
def fastq_config(request: pytest.FixtureRequest) -> Mapping[str, Any]:
    """Override it to give the test applications settings: a mapping of names to values."""
    return dict(_default(request, "celery_config", {}))


@pytest.fixture(scope="session")
def fastq_parameters(request: pytest.FixtureRequest) -> Mapping[str, Any]:
    """Override it to give the test applications further arguments of ``FastQ``."""
    return dict(_default(request, "celery_parameters", {}))


@pytest.fixture(scope="session")
def fastq_includes(request: pytest.FixtureRequest) -> Sequence[str]:
    """Override it to name the modules that a worker imports when it starts."""
    return tuple(_default(request, "celery_includes", ()))


@pytest.fixture(scope="session")
def fastq_worker_parameters(request: pytest.FixtureRequest) -> Mapping[str, Any]:
    """Override it to give the workers further arguments of ``start_worker``."""
    return dict(_default(request, "celery_worker_parameters", {}))


@pytest.fixture(scope="session")
def fastq_worker_pool(request: pytest.FixtureRequest) -> str:
    """Override it to choose the workers' pool."""
    return str(_default(request, "celery_worker_pool", "solo"))


@pytest.fixture(scope="session")
def fastq_enable_logging(request: pytest.FixtureRequest) -> bool:
    """Override it with True to see what the workers log, from INFO on, among a failed test's captured log."""
    return bool(_default(request, "celery_enable_logging", False))


@pytest.fixture(scope="session")
def fastq_class_tasks(request: pytest.FixtureRequest) -> Sequence[Any]:
    """Override it to name class-based tasks that are registered when a worker starts."""
    return tuple(_default(request, "celery_class_tasks", ()))


@pytest.fixture(scope="session")
def use_fastq_app_trap(request: pytest.FixtureRequest) -> bool:
    """Override it with True to have every use of ``current_app`` fail, except in tests that ask for depends_on_current_app."""
    return bool(_default(request, "use_celery_app_trap", False))


# --- to be used by tests ---


@pytest.fixture(scope="session")
def fastq_session_app(
    request: pytest.FixtureRequest,
    fastq_config: Mapping[str, Any],
    fastq_parameters: Mapping[str, Any],
    use_fastq_app_trap: bool,
) -> Iterator[FastQ]:
    """One application for all tests."""
    yield from _app(request, "fastq.tests.session", fastq_config, fastq_parameters, use_fastq_app_trap)


@pytest.fixture
def fastq_app(
    request: pytest.FixtureRequest,
    fastq_config: Mapping[str, Any],
    fastq_parameters: Mapping[str, Any],
    use_fastq_app_trap: bool,
) -> Iterator[FastQ]:
    """An application of this test's own. ``@pytest.mark.fastq(result_backend=...)`` gives it settings."""
    yield from _app(request, "fastq.tests", fastq_config, fastq_parameters, use_fastq_app_trap)


@pytest.fixture(scope="session")
def fastq_session_worker(
    fastq_session_app: FastQ,
    fastq_includes: Sequence[str],
    fastq_class_tasks: Sequence[Any],
    fastq_worker_pool: str,
    fastq_worker_parameters: Mapping[str, Any],
    fastq_enable_logging: bool,
) -> Iterator[InProcessWorker]:
    """One worker for all tests, of ``fastq_session_app``."""
    yield from run_worker(
        fastq_session_app, fastq_includes, fastq_class_tasks, fastq_worker_pool, fastq_worker_parameters, fastq_enable_logging
    )


@pytest.fixture
def fastq_worker(
    fastq_app: FastQ,
    fastq_includes: Sequence[str],
    fastq_class_tasks: Sequence[Any],
    fastq_worker_pool: str,
    fastq_worker_parameters: Mapping[str, Any],
    fastq_enable_logging: bool,
) -> Iterator[InProcessWorker]:
    """A worker of this test's own, of ``fastq_app``."""
    yield from run_worker(
        fastq_app, fastq_includes, fastq_class_tasks, fastq_worker_pool, fastq_worker_parameters, fastq_enable_logging
    )


@pytest.fixture
def fastq_clock(fastq_app: FastQ) -> Iterator[Clock]:
    """The time of ``fastq_app``'s memory broker: it stands still until ``fastq_clock.advance(hours=3)``."""
    from fastq.testing.clock import app_clock  # lazy: only where the fixture is used

    with app_clock(fastq_app) as clock:
        yield clock


@pytest.fixture
def depends_on_current_app(fastq_app: FastQ) -> None:
    """Make ``fastq_app`` the current application, whatever ``use_fastq_app_trap`` says."""
    fastq_app.set_current()


# --- how ---


def _app(
    request: pytest.FixtureRequest, name: str, config: Mapping[str, Any], parameters: Mapping[str, Any], trap: bool
) -> Iterator[FastQ]:
    from fastq.testing.apps import test_app  # lazy: only where the fixture is used

    settings = dict(config)
    for marker in ("celery", "fastq") if has_celery_names(request.config) else ("fastq",):
        mark = request.node.get_closest_marker(marker)
        if mark is not None:
            settings.update(mark.kwargs)
    with test_app(name, config=settings, parameters=parameters, trap=trap) as app:
        yield app


def run_worker(
    app: FastQ,
    includes: Sequence[str],
    class_tasks: Sequence[Any],
    pool: str,
    parameters: Mapping[str, Any],
    logs: bool,
) -> Iterator[InProcessWorker]:
    """Run a worker as the fixtures say."""
    import importlib  # lazy: only where a fixture of a worker is used

    from fastq.testing.worker import start_worker  # lazy: as above

    for module in includes:
        importlib.import_module(module)
    for task in class_tasks:
        app.register_task(task)
    options = {"pool": pool, "loglevel": "info" if logs else "error", **parameters}
    with start_worker(app, **options) as worker:
        yield worker
