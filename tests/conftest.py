"""Fixtures for every suite: a private Redis server, and a clean environment."""

from __future__ import annotations

import pytest

from tests.servers import redis_server, redis_url

__all__ = ["clean_environment", "redis_server", "redis_url"]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the settings of the shell that runs the tests out of them."""
    for name in ("FASTQ_APP", "FASTQ_BROKER_URL", "FASTQ_RESULT_BACKEND", "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"):
        monkeypatch.delenv(name, raising=False)
