"""The options of commands that run for long: log file, pid file, user, detaching; and what they do before and after the run."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Concatenate, ParamSpec, TypeVar

import click

from fastq.cli.context import Started
from fastq.daemon.detach import is_detached, start_detached
from fastq.daemon.filenames import expand
from fastq.daemon.pidfile import PidFile, is_alive, read_pid
from fastq.daemon.privileges import become, set_umask
from fastq.exceptions import ImproperlyConfigured

__all__ = ["Daemon", "daemon_options"]

P = ParamSpec("P")
R = TypeVar("R")

#: where a detached command logs that was not told where
DEFAULT_LOG = "%n.log"


@dataclass(frozen=True, slots=True)
class Daemon:
    """What the options say. File names are as given: ``%n`` and its kind are not expanded."""

    logfile: str | None = None
    pidfile: str | None = None
    uid: str | None = None
    gid: str | None = None
    umask: str | None = None
    executable: str | None = None
    detach: bool = False

    @property
    def log(self) -> str | None:
        """Return the log file's name as an absolute path, None for standard error."""
        name = self.logfile or (DEFAULT_LOG if self.detach else None)
        return None if name is None else os.path.abspath(name)

    @contextmanager
    def running(self, node: str) -> Iterator[None]:
        """Become what the options say, for as long as the command runs. With ``--detach`` this process ends here, once the one in
        the background is up or has failed. ImproperlyConfigured for what cannot be."""
        detached = is_detached()
        if self.detach and not detached:
            raise click.exceptions.Exit(self._detach(node))
        set_umask(self.umask)
        become(self.uid, self.gid)
        if (log := self.log) is not None:
            _check_writable(expand(log, node))
        if self.pidfile is None:
            yield
            return
        with PidFile(expand(self.pidfile, node)):
            yield

    def _detach(self, node: str) -> int:
        ctx = click.get_current_context().find_root()
        started: Started = ctx.meta["fastq.started"]
        log = expand(self.log or os.devnull, node)
        _check_writable(log)
        if self.pidfile is not None:
            # known at once, where the other would say it into its log
            pid = read_pid(PidFile(expand(self.pidfile, node)).path)
            if pid and is_alive(pid):
                raise ImproperlyConfigured(
                    f"the pid file {expand(self.pidfile, node)} exists and names process {pid}, which is running"
                )
        return start_detached(started.arguments, directory=started.directory, output=log, executable=self.executable)


def _check_writable(path: str) -> None:
    try:
        os.close(os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o644))
    except OSError as exc:
        raise ImproperlyConfigured(f"the log file {path} cannot be written: {exc.strerror}") from exc


def daemon_options(fn: Callable[Concatenate[Daemon, P], R]) -> Callable[P, R]:
    """Let a command take the options; its function gets them as its first argument and runs inside ``daemon.running(node)``."""

    @click.option(
        "-f", "--logfile", metavar="FILE", help="Log there, not on standard error. %n name, %h host, %i index, %I -index."
    )
    @click.option("--pidfile", metavar="FILE", help="Keep the pid there while it runs; a second start is refused. %n, %h as above.")
    @click.option("--uid", metavar="USER", help="Run as this user (name or number); needs a start as root.")
    @click.option("--gid", metavar="GROUP", help="Run as this group.")
    @click.option("--umask", metavar="OCTAL", help="Bits that new files do not get, such as 027.")
    @click.option("--executable", metavar="FILE", help="The Python that runs it detached.")
    @click.option("-D", "--detach", is_flag=True, help="Run in the background; returns once it is up, or says why it is not.")
    @functools.wraps(fn)
    def command(*args: P.args, **kwargs: P.kwargs) -> R:
        given: dict[str, Any] = {name: kwargs.pop(name) for name in Daemon.__slots__}
        return fn(replace(Daemon(), **given), *args, **kwargs)

    return command
