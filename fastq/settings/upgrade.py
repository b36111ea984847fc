"""Rewrite a settings file from Celery's older names to the present ones. Layout and comments stay as they are."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from fastq.settings.table import SETTINGS, aliases

__all__ = ["Change", "upgrade"]


@dataclass(frozen=True, slots=True, order=True)
class Change:
    """One place where a name was changed, or (``why_not``) had to stay."""

    line: int
    old: str
    new: str
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class _Place:
    line: int
    #: bytes from the start of the line, as the ast module counts
    column: int
    old: str


def upgrade(source: str, *, namespace: str = "") -> tuple[str, list[Change]]:
    """Return the text with new names, and what was done.

    ``namespace``: write ``CELERY_TASK_ACKS_LATE``, as ``config_from_object(..., namespace='CELERY')`` reads it, instead of
    ``task_acks_late``. Names are changed where settings are given: assignments in the module and its classes with every use of
    them, keys of mappings, keywords of ``update(...)`` and ``dict(...)``, ``conf.NAME`` and ``conf['NAME']``. Names of environment
    variables stay. SyntaxError: the text is not Python.
    """
    tree = ast.parse(source)
    places = list(_places(tree))
    taken = _defined(tree)
    imported = _imported(tree)
    changes: list[Change] = []
    edits: dict[int, list[tuple[int, str, str]]] = {}
    winner: dict[str, str] = {}
    for place in sorted(places, key=lambda place: (place.line, place.column)):
        new = _new_name(place.old, namespace)
        if new == place.old:
            continue
        first = winner.setdefault(new, place.old)
        why_not = ""
        if place.old in imported:
            why_not = "it is imported: change it where it is defined"
        elif new in taken or first != place.old:
            why_not = f"{new if new in taken else first} stands in the file too: keep one of them"
        changes.append(Change(place.line, place.old, new, why_not))
        if not why_not:
            edits.setdefault(place.line, []).append((place.column, place.old, new))
    return _edited(source, edits), sorted(set(changes))


def _new_name(old: str, namespace: str) -> str:
    row = aliases()[old]
    return f"{namespace}_{row.name.upper()}" if namespace else row.name


#: functions whose keywords are settings
_TAKERS = ("update", "dict", "add_defaults")
#: every name that Celery had before 4.0
_OLD = frozenset(name for row in SETTINGS.values() for name in row.historic)


def _places(tree: ast.Module) -> Iterator[_Place]:
    """Find the names of settings that may be changed."""
    assigned = {name for name in _defined(tree) if name in _OLD}
    environment = _environment(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in assigned:
            yield _Place(node.lineno, node.col_offset, node.id)
        elif isinstance(node, ast.ImportFrom):
            # reported, never changed
            yield from (_Place(alias.lineno, alias.col_offset, alias.name) for alias in node.names if alias.name in _OLD)
        elif isinstance(node, ast.Call) and id(node) not in environment and _name_of(node.func) in _TAKERS:
            yield from (_Place(word.lineno, word.col_offset, word.arg) for word in node.keywords if word.arg in _OLD)
        elif isinstance(node, ast.Dict) and id(node) not in environment:
            yield from (place for key in node.keys if key is not None and (place := _text_place(key)))
        elif isinstance(node, ast.Attribute) and node.attr in _OLD and _name_of(node.value) == "conf":
            assert node.end_lineno is not None and node.end_col_offset is not None
            yield _Place(node.end_lineno, node.end_col_offset - len(node.attr), node.attr)
        elif isinstance(node, ast.Subscript) and _name_of(node.value) == "conf" and (place := _text_place(node.slice)):
            yield place


def _text_place(node: ast.expr) -> _Place | None:
    """Return the place of a name within quotes; None for anything but a plain literal of an old name."""
    if not isinstance(node, ast.Constant) or not isinstance(node.value, str) or node.value not in _OLD:
        return None
    assert node.end_col_offset is not None
    quotes, odd = divmod(node.end_col_offset - node.col_offset - len(node.value), 2)
    if node.lineno != node.end_lineno or odd or quotes not in (1, 3):
        return None
    return _Place(node.lineno, node.col_offset + quotes, node.value)


def _name_of(node: ast.expr) -> str:
    """Return the last word of ``a.b.c``."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _defined(tree: ast.Module) -> set[str]:
    """Return the names assigned in the module or in its classes, outside functions."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
                found.add(child.id)
            visit(child)

    visit(tree)
    return found


def _imported(tree: ast.Module) -> set[str]:
    return {alias.asname or alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}


def _environment(tree: ast.Module) -> set[int]:
    """Return the calls and mappings that are about environment variables, whose names are no settings."""
    found: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and "environ" in ast.unparse(node.func).split("."):
            found.add(id(node))
            found.update(id(part) for part in ast.walk(node) if isinstance(part, ast.Dict))
        elif isinstance(node, ast.keyword) and node.arg in ("env", "environ"):
            found.update(id(part) for part in ast.walk(node.value) if isinstance(part, ast.Dict | ast.Call))
    return found


#: lines as Python counts them: a form feed or a separator of Unicode ends none
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+\Z")


def _edited(source: str, edits: dict[int, list[tuple[int, str, str]]]) -> str:
    lines = _LINE.findall(source)
    for number, changes in edits.items():
        line = lines[number - 1].encode()
        for column, old, new in sorted(set(changes), reverse=True):
            end = column + len(old)
            assert line[column:end] == old.encode(), f"line {number}: {old} is not at column {column}"
            line = line[:column] + new.encode() + line[end:]
        lines[number - 1] = line.decode()
    return "".join(lines)
