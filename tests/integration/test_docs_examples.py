"""The examples of the docs do what the pages say; ``tests/pages.py`` says how they are run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pages import blocks, run_page

ROOT = Path(__file__).parents[2]
#: pages whose blocks are the files of small projects, which other tests run
ELSEWHERE = {
    "testing.md": "tests/integration/test_pytest_plugin.py",
}
PAGES = [page for page in sorted([ROOT / "README.md", *ROOT.glob("docs/*.md")]) if any(blocks(page)) and page.name not in ELSEWHERE]


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
