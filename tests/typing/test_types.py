"""Types: what ``delay`` takes and what ``get`` gives are those of the function. mypy is the judge."""

from __future__ import annotations

from pathlib import Path

import pytest

HEAD = """
from typing import Any
from fastq import FastQ, Task, shared_task
app = FastQ("t")

@app.task
def add(x: int, y: int) -> int:
    return x + y

@app.task(name="named", queue="q")
def named(x: str, *, loud: bool = False) -> list[str]:
    return [x]

@app.task(bind=True)
def bound(self: Task[..., Any], x: int) -> float:
    return float(x)

@app.task
async def fetch(url: str) -> bytes:
    return b""

@app.task(bind=True, priority=3)
async def bound_fetch(self: Any, url: str) -> bytes:
    return b""

@shared_task
def shared(x: int) -> str:
    return ""

@shared_task(bind=True)
def shared_bound(self: Any, x: int) -> str:
    return ""
"""

REVEALED = {
    "add.delay(1, 2).get()": "int",
    "add(1, 2)": "int",
    "add.apply_async((1, 2), countdown=3).get(timeout=5)": "int",
    "add.delay_many([(1, 2)]).get()": "list[int]",
    "add.delay_many([(1, 2)])[0].get()": "int",
    "[r.get() for r in add.delay_many([(1, 2)]).iter_completed()]": "list[int]",
    "named.delay('a', loud=True).get()": "list[str]",
    "bound.delay(1).get()": "float",
    "bound(1)": "float",
    "fetch.delay('u').get()": "bytes",
    "bound_fetch.delay('u').get()": "bytes",
    "shared.delay(1).get()": "str",
    "shared_bound.delay(1).get()": "str",
    "add.AsyncResult('id').get()": "int",
    "app.AsyncResult('id').get()": "Any",
    "app.send_task('x').get()": "Any",
}

REVEALED_ASYNC = {
    "await add.adelay(1, 2)": "AsyncResult[int]",
    "await (await add.adelay(1, 2)).aget()": "int",
    "await fetch('u')": "bytes",
    "await (await fetch.aapply_async(('u',))).aget()": "bytes",
    "await (await add.adelay_many([(1, 2)])).aget()": "list[int]",
}

REFUSED = {
    'add.delay("x")': "arg-type|call-arg",
    'add.delay("x", 2)': "arg-type",
    "add.delay(1)": "call-arg",
    "add.delay(1, 2, 3)": "call-arg",
    "add.delay(1, z=2)": "call-arg",
    "add.delay(1, 2).get().upper()": "attr-defined",
    "named.delay('a', True)": "call-arg",
    "bound.delay(app, 1)": "call-arg|arg-type",
    "fetch.delay(3)": "arg-type",
    "shared.delay('x')": "arg-type",
    "add.apply_async((1, 2), countdwn=3)": "call-arg",
    "add.apply_async((1, 2), queue=3)": "arg-type",
    "add.delay_many([1, 2])": "list-item|arg-type",
}


def judge(tmp_path: Path, body: str) -> list[str]:
    """Return mypy's lines about a module of these lines."""
    from mypy import api

    path = tmp_path / "snippet.py"
    path.write_text(body)
    out, err, _ = api.run(
        ["--strict", "--no-error-summary", "--hide-error-context", "--no-pretty", f"--cache-dir={tmp_path}/cache", str(path)]
    )
    assert not err, err
    return out.splitlines()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_types_are_kept_and_mistakes_refused(tmp_path: Path) -> None:
    lines = HEAD.splitlines()
    expected: dict[int, tuple[str, str]] = {}
    for expression, kind in REVEALED.items():
        lines.append(f"reveal_type({expression})")
        expected[len(lines)] = (expression, kind)
    lines.append("async def main() -> None:")
    for expression, kind in REVEALED_ASYNC.items():
        lines.append(f"    reveal_type({expression})")
        expected[len(lines)] = (expression, kind)
    refused: dict[int, tuple[str, str]] = {}
    for expression, code in REFUSED.items():
        lines.append(expression)
        refused[len(lines)] = (expression, code)
    said: dict[int, list[str]] = {}
    for line in judge(tmp_path, "\n".join(lines) + "\n"):
        number = int(line.split(":", 2)[1])
        said.setdefault(number, []).append(line)
    for number, (expression, kind) in expected.items():
        text = " ".join(said.get(number, ["mypy said nothing"]))
        shown = text.replace("builtins.", "").replace("typing.", "").replace("fastq.result.", "").replace("collections.abc.", "")
        assert f'Revealed type is "{kind}"' in shown, f"{expression}: {text}"
        assert "error" not in text, f"{expression}: {text}"
    for number, (expression, code) in refused.items():
        text = " ".join(said.get(number, ["mypy said nothing"]))
        assert any(f"[{one}]" in text for one in code.split("|")), f"{expression}: {text}"
    strangers = {number: text for number, text in said.items() if number not in expected and number not in refused}
    assert not strangers
