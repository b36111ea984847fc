"""The table of docs/limits.md: every cell has a test that runs on that pool."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

import fastq.pools
from tests.workers import POOLS

PAGE = Path(__file__).parents[2] / "docs" / "limits.md"


def tables() -> list[list[list[str]]]:
    """Return the tables of the page: rows of cells, the heading first."""
    found: list[list[list[str]]] = [[]]
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("|"):
            if not set(line) <= set("|-"):
                found[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        elif found[-1]:
            found.append([])
    return [table for table in found if table]


def table(first: str) -> list[list[str]]:
    (one,) = (rows for rows in tables() if rows[0][0] == first)
    return one


def test_of(name: str) -> Callable[..., Any]:
    path, _, function = name.partition("::")
    module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
    test: Callable[..., Any] = getattr(module, function)
    return test


test_of.__test__ = False  # type: ignore[attr-defined]


def pools_of(test: Callable[..., Any]) -> set[str]:
    """Return the pools that a test runs on: those of its parameter, else of the fixture (all), else the one in its name."""
    for mark in getattr(test, "pytestmark", ()):
        if mark.name == "parametrize" and mark.args[0] == "pool":
            return set(mark.args[1])
    if "pool" in inspect.signature(test).parameters:
        return set(POOLS)
    return {pool for pool in POOLS if f"_{pool}_" in test.__name__}


ROWS = table("pool")
TESTS = {row[0]: re.findall(r"`(tests/[^`]+)`", row[1]) for row in table("column")[1:]}


def cells() -> Iterable[tuple[str, str]]:
    for row in ROWS[1:]:
        for column in ROWS[0][1:]:
            yield re.findall(r"`(\w+)`", row[0])[0], column


@pytest.mark.parametrize(("pool", "column"), sorted(set(cells())))
def test_a_cell_has_a_test_on_its_pool(pool: str, column: str) -> None:
    shown = set().union(*(pools_of(test_of(name)) for name in TESTS[column]))
    assert pool in shown, f"{column}: its tests run on {sorted(shown)}"


def test_every_pool_has_a_line() -> None:
    assert {pool for pool, _ in cells()} == set(fastq.pools.NAMES) == set(POOLS)
