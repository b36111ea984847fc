"""The fixtures by the names that Celery's plugin gives them, so that existing test suites run.

Registered by ``fastq.testing.plugin`` unless Celery's own plugin is loaded. A project that overrides one of them is heard: those
that say what is wanted are asked by the fixtures of fastq's own names, and ``celery_worker`` serves whatever ``celery_app`` is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from fastq.testing.plugin import run_worker

if TYPE_CHECKING:
    from fastq.app import FastQ
    from fastq.testing.worker import InProcessWorker


@pytest.fixture(scope="session")
def celery_config() -> Mapping[str, Any]:
    """See fastq_config."""
    return {}


@pytest.fixture(scope="session")
def celery_parameters() -> Mapping[str, Any]:
    """See fastq_parameters."""
    return {}


@pytest.fixture(scope="session")
def celery_includes() -> Sequence[str]:
    """See fastq_includes."""
    return ()


@pytest.fixture(scope="session")
def celery_worker_parameters() -> Mapping[str, Any]:
    """See fastq_worker_parameters."""
    return {}


@pytest.fixture(scope="session")
def celery_worker_pool() -> str:
    """See fastq_worker_pool."""
    return "solo"


@pytest.fixture(scope="session")
def celery_enable_logging() -> bool:
    """See fastq_enable_logging."""
    return False


@pytest.fixture(scope="session")
def celery_class_tasks() -> Sequence[Any]:
    """See fastq_class_tasks."""
    return ()


@pytest.fixture(scope="session")
def use_celery_app_trap() -> bool:
    """See use_fastq_app_trap."""
    return False


@pytest.fixture(scope="session")
def celery_session_app(fastq_session_app: FastQ) -> FastQ:
    """See fastq_session_app."""
    return fastq_session_app


@pytest.fixture
def celery_app(fastq_app: FastQ) -> FastQ:
    """See fastq_app."""
    return fastq_app


@pytest.fixture(scope="session")
def celery_session_worker(
    celery_session_app: FastQ,
    fastq_includes: Sequence[str],
    fastq_class_tasks: Sequence[Any],
    fastq_worker_pool: str,
    fastq_worker_parameters: Mapping[str, Any],
    fastq_enable_logging: bool,
) -> Iterator[InProcessWorker]:
    """See fastq_session_worker."""
    yield from run_worker(
        celery_session_app, fastq_includes, fastq_class_tasks, fastq_worker_pool, fastq_worker_parameters, fastq_enable_logging
    )


@pytest.fixture
def celery_worker(
    celery_app: FastQ,
    fastq_includes: Sequence[str],
    fastq_class_tasks: Sequence[Any],
    fastq_worker_pool: str,
    fastq_worker_parameters: Mapping[str, Any],
    fastq_enable_logging: bool,
) -> Iterator[InProcessWorker]:
    """See fastq_worker."""
    yield from run_worker(
        celery_app, fastq_includes, fastq_class_tasks, fastq_worker_pool, fastq_worker_parameters, fastq_enable_logging
    )
