"""What fastq doctor says of settings, how it is ordered, and what the command prints."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fastq import FastQ, doctor
from fastq.cli import cli
from fastq.doctor.choices import choices
from fastq.exceptions import ImproperlyConfigured
from fastq.transports.base import Finding


def codes(**settings: Any) -> list[tuple[str, str]]:
    settings = {"broker": "memory://", "backend": "memory://", **settings}
    return [(finding.level, finding.code) for finding in choices(FastQ("x", set_as_current=False, **settings))]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, []),
        ({"worker_lease": 2}, [("warning", "short-lease")]),
        ({"worker_lease": 900}, [("note", "long-lease")]),
        ({"result_expires": None}, [("note", "results-kept-for-ever")]),
        ({"result_expires": 5}, [("warning", "short-results")]),
        ({"result_expires": 5, "backend": "disabled://"}, []),
        ({"task_acks_late": False}, [("note", "early-acks")]),
        ({"accept_content": ["json", "pickle"]}, [("warning", "pickle-accepted")]),
        ({"accept_content": ["json", "pickle"], "security_key": "k" * 32}, []),
        ({"security_trusted_keys": ["k" * 32]}, [("error", "no-signing-key")]),
        ({"broker_transport_options": {"visibility_timeout": 3600}}, [("note", "meaningless-setting")]),
    ],
)
def test_only_choices_that_can_go_wrong_are_mentioned(settings: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert codes(**settings) == expected


def test_a_lease_too_short_to_be_renewed_is_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"worker_lease = 0.5 .*1 s or more \(a lease is renewed each third of it\)"):
        FastQ("x", broker="memory://", set_as_current=False, worker_lease=0.5)


def test_findings_come_the_worst_first(tmp_path: Path) -> None:
    app = FastQ(
        "x", broker=f"sqlite:///{tmp_path}/no/q.db", set_as_current=False, worker_lease=2, task_acks_late=False
    )
    found = doctor.examine(app)
    assert [finding.level for finding in found] == ["error", "warning", "note"]
    assert all(isinstance(finding, Finding) and finding.text and finding.advice for finding in found)


def test_a_broker_inside_the_process_leaves_the_settings_to_look_at() -> None:
    assert doctor.examine(FastQ("x", broker="memory://", set_as_current=False)) == []


# --- the command ---


def run(*arguments: str) -> Any:
    return CliRunner().invoke(cli, list(arguments))


def test_the_command_fits_80_columns_and_says_by_its_exit_code_whether_there_is_a_problem(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/{'long' * 10}/q.db"
    result = run("-b", url, "doctor")
    assert result.exit_code == 1
    assert "missing-directory" in result.output and "1 error: looked at SQLite " in result.output
    here = str(tmp_path)
    assert all(len(line) <= 80 or here in line for line in result.output.splitlines())


def test_a_healthy_broker_exits_with_0_and_says_what_was_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastq.transports.sqlite.file_health.VOLATILE", frozenset())
    monkeypatch.setattr("fastq.transports.sqlite.file_health.FREE_BYTES", 0)
    monkeypatch.chdir(tmp_path)
    FastQ("x", broker=f"sqlite:///{tmp_path}/q.db", set_as_current=False).send_task("t", queue="q")
    assert run("-b", f"sqlite:///{tmp_path}/q.db", "doctor").exit_code == 1, "nobody takes from q"
    result = run("-b", f"sqlite:///{tmp_path}/q.db", "doctor", "-Q", "other")
    assert result.exit_code == 0, result.output
    assert "No problems found (" in result.output and "looked at 0 rows in 1 queue" in " ".join(result.output.split())


def test_json_is_one_object_with_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("-b", f"sqlite:///{tmp_path}/q.db", "doctor", "--json")
    shown = json.loads(result.stdout)
    assert shown.keys() == {"servers", "looked", "queues", "findings", "fixed"}
    assert "missing-file" in {finding["code"] for finding in shown["findings"]}
    assert shown["findings"][0].keys() == {"level", "code", "subject", "text", "advice"}
    asked = run("-b", f"sqlite:///{tmp_path}/q.db", "doctor", "--json", "--fix")
    assert asked.exit_code == 2 and "--yes" in asked.output


def test_without_an_application_or_a_url_the_command_says_how_to_name_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("doctor")
    assert result.exit_code == 2 and "-A" in result.output


def codes_in(source: Path) -> set[str]:
    """Return every text that a module gives as the code of a finding."""
    calls = [node for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    given = [call.args[1] for call in calls if getattr(call.func, "id", "") in ("Finding", "Leftover") and len(call.args) > 1]
    words = [part for arg in given for part in ast.walk(arg) if isinstance(part, ast.Constant)]
    return {word.value for word in words if isinstance(word.value, str)}


def test_every_code_is_explained_on_the_page() -> None:
    root = Path(__file__).parents[2]
    page = (root / "docs" / "doctor.md").read_text(encoding="utf-8")
    sources = [*root.glob("fastq/doctor/*.py"), root / "fastq/transports/judging.py", *root.glob("fastq/transports/*/*.py")]
    codes = set().union(*map(codes_in, sources))
    assert len(codes) > 60 and codes >= doctor.LEFTOVERS
    assert all(re.fullmatch("[a-z]+(-[a-z]+)*", code) for code in codes)
    explained = set(re.findall(r"^\| `([a-z]+[a-z-]*)` \|", page, flags=re.MULTILINE))
    assert explained == codes
