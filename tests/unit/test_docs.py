"""The docs name only what exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fastq.settings_page import settings_markdown

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.md"), *ROOT.glob("benchmarks/*.md")])


def anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, fragment = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{page.relative_to(ROOT)} links to {target}"
        if fragment:
            headings = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert fragment in map(anchor, headings), f"{page.relative_to(ROOT)} links to {target}"


def test_the_map_names_files_that_exist() -> None:
    by_question = (ROOT / "docs" / "map.md").read_text(encoding="utf-8").split("## Floors")[0]
    named = re.findall(r"`([\w/]+\.\w+|[\w/]+/)`", by_question)
    assert len(named) > 20
    missing = [name for name in named if not (ROOT / "fastq" / name).exists()]
    assert not missing


def test_the_settings_page_is_what_the_table_says() -> None:
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert page == settings_markdown(), "docs/settings.md is older than fastq/settings_table.py: run make docs"


def test_the_examples_of_the_routing_page_run() -> None:
    page = (ROOT / "docs" / "routing.md").read_text(encoding="utf-8")
    namespace: dict[str, object] = {"__name__": "shop"}
    examples = list(re.finditer(r"```python\n(.*?)```", page, flags=re.DOTALL))
    assert len(examples) > 4
    try:
        for example in examples:
            # the line of an error is its line on the page
            before = "\n" * (page[: example.start()].count("\n") + 1)
            exec(compile(before + example[1], "docs/routing.md", "exec"), namespace)
    finally:
        if "app" in namespace:
            namespace["app"].close()  # type: ignore[attr-defined]
