"""Logging: the application's own stays as it is, a worker's lines look like Celery's."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
from collections.abc import Callable, Iterator

import pytest

from fastq import _core, signals
from fastq.config import Settings
from fastq.log import LoggingProxy, get_task_logger, redirect_stdouts, setup_worker_logging
from fastq.running import current
from fastq.utils.log import get_task_logger as tutorials_get_task_logger


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Take the handlers (pytest adds its own after fixtures are made) off the root logger, and put everything back."""
    root = logging.getLogger()
    handlers, level, own = root.handlers[:], root.level, logging.getLogger("fastq").level
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    yield root.handlers.clear
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("fastq").setLevel(own)


def conf(**values: object) -> Settings:
    return Settings(values, environ={})


def test_lines_have_the_workers_format(bare: Callable[[], None]) -> None:
    bare()
    stream = io.StringIO()
    assert setup_worker_logging("INFO", conf(), stream=stream, redirect=False)
    logging.getLogger("fastq.worker").info("ready")
    logging.getLogger("somebody.else").warning("careful")
    logging.getLogger("somebody.else").debug("not shown")
    first, second = stream.getvalue().splitlines()
    assert re.fullmatch(r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}: INFO/MainProcess\] ready", first)
    assert second.endswith("WARNING/MainProcess] careful")


def test_task_loggers_name_the_task_that_runs(bare: Callable[[], None]) -> None:
    bare()
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


def test_the_applications_logging_is_left_alone_unless_asked(bare: Callable[[], None]) -> None:
    bare()
    root = logging.getLogger()
    mine = logging.NullHandler()
    root.addHandler(mine)
    root.setLevel(logging.ERROR)
    assert not setup_worker_logging("DEBUG", conf(), redirect=False)
    assert root.handlers == [mine] and root.level == logging.ERROR
    assert setup_worker_logging("DEBUG", conf(worker_hijack_root_logger=True), stream=io.StringIO(), redirect=False)
    assert mine not in root.handlers and len(root.handlers) == 1 and root.level == logging.DEBUG


def test_what_tasks_print_goes_to_the_log(bare: Callable[[], None]) -> None:
    bare()
    stream = io.StringIO()
    setup_worker_logging("INFO", conf(), stream=stream)
    assert isinstance(sys.stdout, LoggingProxy) and isinstance(sys.stderr, LoggingProxy)
    proxy = sys.stdout
    redirect_stdouts()
    assert sys.stdout is proxy
    print("hello", "there")
    print("two\nlines\n\n")
    print(end="")
    sys.stdout.writelines(["a", "b"])
    sys.stderr.write("oops")
    assert "oops" not in stream.getvalue()
    sys.stderr.flush()
    print()
    print("x" * 10_000, end="")
    lines = [line.partition(": ")[2] for line in stream.getvalue().splitlines()]
    expected = ["hello there", "two", "lines", "oops", "ab", "x" * 10_000]
    assert lines == [f"WARNING/MainProcess] {text}" for text in expected]
    assert not sys.stdout.isatty() and sys.stdout.writable() and not sys.stdout.readable()
    sys.stdout.flush()
    sys.stdout.close()


def test_a_line_begun_by_one_task_is_not_ended_by_another(bare: Callable[[], None]) -> None:
    bare()
    stream = io.StringIO()
    setup_worker_logging("INFO", conf(), stream=stream)
    for name in ("one", "two"):
        token = current.set(_core.peek(_core.encode(name, name, "c", b"", 0, None, 0, None, None)))
        print(name, end="")
        current.reset(token)
    print("outside")
    assert [line.partition("] ")[2] for line in stream.getvalue().splitlines()] == ["one", "two", "outside"]


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


def test_colours_only_where_asked(bare: Callable[[], None]) -> None:
    bare()
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


def test_json_lines_can_be_read_by_programs(bare: Callable[[], None]) -> None:
    bare()
    stream = io.StringIO()
    setup_worker_logging("INFO", conf(worker_log_json=True), stream=stream, redirect=False)
    logger = logging.getLogger("proj.tasks")
    delivery = _core.peek(_core.encode("the-id", "proj.add", "c", b"", 0, None, 0, None, None))
    token = current.set(delivery)
    try:
        logger.warning("one\ntwo: %s", "é", extra={"customer": 5, "object": object})
    finally:
        current.reset(token)
    try:
        raise ValueError("boom")
    except ValueError:
        logger.exception("outside")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert first["message"] == "one\ntwo: é"
    assert (first["level"], first["logger"]) == ("WARNING", "proj.tasks")
    assert (first["task_name"], first["task_id"], first["customer"]) == ("proj.add", "the-id", 5)
    assert first["time"].endswith("+00:00")
    assert "ValueError: boom" in second["exception"]
    assert "task_id" not in second


def test_a_receiver_of_setup_logging_does_it_all_itself(bare: Callable[[], None]) -> None:
    bare()
    asked: list[dict[str, object]] = []

    def mine(**kwargs: object) -> None:
        asked.append(kwargs)

    signals.setup_logging.connect(mine)
    try:
        assert not setup_worker_logging("DEBUG", conf())
    finally:
        signals.setup_logging.disconnect(mine)
    assert logging.getLogger().handlers == []
    assert not isinstance(sys.stdout, LoggingProxy)
    assert asked[0]["loglevel"] == logging.DEBUG


def test_receivers_may_add_to_what_was_set_up(bare: Callable[[], None]) -> None:
    bare()
    loggers: list[object] = []

    def changed(logger: object, **kwargs: object) -> None:
        loggers.append(logger)

    signals.after_setup_logger.connect(changed)
    signals.after_setup_task_logger.connect(changed)
    try:
        setup_worker_logging("INFO", conf(), stream=io.StringIO(), redirect=False)
    finally:
        signals.after_setup_logger.disconnect(changed)
        signals.after_setup_task_logger.disconnect(changed)
    assert loggers == [logging.getLogger(), logging.getLogger("fastq.task")]
