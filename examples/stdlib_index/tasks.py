"""Index one source file: what it defines, what it imports, which of its functions is longest."""

from __future__ import annotations

import ast
import warnings
from typing import NotRequired, TypedDict

from fastq import FastQ

# No broker named: FASTQ_BROKER_URL decides, else the embedded one (a file, no server).
# A queue of its own: the broker may be shared with other applications.
app = FastQ("stdlib_index", task_default_queue="stdlib_index")

# Old escapes in old tests; for the whole process, because slots share its filters.
warnings.simplefilter("ignore", SyntaxWarning)
warnings.filterwarnings("ignore", "invalid escape sequence", DeprecationWarning)


class Report(TypedDict):
    """What one file is made of. Files that do not parse carry only ``error``."""

    path: str
    lines: int
    functions: int
    classes: int
    imports: list[str]
    longest: tuple[str, int] | None
    error: NotRequired[str]


@app.task
def index(path: str) -> Report:
    """Parse one file; a file that is not valid Python (the standard library tests some) is reported, not raised."""
    report: Report = {"path": path, "lines": 0, "functions": 0, "classes": 0, "imports": [], "longest": None}
    with open(path, "rb") as file:
        source = file.read()
    report["lines"] = source.count(b"\n")
    try:
        tree = ast.parse(source, path)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as exc:
        report["error"] = f"{type(exc).__name__}: {exc}"
        return report
    imports: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            report["functions"] += 1
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if report["longest"] is None or length > report["longest"][1]:
                report["longest"] = (node.name, length)
        elif isinstance(node, ast.ClassDef):
            report["classes"] += 1
        elif isinstance(node, ast.Import):
            imports.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            imports.add(node.module.split(".")[0])
    report["imports"] = sorted(imports)
    return report


@app.task
def ping() -> str:
    """Answer, so that a caller knows the worker is up."""
    return "pong"
