"""``fastq worker``: start one worker node.

This process becomes the supervisor, so nothing here may import the application.
"""

from __future__ import annotations

import sys
from typing import Any

import click

from fastq.cli.address import HTTPAddress
from fastq.cli.context import Settings, Started, app_options
from fastq.cli.daemon import Daemon, daemon_options
from fastq.cli.types import Bounds, Names, PoolName, Slots
from fastq.settings.sources import parse_arguments
from fastq.worker.http.address import Address
from fastq.worker.options import WorkerOptions
from fastq.worker.procname import expand_node

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
    type=Slots(),
    metavar="N|auto",
    help="Tasks at once: processes of prefork, slots in each process of the other pools. auto: the number of CPUs.",
)
@click.option(
    "--autoscale",
    type=Bounds(),
    metavar="MAX,MIN",
    help="Scale between MIN and MAX by how long work waits: processes of prefork, slots in each process of the other pools.",
)
@click.option(
    "--processes", type=click.IntRange(min=1), metavar="N", help="Processes with that many slots each, for every pool but solo."
)
@click.option(
    "-Q", "--queues", type=Names(), metavar="A,B", help="Queues to take tasks from. Default: task_queues, else the default queue."
)
@click.option("-X", "--exclude-queues", type=Names(), metavar="A,B", help="Not these queues.")
@click.option(
    "--purge", "--discard", is_flag=True, help="Drop what waits in the queues before the first task is taken. There is no undo."
)
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
    "--http",
    type=HTTPAddress(),
    metavar="ADDR",
    help="Serve /live, /ready and /metrics there: HOST:PORT, :PORT (every interface) or unix:PATH (worker_http).",
)
@click.option("-E", "--task-events", is_flag=True, help="Tell monitors of tasks, as long as one listens (fastq events).")
@click.option(
    "--prefetch",
    type=click.IntRange(min=0),
    metavar="N",
    help="Hold at most N messages beyond the slots; 0: none. Default: adapts to measured run time.",
)
@click.option("--max-tasks-per-child", type=click.IntRange(min=1), metavar="N", help="Replace a process after it has run N tasks.")
@click.option(
    "--max-memory-per-child",
    type=click.IntRange(min=1),
    metavar="KIB",
    help="Replace a process whose resident memory is above KIB after a task.",
)
@click.option("--time-limit", type=click.FloatRange(min=0), metavar="S", help="End a task that runs longer (task_time_limit).")
@click.option(
    "--soft-time-limit",
    type=click.FloatRange(min=0),
    metavar="S",
    help="Raise SoftTimeLimitExceeded in a task that runs longer (task_soft_time_limit).",
)
@click.option("-I", "--include", type=Names(), metavar="A,B", help="More modules to import for their tasks.")
@click.option("--no-retry", is_flag=True, help="Fail at once when the broker cannot be reached at start.")
@click.option("--without-gossip", is_flag=True, expose_value=False, help="Accepted for Celery's sake: nothing to switch off.")
@click.option("--without-mingle", is_flag=True, expose_value=False, help="Accepted for Celery's sake: nothing to switch off.")
@click.option("--without-heartbeat", is_flag=True, expose_value=False, help="Accepted for Celery's sake: nothing to switch off.")
@click.option(
    "-O",
    "--optimization",
    type=click.Choice(("default", "fair")),
    expose_value=False,
    help="Accepted for Celery's sake: a task never waits behind a long one.",
)
@click.option(
    "--prefetch-multiplier", type=int, metavar="N", expose_value=False, help="Accepted for Celery's sake: see --prefetch."
)
@click.option(
    "-S", "--statedb", metavar="FILE", expose_value=False, help="Accepted for Celery's sake: revoked ids are kept in the broker."
)
@click.option(
    "--heartbeat-interval", type=float, metavar="S", expose_value=False, help="Accepted for Celery's sake: see worker_lease."
)
@click.option(
    "--pool-start-method",
    type=click.Choice(("fork", "spawn")),
    expose_value=False,
    help="Accepted for Celery's sake: the pool decides how its processes start.",
)
@click.option("--disable-prefetch", is_flag=True, help="Hold no messages beyond the slots: --prefetch 0.")
@click.option("-B", "--beat", "with_beat", is_flag=True, help="Also send periodic tasks: run a beat of this node's own.")
@click.option(
    "-s",
    "--schedule",
    "--schedule-filename",
    "schedule",
    metavar="FILE",
    help="With -B: keep the state of the schedule in this file, not in the broker; then one node may have a beat.",
)
@click.option("--scheduler", metavar="NAME", help="With -B: as `fastq beat -S`.")
@click.option("--reload", is_flag=True, help="Start again when a Python file below the working directory changes (development).")
@click.argument("assignments", nargs=-1, metavar="[SETTING=VALUE]...")
@app_options
@daemon_options
def command(
    daemon: Daemon,
    settings: Settings,
    /,
    pool: str | None,
    concurrency: int | None,
    processes: int | None,
    autoscale: tuple[int, int] | None,
    queues: tuple[str, ...] | None,
    exclude_queues: tuple[str, ...] | None,
    purge: bool,
    loglevel: str,
    hostname: str | None,
    http: Address | None,
    task_events: bool,
    prefetch: int | None,
    max_tasks_per_child: int | None,
    max_memory_per_child: int | None,
    time_limit: float | None,
    soft_time_limit: float | None,
    include: tuple[str, ...] | None,
    no_retry: bool,
    disable_prefetch: bool,
    with_beat: bool,
    schedule: str | None,
    scheduler: str | None,
    reload: bool,
    assignments: tuple[str, ...],
) -> None:
    """Start a worker and stay in the foreground.

    SIGTERM or Ctrl-C stops it warmly: running tasks finish, the rest goes back to the queue. A second signal, or SIGQUIT, stops it
    at once (worker_soft_shutdown_timeout: after that time); what was running then runs again elsewhere.

    Any setting can be given behind the options, where it wins over the application's: worker.lease=20, task_acks_late=no.
    """
    given: dict[str, Any] = {"task_time_limit": time_limit, "task_soft_time_limit": soft_time_limit}
    if task_events:
        given["worker_send_task_events"] = True
    if http is not None:
        given["worker_http"] = str(http)
    if disable_prefetch and prefetch:
        raise click.UsageError("--disable-prefetch and --prefetch exclude each other: give one of them.")
    if time_limit and soft_time_limit and soft_time_limit > time_limit:
        raise click.UsageError(
            f"--soft-time-limit {soft_time_limit:g} is more than --time-limit {time_limit:g}: "
            "the task would be ended before it is told."
        )
    if autoscale and pool == "solo":
        raise click.UsageError("--autoscale and the solo pool exclude each other: solo runs one task at a time.")
    if autoscale and concurrency:
        click.echo(f"--autoscale says how many tasks run at once, as in Celery: --concurrency={concurrency} is not used.", err=True)
    if reload:
        if daemon.detach:
            raise click.UsageError("--reload and --detach exclude each other: reloading is for development, in the foreground.")
        # lazy: only for development
        from fastq.cli.reloading import run_reloading

        started: Started = click.get_current_context().find_root().meta["fastq.started"]
        sys.exit(run_reloading(started.arguments, started.directory))
    beat: list[str] = []
    for flag, value in (("--schedule", schedule), ("--scheduler", scheduler)):
        if value is not None:
            if not with_beat:
                raise click.UsageError(f"{flag} is for the beat of a worker: give -B too.")
            beat += (flag, value)
    options = WorkerOptions(
        app=settings.app,
        pool=pool,
        concurrency=concurrency,
        processes=processes,
        autoscale=autoscale,
        queues=queues or (),
        exclude_queues=exclude_queues or (),
        purge=purge,
        settings={name: value for name, value in given.items() if value is not None} | parse_arguments(assignments, "worker"),
        loglevel=loglevel.upper(),
        hostname=hostname,
        prefetch=0 if disable_prefetch else prefetch,
        max_tasks_per_child=max_tasks_per_child,
        max_memory_per_child=max_memory_per_child,
        retry=not no_retry,
        broker=settings.broker,
        result_backend=settings.result_backend,
        include=include or (),
        quiet=settings.quiet,
        beat=tuple(beat) if with_beat else None,
        logfile=daemon.log,
    )
    run: Any
    if pool == "solo":
        # lazy: the other pools must not pay for, or import, what solo needs
        from fastq.worker.solo import run
    else:
        # lazy: solo must not pay for the supervisor
        from fastq.worker.supervisor import run
    with daemon.running(expand_node(hostname)):
        sys.exit(run(options))
