"""Types: what ``delay`` takes and what ``get`` gives are those of the function. mypy and pyright are the judges."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HEAD = """
from typing import Any
from fastq import FastQ, Task, chain, chord, group, shared_task
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

class Mail(Task[[str], bool]):
    def run(self, to: str) -> bool:
        return True

mail = app.register_task(Mail())
mail_by_class = app.register_task(Mail)

@app.on_after_configure.connect
def configured(sender: FastQ, **kwargs: Any) -> None: ...
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
    "add.s(1).apply_async((2,)).get()": "int",
    "add.si(1, 2).delay().get()": "int",
    "add.s(1)": "Signature[int]",
    "add.signature((1,), {'y': 2})": "Signature[int]",
    "add.apply((1, 2)).get()": "int",
    "add.map([1]).delay().get()": "list[int]",
    "add.apply_async((1, 2), link=add.s(1), link_error=[add.s()], queue='q', priority=3, soft_time_limit=1.5).get()": "int",
    "bound.s(1)": "Signature[float]",
    "bound.si(1).delay().get()": "float",
    "fetch.si('u').delay().get()": "bytes",
    "shared.si(1).delay().get()": "str",
    "mail.delay('a').get()": "bool",
    "mail_by_class.delay('a').get()": "bool",
    "mail.si('a').delay().get()": "bool",
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
    "add.delay_many([(1, 2)], task_id='x')": "call-arg",
    "add.apply_async((1, 2), priority='high')": "arg-type",
    "add.si('x')": "call-arg",
    "add.si('x', 2)": "arg-type",
    "bound.si('x')": "arg-type",
    "mail.delay(3)": "arg-type",
    "app.send_task('x', countdwn=3)": "call-arg",
}


def lines_of_mypy(path: Path) -> list[tuple[int, str]]:
    """Return mypy's words about a module, each with its line."""
    from mypy import api

    out, err, _ = api.run(
        ["--strict", "--no-error-summary", "--hide-error-context", "--no-pretty", f"--cache-dir={path.parent}/cache", str(path)]
    )
    assert not err, err
    own = [line.split(":", 2) for line in out.splitlines() if line.startswith(f"{path}:")]
    return [(int(number), text) for _, number, text in own]


def lines_of_pyright(path: Path) -> list[tuple[int, str]]:
    """Return pyright's words about a module, each with its line; mistakes begin with their rule."""
    root = Path(__file__).parents[2]
    (path.parent / "pyrightconfig.json").write_text(
        json.dumps({"include": [path.name], "extraPaths": [str(root)], "typeCheckingMode": "standard"})
    )
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "-p", str(path.parent), "--pythonpath", sys.executable, "--outputjson"],
        capture_output=True, text=True, check=False, cwd=path.parent, timeout=240,
    )  # fmt: skip
    found = json.loads(done.stdout)["generalDiagnostics"]
    return [
        (one["range"]["start"]["line"] + 1, f"{one['severity']} {one.get('rule', '')}: {one['message']}")
        for one in found
        if one["range"]["start"]["line"] >= 0
    ]


def plain(text: str) -> str:
    for prefix in ("builtins.", "typing.", "fastq.results.", "fastq.result.", "fastq.canvas.signature.", "collections.abc."):
        text = text.replace(prefix, "")
    return text


def is_refused(said: dict[int, list[str]], number: int) -> bool:
    return any(text.lstrip().startswith("error") for text in said.get(number, ()))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("judge", [lines_of_mypy, lines_of_pyright])
def test_types_are_kept_and_mistakes_refused(tmp_path: Path, judge: Callable[[Path], list[tuple[int, str]]]) -> None:
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
    path = tmp_path / "snippet.py"
    path.write_text("\n".join(lines) + "\n")
    said: dict[int, list[str]] = {}
    for number, text in judge(path):
        said.setdefault(number, []).append(text)
    for number, (expression, kind) in expected.items():
        text = plain(" ".join(said.get(number, ["nothing was said"])))
        assert f'is "{kind}"' in text, f"{expression}: {text}"
        assert not is_refused(said, number), f"{expression}: {text}"
    for number, (expression, code) in refused.items():
        text = " ".join(said.get(number, ["nothing was said"]))
        assert is_refused(said, number), f"{expression}: {text}"
        if judge is lines_of_mypy:
            assert any(f"[{one}]" in text for one in code.split("|")), f"{expression}: {text}"
    strangers = {number: text for number, text in said.items() if number not in expected and number not in refused}
    assert not strangers
