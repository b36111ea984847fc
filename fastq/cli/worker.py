"""``fastq worker``: start one worker node.

This process becomes the supervisor, so nothing here may import the application.
"""

from __future__ import annotations

import sys
from typing import Any

import click

from fastq.cli.context import Settings, app_options
from fastq.cli.types import Names, PoolName
from fastq.worker.options import WorkerOptions

__all__ = ["command"]

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "FATAL")


@click.command("worker", context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-P",
    "--pool",
    type=PoolName(),
    help="prefork (default; also: processes), threads, gevent, eventlet, asyncio (also: aio), solo.",
)
@click.option(
    "-c",
    "--concurrency",
    type=click.IntRange(min=1),
    metavar="N",
    help="Tasks at once: processes of prefork, slots in each process of the other pools.",
)
@click.option(
    "--processes", type=click.IntRange(min=1), metavar="N", help="Processes with that many slots each, for every pool but solo."
)
@click.option("-Q", "--queues", type=Names(), metavar="A,B", help="Queues to take tasks from. Default: the default queue.")
@click.option(
    "-l",
    "--loglevel",
    type=click.Choice(LEVELS, case_sensitive=False),
    default="WARNING",
    show_default=True,
    help="Least urgent level to log.",
)
@click.option("-n", "--hostname", metavar="NAME", help="Name of this node, like w1@%h (%h host, %n name, %d domain).")
@click.option(
    "--prefetch",
    type=click.IntRange(min=0),
    metavar="N",
    help="Hold at most N messages beyond the slots; 0: none. Default: adapts to measured run time.",
)
@click.option("--max-tasks-per-child", type=click.IntRange(min=1), metavar="N", help="Replace a process after it has run N tasks.")
@click.option("-I", "--include", type=Names(), metavar="A,B", help="More modules to import for their tasks.")
@click.option("--no-retry", is_flag=True, help="Fail at once when the broker cannot be reached at start.")
@click.option("--without-gossip", is_flag=True, expose_value=False, help="Accepted for Celery's sake: nothing to switch off.")
@click.option("--without-mingle", is_flag=True, expose_value=False, help="Accepted for Celery's sake: nothing to switch off.")
@click.option("--without-heartbeat", is_flag=True, expose_value=False, help="Accepted for Celery's sake: nothing to switch off.")
@app_options
def command(
    settings: Settings,
    /,
    pool: str | None,
    concurrency: int | None,
    processes: int | None,
    queues: tuple[str, ...] | None,
    loglevel: str,
    hostname: str | None,
    prefetch: int | None,
    max_tasks_per_child: int | None,
    include: tuple[str, ...] | None,
    no_retry: bool,
) -> None:
    """Start a worker and stay in the foreground.

    SIGTERM or Ctrl-C stops it warmly: running tasks finish, the rest goes back to the queue. A second signal stops it at once;
    what was running then runs again elsewhere.
    """
    options = WorkerOptions(
        app=settings.app,
        pool=pool,
        concurrency=concurrency,
        processes=processes,
        queues=queues or (),
        loglevel=loglevel.upper(),
        hostname=hostname,
        prefetch=prefetch,
        max_tasks_per_child=max_tasks_per_child,
        retry=not no_retry,
        broker=settings.broker,
        result_backend=settings.result_backend,
        include=include or (),
        quiet=settings.quiet,
    )
    run: Any
    if pool == "solo":
        # lazy: the other pools must not pay for, or import, what solo needs
        from fastq.worker.solo import run
    else:
        # lazy: solo must not pay for the supervisor
        from fastq.worker.supervisor import run
    sys.exit(run(options))
