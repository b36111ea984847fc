"""The table of docs/revoking.md: every cell has a test that runs on that pool."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import fastq.pools
from tests.unit.test_limits_table import pools_of, test_of

PAGE = (Path(__file__).parents[2] / "docs" / "revoking.md").read_text(encoding="utf-8")


def rows(first: str) -> list[list[str]]:
    """Return the table whose heading begins with a word, the heading first."""
    found = [line for block in PAGE.split("\n\n") if block.startswith(f"| {first} |") for line in block.splitlines()]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in found if not set(line) <= set("|-")]


TABLE = rows("pool")
TESTS = {row[0]: re.findall(r"`(tests/[^`]+)`", row[1]) for row in rows("column")[1:]}
CELLS = [(re.findall(r"`(\w+)`", row[0])[0], column) for row in TABLE[1:] for column in TABLE[0][1:]]


@pytest.mark.parametrize(("pool", "column"), CELLS)
def test_a_cell_has_a_test_on_its_pool(pool: str, column: str) -> None:
    shown = set().union(*(pools_of(test_of(name)) for name in TESTS[column]))
    assert pool in shown, f"{column}: its tests run on {sorted(shown)}"


def test_every_pool_has_a_line() -> None:
    assert {pool for pool, _ in CELLS} == set(fastq.pools.NAMES)
