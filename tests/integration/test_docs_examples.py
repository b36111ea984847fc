"""The examples of the docs do what the pages say; ``tests/pages.py`` says how they are run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pages import blocks, run_page

ROOT = Path(__file__).parents[2]
#: pages whose blocks are the files of a small project, which another test runs
ELSEWHERE = {"testing.md": "tests/integration/test_pytest_plugin.py"}
#: pages whose blocks are taken from a project that other tests run
TAKEN_FROM = {"django.md": "examples/django_site", "flask.md": "examples/flask_progress"}
PAGES = [
    page
    for page in sorted([ROOT / "README.md", *ROOT.glob("docs/*.md")])
    if any(blocks(page)) and page.name not in ELSEWHERE and page.name not in TAKEN_FROM
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_examples_do_what_the_page_says(page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    url = f"memory://docs-{page.stem}"
    for name in ("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND", "FASTQ_RESULT_BACKEND"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FASTQ_BROKER_URL", url)
    monkeypatch.chdir(tmp_path)
    assert run_page(page, url) > 0


@pytest.mark.parametrize("page", ELSEWHERE)
def test_pages_that_are_run_elsewhere_are(page: str) -> None:
    assert page in (ROOT / ELSEWHERE[page]).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", TAKEN_FROM)
def test_examples_taken_from_a_project_are_what_is_there(page: str) -> None:
    files = [path.read_text(encoding="utf-8") for path in (ROOT / TAKEN_FROM[page]).rglob("*.py")]
    there = {line.strip() for file in files for line in file.splitlines()} | {"..."}
    shown = [block for block in blocks(ROOT / "docs" / page) if not block.reason]
    assert shown
    for block in shown:
        code = block.code.partition("\n")[2] if block.code.startswith("# ") else block.code  # the first line may name the file
        assert not [line for line in code.splitlines() if line.strip() not in there], f"docs/{page}, line {block.line + 1}"
