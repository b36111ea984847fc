"""The examples of docs/canvas.md do what the page says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from fastq.testing import start_worker
from fastq.transports import memory

PAGE = Path(__file__).parents[2] / "docs" / "canvas.md"


def test_the_examples_of_the_canvas_page_run() -> None:
    page = PAGE.read_text(encoding="utf-8")
    examples = list(re.finditer(r"```python\n(.*?)```", page, flags=re.DOTALL))
    assert len(examples) > 8
    names: dict[str, Any] = {"__name__": "sums"}

    def run(example: re.Match[str]) -> None:
        # the line of an error is its line on the page
        exec(compile("\n" * (page[: example.start()].count("\n") + 1) + example[1], str(PAGE), "exec"), names)

    run(examples[0])
    try:
        with start_worker(names["app"]):
            for example in examples[1:]:
                run(example)
    finally:
        names["app"].close()
        memory.reset("canvas-page")
