"""``fastq upgrade settings``: rewrite a Celery settings file."""

from __future__ import annotations

import io
import os
import shutil
import tokenize
from pathlib import Path

import click

from fastq.cli.context import Settings
from fastq.exceptions import ImproperlyConfigured
from fastq.settings.table import SETTINGS
from fastq.settings.upgrade import Change, upgrade

__all__ = ["command"]


@click.group("upgrade", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Rewrite files that were written for Celery."""


@command.command("settings", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("path", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--django", is_flag=True, help="A Django settings module: write CELERY_TASK_ACKS_LATE, not task_acks_late.")
@click.option("--compat", is_flag=True, help="The same, for any module that is read with namespace='CELERY'.")
@click.option("--no-backup", is_flag=True, help="Do not keep the old file as FILE.orig.")
@click.pass_context
def settings(ctx: click.Context, path: Path, django: bool, compat: bool, no_backup: bool) -> None:
    """Give the settings in FILE their present names in place of Celery's older ones.

    fastq understands both; nothing has to be changed. Comments and layout stay as they are.
    """
    source, encoding = _read(path)
    try:
        text, changes = upgrade(source, namespace="CELERY" if django or compat else "")
    except SyntaxError as exc:
        raise ImproperlyConfigured(f"{path}, line {exc.lineno}: this is not Python: {exc.msg}") from exc
    for change in changes:
        click.echo(f"{path}:{change.line}: {_said(change)}")
    if text == source:
        click.echo(f"Nothing to change in {path}.")
        return
    if not no_backup:
        kept = _free(path)
        shutil.copy2(path, kept)
        (ctx.find_object(Settings) or Settings()).hint(f"The old file is kept as {kept}.")
    _write(path, text, encoding)
    many = sum(not change.why_not for change in changes)
    click.echo(f"Changed {many} {'place' if many == 1 else 'places'} in {path}.")


def _said(change: Change) -> str:
    if change.why_not:
        return f"{change.old} stays: {change.why_not}"
    name = change.new.removeprefix("CELERY_").lower()
    reason = SETTINGS[name].accepted
    return f"{change.old} -> {change.new}" + (f" (accepted, nothing to set: {reason})" if reason else "")


def _read(path: Path) -> tuple[str, str]:
    """Return a file's text, line ends as they are, and its encoding."""
    data = path.read_bytes()
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        return data.decode(encoding), encoding
    except (SyntaxError, UnicodeDecodeError) as exc:
        raise ImproperlyConfigured(f"{path}: this is not Python: {exc}") from exc


def _free(path: Path) -> Path:
    """Return the first name for a backup that is not taken: an earlier one is not overwritten."""
    kept, number = path.with_name(f"{path.name}.orig"), 1
    while kept.exists():
        number += 1
        kept = path.with_name(f"{path.name}.orig{number}")
    return kept


def _write(path: Path, text: str, encoding: str) -> None:
    """Replace the file in one step: whoever reads it meanwhile sees the old or the new one."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    beside.write_bytes(text.encode(encoding))
    shutil.copymode(path, beside)
    beside.replace(path.resolve())
