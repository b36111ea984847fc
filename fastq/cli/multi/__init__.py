"""``fastq multi``: start, stop and restart several worker nodes of this host in the background."""

from __future__ import annotations

import difflib
import signal
import sys
from collections.abc import Iterator

import click

from fastq import __version__
from fastq.cli.context import Settings
from fastq.cli.multi.actions import Multi
from fastq.cli.multi.nodes import MultiNode, nodes_of
from fastq.cli.multi.parse import parse
from fastq.daemon.filenames import expand

__all__ = ["command"]

ACTIONS = ("start", "stop", "stopwait", "stop_verify", "restart", "kill", "show", "names", "expand", "get", "help")

HELP = """\
fastq multi ACTION NODES... [OPTIONS OF THE WORKER]

  start      start the nodes in the background      show     print the commands that start would run
  stop       ask them to stop (TERM; stop -9, ...)  names    print the names of the nodes
  stopwait   the same, and wait until they have     get      NAME NODES...: print the command of one of them
  restart    stop, wait, start                      expand   TEMPLATE NODES...: print it with %n, %h, %d filled in
  kill       end them at once; their tasks run again elsewhere

NODES are names (w1 w2@host), or how many: 3 means fastq1 fastq2 fastq3 (--range-prefix=NAME for another name).
Options of the worker go to all nodes; -c:1 10, -Q:w1,w2 images and -l:1-3 DEBUG to some of them.
Each node keeps its pid in %n.pid and logs to %n%I.log, unless --pidfile= and --logfile= say where.
  --nosplash, --quiet, --verbose, --no-color; --suffix=HOST names the host; --cmd=COMMAND runs another than worker.

  fastq multi start w1 w2 -A tasks -l INFO -c:w1 10 --pidfile=/run/fastq/%n.pid --logfile=/var/log/fastq/%n%I.log
  fastq multi restart w1 w2 -A tasks --pidfile=/run/fastq/%n.pid
  fastq multi stopwait w1 w2 --pidfile=/run/fastq/%n.pid
"""


@click.command(
    "multi",
    context_settings={"ignore_unknown_options": True, "help_option_names": [], "allow_interspersed_args": False},
    add_help_option=False,
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def command(ctx: click.Context, arguments: tuple[str, ...]) -> None:
    """Start, stop and restart several worker nodes of this host in the background."""
    settings = ctx.find_object(Settings) or Settings()
    flags = {word for word in arguments if word in ("--help", "-h")}
    words = [word for word in arguments if word not in flags]
    if flags or not words or words[0] == "help":
        click.echo(HELP, nl=False)
        sys.exit(0 if flags or words else 2)
    action = next((word for word in words if not word.startswith("-")), "")
    if action not in ACTIONS:
        near = difflib.get_close_matches(action, ACTIONS, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise click.UsageError(f"No such action {action!r}.{hint} Actions: {', '.join(ACTIONS)}.")
    words.remove(action)
    sys.exit(_act(action, words, settings))


def _act(action: str, words: list[str], settings: Settings) -> int:
    first = words.pop(0) if action in ("expand", "get") and words else ""
    valueless, valued = _worker_options()
    said = parse(words, valueless, valued, signals=action in ("stop", "stopwait", "stop_verify", "restart"))
    nodes = nodes_of(said, list(_before(settings)))
    quiet = settings.quiet or bool(said.own & {"--quiet", "-q"})
    multi = Multi(quiet=quiet, verbose="--verbose" in said.own)
    signum = signal.SIGTERM if said.signal is None else said.signal
    if action in ("show", "names", "expand", "get"):
        return _print(action, first, nodes)
    if not (quiet or "--nosplash" in said.own):
        click.echo(f"fastq multi v{__version__}")
    if action == "start":
        return multi.start(nodes)
    if action == "restart":
        return multi.restart(nodes, signum)
    if action == "kill":
        return multi.kill(nodes)
    return multi.stop(nodes, signum, wait=action != "stop")


def _print(action: str, first: str, nodes: list[MultiNode]) -> int:
    for node in nodes:
        if action == "names":
            click.echo(node.name)
        elif action == "show":
            click.echo(node.shown())
        elif action == "expand":
            click.echo(expand(first, node.name))
        elif first in (node.name, node.name.partition("@")[0]):
            click.echo(node.shown())
            return 0
    if action == "get":
        click.echo(f"Error: no node is called {first!r}; there are {', '.join(node.name for node in nodes)}.", err=True)
        return 1
    return 0


def _worker_options() -> tuple[set[str], set[str]]:
    """Return the worker's options that take no value, and those that take one."""
    # lazy: the worker's command imports what a worker needs
    from fastq.cli.worker import command as worker

    options = [param for param in worker.params if isinstance(param, click.Option)]
    without = {name for option in options if option.is_flag or option.count for name in (*option.opts, *option.secondary_opts)}
    return without, {name for option in options for name in option.opts} - without | {"--range-prefix", "--suffix", "--cmd"}


def _before(settings: Settings) -> Iterator[str]:
    """Return what was said in front of ``multi``, for each node."""
    given = {"--app": settings.app, "--broker": settings.broker, "--result-backend": settings.result_backend}
    for name, value in given.items():
        if value is not None:
            yield f"{name}={value}"
