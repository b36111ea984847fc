"""The Lua scripts: one ``.lua`` file per verb, read once, with the snippets that its ``-- include: name`` lines ask for."""

from __future__ import annotations

import functools
import hashlib
import re
from dataclasses import dataclass
from importlib import resources

__all__ = ["Script", "names", "script"]

_INCLUDE = re.compile(r"^-- include: (\w+)$", re.MULTILINE)


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
    folder = resources.files(__package__) / "lua"
    return sorted(entry.name.removesuffix(".lua") for entry in folder.iterdir() if entry.name.endswith(".lua"))


def _assemble(name: str, included: set[str]) -> str:
    """Return a file's text, each snippet put in once, where it is first asked for."""
    folder = resources.files(__package__) / "lua"
    source = (folder / "include" / f"{name}.lua" if included else folder / f"{name}.lua").read_text("utf-8")
    included.add("")

    def replace(match: re.Match[str]) -> str:
        snippet = match[1]
        if snippet in included:
            return ""
        included.add(snippet)
        return _assemble(snippet, included)

    return _INCLUDE.sub(replace, source)
