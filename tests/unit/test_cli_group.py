"""The command itself: help, version, unknown commands, errors."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import fastq.cli
from fastq.cli import COMMANDS, cli
from fastq.exceptions import ImproperlyConfigured, OperationalError


def test_every_command_in_the_table_exists_and_is_described() -> None:
    result = CliRunner().invoke(cli, ["--help"])
    assert result.exit_code == 0
    for name in COMMANDS:
        assert name in result.output
        command = importlib.import_module(f"fastq.cli.{name}").command
        assert isinstance(command, click.Command)
        assert command.name == name
        assert CliRunner().invoke(cli, [name, "--help"]).exit_code == 0


def test_help_and_version_import_no_command() -> None:
    script = (
        "import sys\n"
        "from fastq.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print([m for m in sys.modules if m.startswith('fastq.cli.') and m not in ('fastq.cli.context', 'fastq.cli.plugins')])\n"
    )
    for arg in ("--help", "--version"):
        done = subprocess.run([sys.executable, "-c", script, arg], capture_output=True, text=True, timeout=60, check=True)
        assert done.stdout.splitlines()[-1] == "[]"


def test_version() -> None:
    done = subprocess.run([sys.executable, "-m", "fastq", "--version"], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("fastq ")


def test_unknown_command_suggests_the_nearest() -> None:
    result = CliRunner().invoke(cli, ["wroker"], prog_name="fastq")
    assert result.exit_code == 2
    assert "No such command 'wroker'. Did you mean 'worker'?" in result.output


@pytest.mark.parametrize(("error", "code"), [(OperationalError("no broker there"), 1), (ImproperlyConfigured("no such URL"), 2)])
def test_an_error_of_fastq_is_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception, code: int) -> None:
    def fail() -> None:
        raise error

    module = type(sys)("fastq.cli.fails")
    module.command = click.command("fails")(fail)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fastq.cli.fails", module)
    monkeypatch.setitem(fastq.cli.COMMANDS, "fails", "Fail.")
    result = CliRunner().invoke(cli, ["fails"])
    assert result.exit_code == code
    assert result.output == f"Error: {error}\n"


def test_an_added_command_needs_one_file_and_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tmp_path.joinpath("hello.py").write_text(
        "import click\n@click.command('hello')\ndef command():\n    click.echo('hello there')\n"
    )
    monkeypatch.setattr(fastq.cli, "__path__", [*fastq.cli.__path__, str(tmp_path)])
    monkeypatch.setitem(fastq.cli.COMMANDS, "hello", "Say hello.")
    try:
        assert CliRunner().invoke(cli, ["hello"]).output == "hello there\n"
        assert "Say hello." in CliRunner().invoke(cli, ["--help"]).output
    finally:
        sys.modules.pop("fastq.cli.hello", None)
