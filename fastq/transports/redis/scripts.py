"""The Lua scripts: one ``.lua`` file per verb, read once. A line ``-- include: name`` stands for the snippet ``_name.lua``."""

from __future__ import annotations

import functools
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Script", "names", "script"]

_INCLUDE = re.compile(r"^-- include: (\w+)$", re.MULTILINE)

#: not importlib.resources: the compiled core is never in an archive, and that costs half a MiB
_FOLDER = Path(__file__).with_name("lua")


@dataclass(frozen=True, slots=True)
class Script:
    """A script as it is sent: its digest normally, its text when the server does not know it."""

    name: str
    text: bytes
    sha: bytes


@functools.cache
def script(name: str) -> Script:
    """Read and assemble the script of one verb."""
    text = _assemble(name, set()).encode()
    return Script(name, text, hashlib.sha1(text, usedforsecurity=False).hexdigest().encode())


def names() -> list[str]:
    """Return the verbs that have a script."""
    files = [entry.name for entry in _FOLDER.iterdir()]
    return sorted(name.removesuffix(".lua") for name in files if name.endswith(".lua") and not name.startswith("_"))


def _assemble(file: str, included: set[str]) -> str:
    """Return a file's text, each snippet put in once, where it is first asked for."""
    source = (_FOLDER / f"{file}.lua").read_text("utf-8")

    def replace(match: re.Match[str]) -> str:
        snippet = match[1]
        if snippet in included:
            return ""
        included.add(snippet)
        return _assemble(f"_{snippet}", included)

    return _INCLUDE.sub(replace, source)
