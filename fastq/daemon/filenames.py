"""Names of pid and log files: what ``%n`` and its kind stand for."""

from __future__ import annotations

import re
import socket

from fastq.exceptions import ImproperlyConfigured

__all__ = ["expand", "per_process"]

#: what may stand behind a %
_LETTERS = "hndpiI%"


def expand(pattern: str, node: str = "", index: int | None = None) -> str:
    """Expand a file name of a node ``name@host``: ``%n`` name, ``%h`` host, ``%d`` domain of the host, ``%p`` the whole node name,
    ``%%`` a percent sign.

    ``index``: of a worker process, from 1; None: the main process. ``%i`` is the index (0 in the main process), ``%I`` the index
    behind a dash (nothing in the main process), so ``w%I.log`` is ``w.log``, ``w-1.log``, ``w-2.log``. ImproperlyConfigured for
    any other letter.
    """
    name, _, host = node.partition("@")
    host = host or socket.gethostname()
    values = {
        "n": name,
        "h": host,
        "d": host.partition(".")[2],
        "p": node,
        "i": str(index or 0),
        "I": f"-{index}" if index else "",
        "%": "%",
    }

    def value(match: re.Match[str]) -> str:
        letter = match[1]
        if letter not in values:
            raise ImproperlyConfigured(
                f"the file name {pattern!r} has {match[0]!r}, which stands for nothing: known are "
                + ", ".join(f"%{known}" for known in _LETTERS)
            )
        return values[letter]

    return re.sub(r"%(.?)", value, pattern, flags=re.DOTALL)


def per_process(pattern: str) -> bool:
    """Say whether every worker process has a file of its own."""
    return "%i" in (plain := pattern.replace("%%", "")) or "%I" in plain
