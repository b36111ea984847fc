"""Hold every import of the package against the table of floors in docs/map.md."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "fastq"
TABLE = ROOT / "docs" / "map.md"
#: floors whose members must not know each other, only what the folder's base modules offer
APART = {"2a": {"transports", "transports.base", "transports.channel", "transports.timetable", "transports.judging"}}


@dataclass(frozen=True)
class Floor:
    name: str
    modules: tuple[str, ...]
    floors: frozenset[str]
    alone: frozenset[str]
    libraries: frozenset[str]


@dataclass(frozen=True)
class Import:
    line: int
    #: dotted, the package's own without "fastq."
    module: str
    own: bool
    in_function: bool
    reasoned: bool


def read_table(text: str) -> dict[str, Floor]:
    floors: dict[str, Floor] = {}
    rows = iter(text.splitlines())
    for row in rows:
        if re.match(r"\|\s*floor\s*\|\s*modules", row):
            break
    next(rows)
    for row in rows:
        if not row.startswith("|"):
            break
        name, modules, may, libraries = (cell.strip() for cell in row.strip("|").split("|"))
        floors[name] = Floor(
            name,
            tuple(re.findall(r"`([^`]+)`", modules)),
            frozenset(re.sub(r"`[^`]+`", "", may).split()) | {name},
            frozenset(re.findall(r"`([^`]+)`", may)),
            frozenset(re.findall(r"`([^`]+)`", libraries)),
        )
    return floors


def floor_of(module: str, floors: dict[str, Floor]) -> Floor | None:
    """Return the floor that names the module or the longest part of its path."""
    parts = module.split(".")
    for end in range(len(parts), 0, -1):
        for floor in floors.values():
            if ".".join(parts[:end]) in floor.modules:
                return floor
    return None


def name_of(path: Path, package: Path) -> str:
    parts = list(path.relative_to(package).with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts) or "fastq"


def own_module(dotted: str, package: Path) -> str:
    """Return ``a.b`` for what ``from fastq.a import b`` or ``import fastq.a.b`` means: the longest path that is a module."""
    parts = dotted.split(".")[1:]
    while parts:
        base = package.joinpath(*parts)
        if base.is_dir() or any(base.with_suffix(suffix).exists() for suffix in (".py", ".pyi", ".pyx")):
            return ".".join(parts)
        parts.pop()
    return "fastq"


def has_reason(lines: list[str], at: int) -> bool:
    """Tell if the import on that line gives its reason: behind it, or above it and the imports it stands with."""
    reason = re.compile(r"#.*\blazy: \S")
    while at >= 0:
        if reason.search(lines[at]):
            return True
        at -= 1
        if not re.match(r"\s*(import |from |#)", lines[at]):
            return False
    return False


def imports(path: Path, package: Path) -> Iterator[Import]:
    source = path.read_text(encoding="utf-8")
    lines = source.splitlines()
    here = ["fastq", *path.relative_to(package).parts]

    def visit(node: ast.AST, in_function: bool) -> Iterator[Import]:
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(here[: -node.level]) if node.level else ""
            module = ".".join(filter(None, [base, node.module or ""]))
            names = [f"{module}.{alias.name}" for alias in node.names] if module.split(".")[0] == "fastq" else [module]
        if names:
            assert isinstance(node, ast.Import | ast.ImportFrom)
            reasoned = has_reason(lines, node.lineno - 1)
            for name in names:
                own = name.split(".")[0] == "fastq"
                yield Import(node.lineno, own_module(name, package) if own else name, own, in_function, reasoned)
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for child in node.orelse:  # the body is for type checkers: nothing is imported
                yield from visit(child, in_function)
            return
        inner = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inner)

    yield from visit(ast.parse(source, str(path)), False)


def offences(package: Path, floors: dict[str, Floor]) -> list[str]:
    found: list[str] = []
    for path in sorted(package.rglob("*.py")):
        module = name_of(path, package)
        where = path.relative_to(package.parent)
        floor = floor_of(module, floors)
        if floor is None:
            found.append(f"{where}: {module} stands on no floor; add it to the table in docs/map.md")
            continue
        for imported in imports(path, package):
            at = f"{where}:{imported.line}:"
            if imported.in_function and not imported.reasoned:
                found.append(f"{at} imports {imported.module} inside a function without '# lazy: reason'")
            if not imported.own:
                library = imported.module.split(".")[0]
                if library not in sys.stdlib_module_names and library not in floor.libraries:
                    found.append(f"{at} floor {floor.name} may not import the library {library}")
                continue
            target = floor_of(imported.module, floors)
            if target is None:
                continue  # reported at its own file
            if target.name not in floor.floors and imported.module not in floor.alone:
                found.append(f"{at} floor {floor.name} ({module}) may not import floor {target.name} ({imported.module})")
            shared = APART.get(floor.name, set())
            if target is floor and shared and imported.module not in shared and module not in shared:
                ours, theirs = module.split(".")[:2], imported.module.split(".")[:2]
                if ours != theirs:
                    found.append(f"{at} {module} may not import its sibling {imported.module}")
    return found


def test_every_import_stays_within_its_floors() -> None:
    found = offences(PACKAGE, read_table(TABLE.read_text(encoding="utf-8")))
    assert not found, "\n" + "\n".join(found)


def test_each_kind_of_offence_is_found(tmp_path: Path) -> None:
    package = tmp_path / "fastq"
    files = {
        "__init__.py": "",
        "exceptions.py": "import msgpack\n",
        "task.py": "from fastq import exceptions\nfrom fastq.transports import redis\nif TYPE_CHECKING:\n    import fastq.worker\n",
        "stray.py": "",
        "transports/__init__.py": "def open():\n    # lazy: only when asked\n    from fastq.transports import redis\n",
        "transports/sqlite.py": "from .redis import broker\nimport json\n",
        "transports/redis/__init__.py": "",
        "transports/redis/broker.py": "from fastq.transports.redis import keys\nfrom fastq.pools.base import Pool\n",
        "transports/redis/keys.py": "def names():\n    import string\n",
        "pools/__init__.py": "",
        "pools/base.py": "def both():\n    # lazy: only both\n    import json\n    from fastq import task\n",
    }
    for name, text in files.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert offences(package, read_table(TABLE.read_text(encoding="utf-8"))) == [
        "fastq/exceptions.py:1: floor 0 may not import the library msgpack",
        "fastq/pools/base.py:4: floor 2b (pools.base) may not import floor 3 (task)",
        "fastq/stray.py: stray stands on no floor; add it to the table in docs/map.md",
        "fastq/task.py:2: floor 3 (task) may not import floor 2a (transports.redis)",
        "fastq/transports/redis/broker.py:2: floor 2a (transports.redis.broker) may not import floor 2b (pools.base)",
        "fastq/transports/redis/keys.py:2: imports string inside a function without '# lazy: reason'",
        "fastq/transports/sqlite.py:1: transports.sqlite may not import its sibling transports.redis.broker",
    ]
