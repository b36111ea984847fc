"""The docs name only what exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fastq.settings.page import settings_markdown
from fastq.settings.table import SETTINGS
from fastq.signals import all_signals

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
    by_question = (ROOT / "docs" / "map.md").read_text(encoding="utf-8").split("Outside the package")[0]
    named = re.findall(r"`([\w/]+\.\w+|[\w/]+/)`", by_question)
    assert len(named) > 20
    missing = [name for name in named if not (ROOT / "fastq" / name).exists()]
    assert not missing


def test_the_settings_page_is_what_the_table_says() -> None:
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert page == settings_markdown(), "docs/settings.md is older than fastq/settings/table.py: run make docs"


def test_every_page_is_linked_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    missing = [page.name for page in sorted(ROOT.glob("docs/*.md")) if f"](docs/{page.name})" not in readme]
    assert not missing


def test_the_signals_page_names_every_signal_and_is_right_about_those_that_are_never_sent() -> None:
    sent, never = (ROOT / "docs" / "signals.md").read_text(encoding="utf-8").split("## Never sent")
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "fastq").rglob("*.py"))
    for name in all_signals():
        is_sent = f"{name}.send(" in code
        assert f"`{name}`" in (sent if is_sent else never), f"docs/signals.md: {name} is {'' if is_sent else 'not '}sent"
        assert f"| `{name}`" not in (never if is_sent else sent)


#: names that look like settings and are none: attributes, functions, modules
NO_SETTINGS = {"enable_events", "task_id", "task_ids", "task_name", "result_from_tuple", "result_set", "result_tree"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_settings_that_are_named_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    prefixes = "accept|beat|broker|control|dead_letter|enable|event|redis|result|security|task|worker"
    named = set(re.findall(rf"`((?:{prefixes})_[a-z_]+)(?: = [^`]*)?`", text))
    assert named - set(SETTINGS) - set(all_signals()) - NO_SETTINGS == set()
