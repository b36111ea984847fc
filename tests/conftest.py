"""Fixtures for every suite: a private Redis server, and a clean environment."""

from __future__ import annotations

import logging
import multiprocessing
import sys
from collections.abc import Iterator

import pytest

from fastq import shared, signals
from fastq.log import LoggingProxy
from tests.servers import redis_server, redis_url

__all__ = ["clean_environment", "own_logging", "own_receivers", "own_shared_tasks", "redis_server", "redis_url"]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the settings of the shell that runs the tests out of them."""
    for name in ("FASTQ_APP", "FASTQ_BROKER_URL", "FASTQ_RESULT_BACKEND", "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def own_shared_tasks() -> Iterator[None]:
    """Forget the shared tasks that a test declares: they belong to every application, also to those of later tests."""
    before = list(shared._constructors)
    yield
    shared._constructors[:] = before


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """Undo what a command that runs inside the test has done to logging, to the standard streams and to the process' name."""
    process, root, own = multiprocessing.current_process(), logging.getLogger(), logging.getLogger("fastq")
    before = (process.name, root.level, own.level, sys.stdout, sys.stderr)
    handlers = list(root.handlers)
    yield
    process.name = before[0]
    root.setLevel(before[1])
    own.setLevel(before[2])
    for stream, name in ((before[3], "stdout"), (before[4], "stderr")):
        if isinstance(getattr(sys, name), LoggingProxy):
            setattr(sys, name, stream)
    for handler in list(root.handlers):
        if handler not in handlers and type(handler).__module__.partition(".")[0] == "logging":
            root.removeHandler(handler)
            handler.close()


@pytest.fixture(autouse=True)
def own_receivers() -> Iterator[None]:
    """Disconnect what a test, or what it has imported, has connected to signals."""
    before = {signal: signal.receivers for signal in signals.all_signals().values()}
    yield
    if any(signal.receivers != receivers for signal, receivers in before.items()):
        for signal, receivers in before.items():
            signal.receivers = receivers
        signals._notify()
