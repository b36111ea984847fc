"""The ``fastq`` command: one file per sub-command, imported only when that sub-command is used.

A new sub-command is a file ``fastq/cli/<name>.py`` with a click command named ``command``, and a line in ``COMMANDS``.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any, NoReturn

import click

from fastq import __version__
from fastq.cli.context import Settings, Started
from fastq.exceptions import FastQError, ImproperlyConfigured

if TYPE_CHECKING:
    from fastq.cli.plugins import Plugin

__all__ = ["COMMANDS", "PLUGINS", "cli", "main", "run"]

#: entry points of this group are sub-commands too: ``name = "module:command"``, a click command
PLUGINS = "fastq.commands"

#: sub-command -> what ``fastq --help`` says of it, so that help imports none of them
COMMANDS = {
    "beat": "Send periodic tasks when they are due.",
    "bench": "Measure the pools on your broker, say which suits which work.",
    "call": "Send one task by name, print its id.",
    "config": "Show every setting and where it comes from.",
    "control": "Tell nodes to change something: limits, pools, queues, revoke.",
    "dead": "List, show, put back or drop dead letters.",
    "doctor": "Say what is wrong with the broker and the queues, and what to do.",
    "events": "Show what workers tell of tasks, as it happens.",
    "health": "Ask the workers of this host whether they are well.",
    "inspect": "Ask nodes what they do and how they are.",
    "list": "List bindings, queues or tasks.",
    "logtool": "Count and find things in a worker's log.",
    "migrate": "Move messages to another broker.",
    "multi": "Start, stop and restart several workers of this host.",
    "pause": "Let queues or task names rest, on all workers.",
    "purge": "Drop the waiting messages of queues.",
    "report": "Print what a report of a fault should say.",
    "resume": "Let paused queues or task names go on.",
    "result": "Print the result of a task.",
    "schedule": "List, add, change, pause and run periodic tasks.",
    "shell": "Start a Python with the application in it.",
    "status": "Show which nodes are online, and how they are.",
    "top": "Watch nodes, queues and tasks, and act on them.",
    "upgrade": "Rewrite a Celery settings file.",
    "worker": "Start a worker.",
}


#: commands of Celery that there are no parts for here, each with what to use instead
REFUSED = {
    "amqp": "fastq speaks no AMQP: see fastq list queues, fastq dead and fastq purge",
    "graph": "a worker has no exchangeable parts to draw: see fastq status, and docs/lifecycle.md",
}


def added() -> dict[str, Plugin]:
    """Return the commands that installed packages add, by name; none is imported."""
    # lazy: a command of fastq's own must not pay for looking at every installed package
    from fastq.cli.plugins import found

    return found(PLUGINS, COMMANDS)


class AskedWrongly(click.ClickException):
    """Nothing was tried: exit as for a wrong option, where what was tried and failed exits with 1."""

    exit_code = 2


class Commands(click.Group):
    """Import a sub-command when it is used, and turn fastq's own errors into one line."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        started = Started(tuple(args), os.getcwd())
        ctx = super().make_context(info_name, args, parent, **extra)
        ctx.meta["fastq.started"] = started
        return ctx

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*COMMANDS, *added()])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            # lazy: the command's own names must not pay for it
            from fastq.cli.plugins import load

            return load(cmd_name, added())
        # lazy: a command costs only its own imports
        command = importlib.import_module(f"fastq.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] in REFUSED:
            ctx.fail(f"{args[0]!r} is a command of Celery that fastq does not have: {REFUSED[args[0]]}.")
        if args and not args[0].startswith("-") and args[0] not in COMMANDS and args[0] not in (names := self.list_commands(ctx)):
            import difflib  # lazy: only where a name is wrong

            near = difflib.get_close_matches(args[0], names, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            ctx.fail(f"No such command {args[0]!r}.{hint} Commands: {', '.join(names)}.")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(sorted(COMMANDS.items()))
        if found := added():
            with formatter.section("Commands of other packages"):
                formatter.write_dl([(name, f"From {plugin.package}.") for name, plugin in sorted(found.items())])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FastQError as exc:
            raise (AskedWrongly if isinstance(exc, ImproperlyConfigured) else click.ClickException)(str(exc)) from exc


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(f"fastq {__version__}")
        ctx.exit()


def _skip_checks(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:  # to be read where the application is imported, which is another process
        os.environ["FASTQ_SKIP_CHECKS"] = "1"


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("-A", "--app", metavar="APP", help="The application: module, module:attribute or package. Also after the command.")
@click.option("-b", "--broker", metavar="URL", help="Broker URL, instead of the application's.")
@click.option("--result-backend", metavar="URL", help="Result backend URL, instead of the application's.")
@click.option(
    "--config",
    metavar="MODULE",
    help="The module with the settings (FASTQ_CONFIG_MODULE), where the application itself names none.",
)
@click.option("--loader", metavar="NAME", expose_value=False, help="Accepted for Celery's sake: there are no loaders.")
@click.option(
    "--skip-checks",
    is_flag=True,
    expose_value=False,
    callback=_skip_checks,
    help="Start workers of a Django project without its system checks.",
)
@click.option("--workdir", metavar="DIR", type=click.Path(exists=True, file_okay=False), help="Change to this directory first.")
@click.option("-C", "--no-color", is_flag=True, help="No colours in the output.")
@click.option("-q", "--quiet", is_flag=True, help="Print only what was asked for: no banner, no hints.")
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version, help="Print the version and exit."
)
@click.pass_context
def cli(
    ctx: click.Context,
    app: str | None,
    broker: str | None,
    result_backend: str | None,
    config: str | None,
    workdir: str | None,
    no_color: bool,
    quiet: bool,
) -> None:
    """Distributed tasks: run workers, send tasks, read results.

    Without -A the application is FASTQ_APP, [tool.fastq] in pyproject.toml, or the one FastQ instance in tasks.py, app.py,
    fastq_app.py or the package in the working directory.
    """
    if config is not None:
        # for the worker's processes too
        os.environ["FASTQ_CONFIG_MODULE"] = config
    if no_color:
        # the agreed name (no-color.org), read by rich too; and the setting, for the worker's processes
        os.environ["NO_COLOR"] = "1"
        os.environ["FASTQ_WORKER_LOG_COLOR"] = "0"
    ctx.color = False if no_color or os.environ.get("NO_COLOR") else None
    ctx.obj = Settings(app=app, broker=broker, result_backend=result_backend, workdir=workdir, quiet=quiet)


def main(args: list[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 done, 1 it did not work, 2 it was asked wrongly."""
    cli.main(args=args, prog_name="fastq")
    raise AssertionError("click exits by itself")


def run(args: list[str]) -> int:
    """Run a command line for a program, and return its exit code. ValueError if it was asked wrongly."""
    try:
        code = cli.main(args=args, prog_name="fastq", standalone_mode=False)
    except SystemExit as exc:
        code = exc.code
    except click.ClickException as exc:
        if isinstance(exc.__cause__, FastQError):
            raise exc.__cause__ from None
        raise ValueError(f"fastq {' '.join(args)}: {exc.format_message()}") from exc
    return code if isinstance(code, int) else 0 if code is None else 1
