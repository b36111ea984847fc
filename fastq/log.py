"""Logging of the worker and of tasks. Importing fastq never touches logging; only a worker sets it up, and only as asked."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Any

from fastq import signals
from fastq.running import current

if TYPE_CHECKING:
    from fastq.config import Settings

__all__ = [
    "ColorFormatter",
    "JsonFormatter",
    "LoggingProxy",
    "TaskFormatter",
    "get_logger",
    "get_task_logger",
    "setup_worker_logging",
]

#: parent of all task loggers
TASK_LOGGER = "fastq.task"
#: where printed text goes
REDIRECT_LOGGER = "fastq.redirected"
#: a longer line is logged before its end comes
MAX_LINE_CHARS = 8_192

_COLORS = {
    logging.DEBUG: "\x1b[34m",
    logging.WARNING: "\x1b[33m",
    logging.ERROR: "\x1b[31m",
    logging.CRITICAL: "\x1b[35m",
}
_RESET = "\x1b[0m"


def get_logger(name: str) -> logging.Logger:
    """Return a logger."""
    return logging.getLogger(name)


def get_task_logger(name: str) -> logging.Logger:
    """Return a logger for a module of tasks: in a worker its lines carry the task's name and id."""
    if name in (TASK_LOGGER, "fastq"):
        raise RuntimeError(f"the logger name {name!r} is fastq's own: use get_task_logger(__name__)")
    logger = logging.getLogger(name)
    task_logger = logging.getLogger(TASK_LOGGER)
    # as in Celery: below the task logger, keeping its own name; a parent that somebody set is left alone
    if logger is not task_logger and (logger.parent is logging.root or logger.parent is None):
        logger.parent = task_logger
    return logger


class ColorFormatter(logging.Formatter):
    """Colour a line by its level."""

    def __init__(self, fmt: str, colors: bool = False) -> None:
        super().__init__(fmt)
        self._colors = colors

    def format(self, record: logging.LogRecord) -> str:
        # gevent and threads name their processes like the main one; spaces would break what reads the log by fields
        record.processName = (record.processName or "MainProcess").replace(" ", "")
        text = super().format(record)
        color = _COLORS.get(record.levelno) if self._colors else None
        return f"{color}{text}{_RESET}" if color else text


class TaskFormatter(ColorFormatter):
    """Add ``task_name`` and ``task_id`` of the task that runs where the line is written, ``???`` outside of one."""

    def format(self, record: logging.LogRecord) -> str:
        delivery = current.get()
        fields = record.__dict__
        if delivery is not None:
            fields.update(task_name=delivery.name, task_id=delivery.id)
        else:
            fields.setdefault("task_name", "???")
            fields.setdefault("task_id", "???")
        return super().format(record)


class JsonFormatter(logging.Formatter):
    """Write each record as one line of JSON, for programs that collect logs.

    Fields: ``time`` (ISO 8601, UTC), ``level``, ``logger``, ``process``, ``pid``, ``message``; ``task_name`` and ``task_id`` where
    a task runs or the line is about one; ``exception`` (the traceback); and whatever was given as ``extra``.
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "process": (record.processName or "MainProcess").replace(" ", ""),
            "pid": record.process,
            "message": record.getMessage(),
        }
        delivery = current.get()
        if delivery is not None:
            line.update(task_name=delivery.name, task_id=delivery.id)
        line.update((key, value) for key, value in record.__dict__.items() if key not in _RECORD_FIELDS)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=_text, ensure_ascii=False)


#: what every record has; anything else came by ``extra``
_RECORD_FIELDS = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception:  # a line is not lost for one field of it
        return f"<{type(value).__name__}>"


class _WorkerFormatter(logging.Formatter):
    """Use the task format for lines of task loggers, the plain one for the others."""

    def __init__(self, plain: ColorFormatter, task: TaskFormatter) -> None:
        super().__init__()
        self._plain = plain
        self._task = task

    def format(self, record: logging.LogRecord) -> str:
        return (self._task if _is_task_logger(record.name) else self._plain).format(record)


def _is_task_logger(name: str) -> bool:
    if name == TASK_LOGGER:
        return True
    logger: logging.Logger | None = logging.root.manager.loggerDict.get(name)  # type: ignore[assignment]
    top = logging.getLogger(TASK_LOGGER)
    while isinstance(logger, logging.Logger):
        if logger is top:
            return True
        logger = logger.parent
    return False


def setup_worker_logging(
    loglevel: int | str,
    conf: Settings,
    colors: bool | None = None,
    stream: IO[str] | None = None,
    redirect: bool | None = None,
    logfile: str | None = None,
) -> bool:
    """Set up the logging of a worker process; True if a handler was added.

    The root logger gets one handler, on ``logfile`` or standard error, only if it has none (``worker_hijack_root_logger`` replaces
    what it has); then also its level. Otherwise the application's logging stays as it is. Afterwards what tasks print goes to the
    logger ``fastq.redirected``, unless ``worker_redirect_stdouts`` is off. A receiver of the signal ``setup_logging`` does all of
    this itself; receivers of ``after_setup_logger`` and ``after_setup_task_logger`` may change what was done.
    """
    level = _level(loglevel)
    root = logging.getLogger()
    added = False
    said = {"loglevel": level, "logfile": logfile, "format": conf.worker_log_format, "colorize": bool(colors)}
    if signals.setup_logging.receivers:
        signals.setup_logging.send(None, **said)
        return False
    if conf.worker_hijack_root_logger:
        for handler in list(root.handlers):
            root.removeHandler(handler)
    if not root.handlers:
        target = stream if stream is not None else sys.__stderr__ or sys.stderr
        if colors is None:
            colors = conf.worker_log_color
        if colors is None:
            colors = logfile is None and bool(getattr(target, "isatty", bool)())
        own = logging.StreamHandler(target) if logfile is None else _file_handler(logfile)
        if getattr(conf, "worker_log_json", False):
            own.setFormatter(JsonFormatter())
        else:
            plain = ColorFormatter(conf.worker_log_format, colors)
            own.setFormatter(_WorkerFormatter(plain, TaskFormatter(conf.worker_task_log_format, colors)))
        root.addHandler(own)
        root.setLevel(level)
        added = True
    # fastq's own lines appear at the level asked for, whatever the application set for the root
    logging.getLogger("fastq").setLevel(level)
    said["colorize"] = bool(colors)
    if signals.after_setup_logger.receivers:
        signals.after_setup_logger.send(None, logger=root, **said)
    if signals.after_setup_task_logger.receivers:
        said["format"] = conf.worker_task_log_format
        signals.after_setup_task_logger.send(None, logger=logging.getLogger(TASK_LOGGER), **said)
    if conf.worker_redirect_stdouts if redirect is None else redirect:
        redirect_stdouts(_level(conf.worker_redirect_stdouts_level))
    return added


def _file_handler(path: str) -> logging.Handler:
    """Return a handler that appends, and goes on in a new file when the old one was moved away (logrotate)."""
    # lazy: only where there is a log file
    from logging.handlers import WatchedFileHandler

    return WatchedFileHandler(path, encoding="utf-8", errors="replace")


def redirect_stdouts(level: int = logging.WARNING) -> None:
    """Send what is printed to the log. Harmless to call again."""
    logger = logging.getLogger(REDIRECT_LOGGER)
    if not isinstance(sys.stdout, LoggingProxy):
        sys.stdout = LoggingProxy(logger, level)
    if not isinstance(sys.stderr, LoggingProxy):
        sys.stderr = LoggingProxy(logger, level)


def _level(level: int | str) -> int:
    if isinstance(level, int):
        return level
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"loglevel {level!r}: expected DEBUG, INFO, WARNING, ERROR or CRITICAL")
    return number


class LoggingProxy:
    """Be a text file whose lines are log records. A handler that fails and prints about it does not come back here."""

    encoding = "utf-8"
    errors = "replace"
    mode = "w"
    name = "<log>"
    closed = False

    def __init__(self, logger: logging.Logger, level: int = logging.WARNING) -> None:
        self._logger = logger
        self._level = level
        #: per thread: whether it is inside ``log``, the line begun, and the task that began it
        self._local = threading.local()

    def write(self, data: str | bytes) -> int:
        """Log the text line by line. A line without its end waits for it, for ``flush``, or for another task's text."""
        text = data.decode(self.encoding, self.errors) if isinstance(data, bytes) else str(data)
        local = self._local
        if getattr(local, "logging", False):
            # the handler itself writes here: to the real file, or it would never end
            real = sys.__stderr__
            return real.write(text) if real is not None else len(text)
        delivery = current.get()
        begun: str = getattr(local, "begun", "")
        if begun and local.task is not delivery:
            self._log(begun)
            begun = ""
        *lines, begun = (begun + text).split("\n")
        for line in lines:
            self._log(line)
        if len(begun) > MAX_LINE_CHARS:
            self._log(begun)
            begun = ""
        local.begun = begun
        local.task = delivery if begun else None
        return len(text)

    def _log(self, line: str) -> None:
        if line.strip():
            self._local.logging = True
            try:
                self._logger.log(self._level, "%s", line.rstrip("\r"))
            finally:
                self._local.logging = False

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Log the line that was begun."""
        begun: str = getattr(self._local, "begun", "")
        if begun and not getattr(self._local, "logging", False):
            self._local.begun = ""
            self._log(begun)

    def close(self) -> None:
        """Do nothing: the process' own file stays open."""

    def isatty(self) -> bool:
        return False

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def fileno(self) -> int:
        """Return the descriptor of the real standard error: a subprocess of a task may be given it."""
        real = sys.__stderr__
        if real is None:
            raise OSError("standard error is closed")
        return real.fileno()

    @property
    def buffer(self) -> Any:
        real = sys.__stderr__
        if real is None:
            raise OSError("standard error is closed")
        return real.buffer
