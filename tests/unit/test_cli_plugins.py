"""Sub-commands of other packages: entry points of the group fastq.commands."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fastq.cli import cli, run
from fastq.exceptions import ImproperlyConfigured

ENTRIES = """
[fastq.commands]
greet = nice_plugin:greet
worker = nice_plugin:greet
broken = nice_plugin:NUMBER
missing = no_such_module:command

[celery.commands]
theirs = nice_plugin:greet
"""

MODULE = """
import click
from fastq.cli.context import app_options, load_app

NUMBER = 5


@click.command()
@click.argument("who")
@app_options
def greet(settings, who):
    click.echo(f"{load_app(settings).name} greets {who}")
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    about = tmp_path / "nice-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: nice\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(ENTRIES)
    (tmp_path / "nice_plugin.py").write_text(MODULE)
    (tmp_path / "plugged.py").write_text("from fastq import FastQ\napp = FastQ('plugged', broker='memory://p')\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in ("nice_plugin", "plugged"):
        sys.modules.pop(name, None)


def fastq(*words: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, words, prog_name="fastq")
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


def test_a_package_adds_commands(site: Path) -> None:
    assert fastq("-A", "plugged", "greet", "you").stdout == "plugged greets you\n"
    assert fastq("greet", "you", "-A", "plugged").stdout == "plugged greets you\n"
    help = fastq("--help").stdout
    assert "Commands of other packages:" in help and "greet    From nice." in help and "theirs" not in help
    assert "Start a worker and stay" in fastq("worker", "--help").stdout, "names of fastq's own stay what they are"
    assert "Did you mean 'greet'?" in fastq("gret", code=2).stderr
    assert "No such command 'theirs'" in fastq("theirs", code=2).stderr, "commands for Celery expect Celery"


def test_a_command_that_cannot_be_loaded_is_named_with_its_package(site: Path) -> None:
    assert "of the package nice cannot be loaded: ModuleNotFoundError" in fastq("missing", code=1).stderr
    assert "of the type int: expected a click command" in fastq("broken", code=1).stderr


def test_without_packages_help_says_nothing_of_them() -> None:
    assert "other packages" not in fastq("--help").stdout


def test_a_program_runs_a_command_line(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["-A", "plugged", "greet", "you"]) == 0
    assert capsys.readouterr().out == "plugged greets you\n"
    with pytest.raises(ValueError, match="No such command 'gret'"):
        run(["gret"])
    with pytest.raises(ImproperlyConfigured):
        run(["-A", "no_such_module", "greet", "you"])
