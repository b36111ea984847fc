"""The task of the real job, called as the function it is."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

TASKS = Path(__file__).parents[2] / "examples" / "stdlib_index" / "tasks.py"


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ModuleType]:
    monkeypatch.setenv("FASTQ_BROKER_URL", f"sqlite:///{tmp_path}/unused.db")
    spec = importlib.util.spec_from_file_location("stdlib_index_tasks", TASKS)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    yield module
    module.app.close()


def test_counts_what_a_file_defines_and_imports(tasks: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "sample.py"
    path.write_text(
        "import os.path\nfrom json import loads\nfrom . import near\n\n"
        "class A:\n    def short(self): pass\n\n    async def long(self):\n        def inner(): pass\n        return inner\n"
    )
    assert tasks.index(str(path)) == {
        "path": str(path),
        "lines": 10,
        "functions": 3,
        "classes": 1,
        "imports": ["json", "os"],
        "longest": ("long", 3),
    }


@pytest.mark.parametrize("source", [b"def broken(:\n", b"x = '\0'\n", b"# coding: no-such\n", b"\xff\xfe = 1\n"])
def test_a_file_that_does_not_parse_is_reported_not_raised(tasks: ModuleType, tmp_path: Path, source: bytes) -> None:
    path = tmp_path / "broken.py"
    path.write_bytes(source)
    report = tasks.index(str(path))
    assert report["error"].startswith(("SyntaxError", "ValueError"))
    assert report["functions"] == 0
