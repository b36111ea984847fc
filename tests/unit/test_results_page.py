"""The examples of docs/results.md do what the page says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from fastq.transports import memory
from tests.unit.app_worker import worker

PAGE = Path(__file__).parents[2] / "docs" / "results.md"


def test_the_examples_of_the_results_page_run() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) > 5
    names: dict[str, Any] = {"__name__": "results_page"}
    exec(compile(blocks[0], str(PAGE), "exec"), names)
    try:
        with worker(names["app"]):
            for block in blocks[1:]:
                exec(compile(block, str(PAGE), "exec"), names)
    finally:
        names["app"].close()
        memory.reset("results-page")
