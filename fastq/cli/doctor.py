"""``fastq doctor``: say what is wrong with the broker, the queues and the settings, and what to do."""

from __future__ import annotations

import json
import textwrap
from dataclasses import asdict

import click

from fastq.app import FastQ
from fastq.cli.context import Settings, app_options, load_app
from fastq.cli.types import Names
from fastq.doctor import LEVELS, Examination, Finding
from fastq.exceptions import ImproperlyConfigured

__all__ = ["command"]

#: columns, of the whole and left of what is said of a finding
WIDTH, INDENT = 80, 9

_COLORS = {"error": "red", "warning": "yellow", "note": "cyan"}


@click.command("doctor", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-Q", "--queues", type=Names(), metavar="A,B", help="Only these queues.")
@click.option("--limit", type=click.IntRange(min=1), default=100_000, show_default=True, help="Look at this many keys at most.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for programs.")
@click.option("--fix", is_flag=True, help="Put right what was left behind by nobody alive. No message is dropped.")
@click.option("-y", "--yes", is_flag=True, help="With --fix: do not ask.")
@app_options
def command(
    settings: Settings, /, queues: tuple[str, ...] | None, limit: int, as_json: bool, fix: bool, yes: bool
) -> None:
    """Look for what is wrong with the broker, the queues and the settings, and say what to do.

    Changes nothing, unless --fix is given; may run beside any load. Exits with 1 if there is an error or a warning.
    With --broker URL it needs no application.
    """
    app, declared = _application(settings)
    examination = Examination(app, queues=queues or (), limit=limit, declared=declared)
    done: list[str] = []
    try:
        examination.run()
        if not as_json:
            _show(examination.findings)
        if fix and (yes or _agreed(examination, as_json)):
            done = examination.mend()
            if done:
                examination.run()
            if not as_json:
                _say_done(done, examination)
    finally:
        examination.close()
    if as_json:
        shown = {
            "servers": examination.servers,
            "looked": examination.looked,
            "queues": examination.queues,
            "findings": [asdict(finding) for finding in examination.findings],
            "fixed": done,
        }
        click.echo(json.dumps(shown, indent=2))
    else:
        _sum_up(examination)
    if examination.count("error") or examination.count("warning"):
        click.get_current_context().exit(1)


def _application(settings: Settings) -> tuple[FastQ, bool]:
    """Return the application, and whether it is the user's: with a broker's URL alone there need be none."""
    try:
        return load_app(settings), True
    except ImproperlyConfigured:
        if settings.broker is None or settings.app is not None:
            raise
    app = FastQ("doctor", broker=settings.broker, set_as_current=False)
    if settings.result_backend is not None:
        app.conf.override({"result_backend": settings.result_backend})
    return app, False


def _agreed(examination: Examination, as_json: bool) -> bool:
    if as_json:
        raise click.UsageError("--fix with --json asks nothing: add --yes.")
    if not any("doctor --fix" in finding.advice for finding in examination.findings):
        return True  # nothing of that kind was found: there is nothing to agree to
    return click.confirm("Put right what says 'fastq doctor --fix'? Messages go back to their queues, none is dropped")


def _show(findings: list[Finding]) -> None:
    for finding in findings:
        level = click.style(f"{finding.level:<8}", fg=_COLORS[finding.level], bold=finding.level == "error")
        head = f"{finding.code}  {finding.subject}"
        if len(head) > WIDTH - INDENT:
            head = finding.code
        click.echo(f"{level} {head}")
        if head == finding.code:
            click.echo(_wrapped(finding.subject))
        click.echo(_wrapped(_sentence(finding.text)))
        click.echo(_wrapped(f"-> {_sentence(finding.advice)}"))
        click.echo()


def _wrapped(text: str) -> str:
    first = " " * INDENT
    rest = first + ("   " if text.startswith("-> ") else "")
    return textwrap.fill(
        text, WIDTH, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    )


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _say_done(done: list[str], examination: Examination) -> None:
    for line in done:
        click.echo(_wrapped(f"fixed: {line}").strip())
    if not done:
        click.echo("Nothing of this can be put right by --fix.")
    elif left := [finding for finding in examination.findings if finding.level != "note"]:
        click.echo("\nWhat is left:\n")
        _show(left)


def _sum_up(examination: Examination) -> None:
    counts = [(examination.count(level), level) for level in LEVELS]
    said = ", ".join(f"{count} {level}{'' if count == 1 else 's'}" for count, level in counts if count)
    if not examination.count("error") and not examination.count("warning"):
        said = f"No problems found ({said})" if said else "No problems found"
    click.echo(textwrap.fill(f"{said}: looked at {examination.summary}.", WIDTH, break_long_words=False, break_on_hyphens=False))
