"""What every sub-command knows: the application's options, given before or after the sub-command."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Concatenate, NamedTuple, ParamSpec, TypeVar

import click

from fastq.exceptions import FastQError, ImproperlyConfigured

if TYPE_CHECKING:
    from fastq.app import FastQ

__all__ = ["Settings", "Started", "app_options", "load_app", "load_app_or_broker"]

P = ParamSpec("P")
R = TypeVar("R")


class Started(NamedTuple):
    """How this command was started, so that it can start again. Kept in the ``meta`` of click's context, as "fastq.started"."""

    arguments: tuple[str, ...]
    #: the working directory, before --workdir
    directory: str


@dataclass(frozen=True, slots=True)
class Settings:
    """The options that belong to no single sub-command."""

    app: str | None = None
    broker: str | None = None
    result_backend: str | None = None
    workdir: str | None = None
    quiet: bool = False

    def hint(self, text: str) -> None:
        """Print a line for the human, on stderr so that output can be piped."""
        if not self.quiet:
            click.echo(text, err=True)


def app_options(fn: Callable[Concatenate[Settings, P], R]) -> Callable[P, R]:
    """Let a sub-command take the application's options too (they win over those before it) and change to --workdir.

    The function gets the merged Settings as its first argument.
    """

    @click.option("-A", "--app", metavar="APP", help="The application: module, module:attribute or package.")
    @click.option("-b", "--broker", metavar="URL", help="Broker URL, instead of the application's.")
    @click.option("--result-backend", metavar="URL", help="Result backend URL, instead of the application's.")
    @click.option("--workdir", metavar="DIR", type=click.Path(exists=True, file_okay=False), help="Change to this directory first.")
    @click.pass_context
    @functools.wraps(fn)
    def command(ctx: click.Context, /, *args: P.args, **kwargs: P.kwargs) -> R:
        given: dict[str, Any] = {name: kwargs.pop(name) for name in ("app", "broker", "result_backend", "workdir")}
        before = ctx.find_object(Settings) or Settings()
        settings = replace(before, **{name: value for name, value in given.items() if value is not None})
        if settings.workdir is not None:
            os.chdir(settings.workdir)
        return fn(settings, *args, **kwargs)

    return command


def load_app(settings: Settings) -> FastQ:
    """Import the application, with the command line's URLs in place of its own.

    Never called by ``fastq worker``: its supervisor imports no application code.
    """
    # lazy: only commands that talk to a broker need the application
    from fastq.finding import find_app, user_traceback

    try:
        app = find_app(settings.app, os.getcwd())
    except FastQError:
        raise
    except Exception as exc:
        # an error in the user's code: where it is, without how we came there
        raise click.ClickException(f"the application cannot be loaded.\n{user_traceback(exc)}") from exc
    given = {"broker_url": settings.broker, "result_backend": settings.result_backend}
    if said := {name: url for name, url in given.items() if url is not None}:
        app.conf.override(said)
    # lazy: came with the application
    from fastq import signals

    if signals.user_preload_options.receivers:
        signals.user_preload_options.send(sender=app, app=app, options=asdict(settings))
    return app


def load_app_or_broker(settings: Settings) -> FastQ:
    """Return the application; where a broker is named and no application is found, one that knows nothing but that."""
    try:
        return load_app(settings)
    except ImproperlyConfigured:
        if settings.app is not None or settings.broker is None:
            raise
    # lazy: came with the attempt
    from fastq import FastQ

    return FastQ("fastq", broker=settings.broker, backend=settings.result_backend, set_as_current=False)
