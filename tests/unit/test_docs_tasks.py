"""The examples of docs/tasks.md run, and answer what the page says."""

from __future__ import annotations

import doctest
import re
from pathlib import Path
from typing import Any

import pytest

from tests.unit.worker_rig import rig

PAGE = Path(__file__).parents[2] / "docs" / "tasks.md"


def blocks(language: str) -> str:
    """Return the page with everything blanked that is not an example in this language: lines keep their numbers."""
    kept: list[str] = []
    inside = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if match := re.fullmatch(r"```(\w*)", line):
            inside = match[1]
            kept.append("")
        else:
            kept.append(line if inside == language else "")
    return "\n".join(kept) + "\n"


def test_the_examples_answer_what_the_page_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTQ_BROKER_URL", "memory://docs-tasks")
    namespace: dict[str, Any] = {"__name__": "shop"}
    exec(compile(blocks("python"), str(PAGE), "exec"), namespace)
    app = namespace["app"]
    try:
        with rig({}, app=app, slots=2):
            examples = doctest.DocTestParser().get_doctest(blocks("pycon"), namespace, "docs/tasks.md", str(PAGE), 0)
            assert len(examples.examples) > 7
            said: list[str] = []
            outcome = doctest.DocTestRunner(verbose=False).run(examples, out=said.append)
            assert outcome.failed == 0, "".join(said)
    finally:
        app.close()
