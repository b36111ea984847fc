"""``fastq beat``: send periodic tasks when they are due."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from fastq.cli.context import Settings, app_options, load_app
from fastq.cli.daemon import Daemon, daemon_options
from fastq.cli.types import JSONValue, Names
from fastq.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from fastq.app import FastQ
    from fastq.beat.service import Service

__all__ = ["banner", "command"]

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "FATAL")


@click.command("beat", context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-s", "--schedule", "filename", metavar="FILE",
    help="Keep the state of the schedule in this file: then there may be one beat only. Default: in the broker.",
)  # fmt: skip
@click.option(
    "-S", "--scheduler", metavar="NAME",
    help="shared (default: in the broker, for any number of beats), persistent (in a file), or the dotted name of a class.",
)  # fmt: skip
@click.option("--max-interval", type=click.FloatRange(min=0, min_open=True), metavar="S", help="Sleep at most that long (300).")
@click.option(
    "-l", "--loglevel", type=click.Choice(LEVELS, case_sensitive=False), default="WARNING", show_default=True,
    help="Least urgent level to log.",
)  # fmt: skip
@click.option("-n", "--hostname", metavar="NAME", help="Name of this beat, like beat1@%h; beat@ this host by default.")
@click.option("--enable-remote-control", is_flag=True, expose_value=False, help="Accepted for Celery's sake: see `fastq schedule`.")
@click.option(
    "--embedded", type=int, metavar="FD", hidden=True, help="Descriptor whose end is the end of the worker it belongs to."
)
@click.option("--settings", "overrides", type=JSONValue(dict), hidden=True, help="Settings of the worker it belongs to.")
@click.option("--include", type=Names(), hidden=True, help="Modules that the worker it belongs to imports too.")
@click.argument("assignments", nargs=-1, metavar="[SETTING=VALUE]...")
@app_options
@daemon_options
def command(
    daemon: Daemon,
    settings: Settings,
    /,
    filename: str | None,
    scheduler: str | None,
    max_interval: float | None,
    loglevel: str,
    hostname: str | None,
    embedded: int | None,
    overrides: dict[str, Any] | None,
    include: tuple[str, ...] | None,
    assignments: tuple[str, ...],
) -> None:
    """Send periodic tasks when they are due, and stay in the foreground.

    Start as many as you like, on as many hosts: they share one schedule in the broker, one of them leads, and each run is sent
    exactly once. SIGTERM or Ctrl-C hands the lead over at once.

    Any setting can be given behind the options, where it wins over the application's: beat.lease=3.
    """
    if filename is not None:
        if scheduler in ("shared", "broker"):
            raise click.UsageError(
                "--schedule FILE and --scheduler shared exclude each other: the shared schedule is in the broker."
            )
        scheduler = scheduler or "persistent"
    # lazy: help must not pay for what runs
    from fastq.beat.service import Service, StopSignals
    from fastq.daemon.detach import say_up
    from fastq.log import setup_worker_logging
    from fastq.settings.sources import parse_arguments
    from fastq.worker.procname import expand_node, set_process_name

    node = expand_node(hostname or "beat@%h")
    with daemon.running(node):
        app = load_app(settings)
        app.conf.override({**(overrides or {}), **parse_arguments(assignments, "beat")})
        if include:
            app.conf.override({"include": (*app.conf.include, *include)})
        service = Service(app, max_interval, filename, scheduler, name=node.partition("@")[0], lifeline=embedded)
        if filename is not None and service.is_shared:
            raise ImproperlyConfigured("--schedule FILE means nothing to the shared scheduler, whose schedule is in the broker.")
        if app.broker_url.lower().startswith("memory:"):
            raise ImproperlyConfigured(
                f"{app.broker_url!r} is a store inside one process, where no worker would see what beat sends: use sqlite:///FILE "
                "or redis://"
            )
        logfile = None if daemon.log is None else _expanded(daemon.log, node)
        set_process_name("Beat")
        setup_worker_logging(
            "CRITICAL" if loglevel.upper() == "FATAL" else loglevel.upper(), app.conf, redirect=False, logfile=logfile
        )
        app.finalize()
        # made before anything is said: a file that cannot be written, a class that cannot be made
        _ = service.scheduler
        if not settings.quiet and embedded is None:
            click.echo(banner(app, service, logfile, loglevel.upper()))
        say_up()
        with StopSignals(service):
            service.start(embedded_process=embedded is not None)


def banner(app: FastQ, service: Service, logfile: str | None, loglevel: str) -> str:
    """Return what a beat prints when it starts, in Celery's form: programs look for these lines."""
    # lazy: as above
    from fastq import __version__
    from fastq.transports import display_url

    scheduler = service.scheduler
    kind = type(scheduler)
    where = scheduler.where if service.is_shared else getattr(scheduler, "schedule_filename", "") or "(none)"
    longest_s = float(scheduler.max_interval or 0)
    lines = [
        f"fastq beat v{__version__} is starting.",
        "__    -    ... __   -        _",
        f"LocalTime -> {time.strftime('%Y-%m-%d %H:%M:%S')}",
        "Configuration ->",
        f"    . broker -> {display_url(app.broker_url)}",
        f"    . loader -> {app.name}",
        f"    . scheduler -> {kind.__module__}.{kind.__qualname__}",
        f"    . db -> {where}",
        f"    . logfile -> {logfile or '[stderr]'}@%{loglevel}",
        f"    . maxinterval -> {_human(longest_s)} ({longest_s:g}s)",
    ]
    return "\n".join(lines)


def _human(seconds: float) -> str:
    for unit, unit_s in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= unit_s:
            count = seconds / unit_s
            return f"{count:.2f} {unit}{'s' if count > 1 else ''}"
    return f"{seconds:.2f} second{'s' if seconds != 1 else ''}" if seconds else "now"


def _expanded(name: str, node: str) -> str:
    # lazy: as above
    from fastq.daemon.filenames import expand

    return expand(name, node)
