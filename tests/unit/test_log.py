"""Logging: the application's own stays as it is, a worker's lines look like Celery's."""

from __future__ import annotations

import io
import logging
import re
import sys
from collections.abc import Iterator

import pytest

from fastq import _core
from fastq.config import Settings
from fastq.log import LoggingProxy, get_task_logger, redirect_stdouts, setup_worker_logging
from fastq.running import current
from fastq.utils.log import get_task_logger as tutorials_get_task_logger


@pytest.fixture(autouse=True)
def clean_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start with a root logger without handlers, and put everything back."""
    root = logging.getLogger()
    handlers, level, own = root.handlers[:], root.level, logging.getLogger("fastq").level
    root.handlers[:] = []
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("fastq").setLevel(own)


def conf(**values: object) -> Settings:
    return Settings(values, environ={})


def test_lines_have_the_workers_format() -> None:
    stream = io.StringIO()
    assert setup_worker_logging("INFO", conf(), stream=stream, redirect=False)
    logging.getLogger("fastq.worker").info("ready")
    logging.getLogger("somebody.else").warning("careful")
    logging.getLogger("somebody.else").debug("not shown")
    first, second = stream.getvalue().splitlines()
    assert re.fullmatch(r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}: INFO/MainProcess\] ready", first)
    assert second.endswith("WARNING/MainProcess] careful")


def test_task_loggers_name_the_task_that_runs() -> None:
    assert tutorials_get_task_logger is get_task_logger
    stream = io.StringIO()
    setup_worker_logging(logging.INFO, conf(), stream=stream, redirect=False)
    logger = get_task_logger("proj.tasks")
    delivery = _core.peek(_core.encode("the-id", "proj.add", "c", b"", 0, None, 0, None, None))
    token = current.set(delivery)
    try:
        logger.info("adding")
        get_task_logger("proj.tasks").getChild("deep").info("deeper")
        logging.getLogger("plain").warning("not a task logger")
    finally:
        current.reset(token)
    logger.info("outside")
    lines = [line.partition("] ")[2] for line in stream.getvalue().splitlines()]
    assert lines == [
        "proj.add[the-id]: adding",
        "proj.add[the-id]: deeper",
        "not a task logger",
        "???[???]: outside",
    ]
    with pytest.raises(RuntimeError, match="is fastq's own"):
        get_task_logger("fastq.task")


def test_the_applications_logging_is_left_alone_unless_asked() -> None:
    root = logging.getLogger()
    mine = logging.NullHandler()
    root.addHandler(mine)
    root.setLevel(logging.ERROR)
    assert not setup_worker_logging("DEBUG", conf(), redirect=False)
    assert root.handlers == [mine] and root.level == logging.ERROR
    assert setup_worker_logging("DEBUG", conf(worker_hijack_root_logger=True), stream=io.StringIO(), redirect=False)
    assert mine not in root.handlers and len(root.handlers) == 1 and root.level == logging.DEBUG


def test_what_tasks_print_goes_to_the_log() -> None:
    stream = io.StringIO()
    setup_worker_logging("INFO", conf(), stream=stream)
    assert isinstance(sys.stdout, LoggingProxy) and isinstance(sys.stderr, LoggingProxy)
    proxy = sys.stdout
    redirect_stdouts()
    assert sys.stdout is proxy
    print("hello", "there")
    print("two\nlines\n\n")
    print(end="")
    sys.stderr.write("oops")
    sys.stdout.writelines(["a", "b"])
    lines = [line.partition(": ")[2] for line in stream.getvalue().splitlines()]
    expected = ["hello there", "two", "lines", "oops", "a", "b"]
    assert lines == [f"WARNING/MainProcess] {text}" for text in expected]
    assert not sys.stdout.isatty() and sys.stdout.writable() and not sys.stdout.readable()
    sys.stdout.flush()
    sys.stdout.close()


def test_a_handler_that_prints_does_not_recurse(monkeypatch: pytest.MonkeyPatch) -> None:
    real = io.StringIO()
    monkeypatch.setattr(sys, "__stderr__", real)

    class Printing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            print("handling", record.getMessage())

    logger = logging.getLogger("fastq.test_redirect")
    logger.propagate = False
    logger.addHandler(Printing())
    monkeypatch.setattr(sys, "stdout", LoggingProxy(logger))
    print("x")
    assert "handling x" in real.getvalue()


def test_colours_only_where_asked() -> None:
    plain, coloured = io.StringIO(), io.StringIO()
    setup_worker_logging("INFO", conf(), stream=plain, redirect=False)
    logging.getLogger("x").error("bad")
    logging.getLogger().handlers.clear()
    setup_worker_logging("INFO", conf(), colors=True, stream=coloured, redirect=False)
    logging.getLogger("x").error("bad")
    assert "\x1b[" not in plain.getvalue() and "\x1b[31m" in coloured.getvalue()


def test_an_unknown_level_is_named() -> None:
    with pytest.raises(ValueError, match="loglevel 'LOUD': expected DEBUG, INFO"):
        setup_worker_logging("LOUD", conf())
