"""Turn SQLite's errors into fastq's, once, at the transport's edge."""

from __future__ import annotations

import os
import sqlite3

from fastq.exceptions import FastQError, ImproperlyConfigured, OperationalError

__all__ = ["busy", "explain"]


def code(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code (0: the error is the Python module's own)."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def busy(error: sqlite3.Error) -> bool:
    """Say whether another connection holds a lock: the same step can succeed a moment later."""
    return code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def explain(error: sqlite3.Error, path: str, timeout_s: float, *, worked: bool) -> FastQError:
    """Return the error to raise: what was seen, and what to do. ``worked``: the file could be used before, so it is worth trying
    again (a disk mounted read-only after a fault, a directory away for a moment): OperationalError, whatever it is."""
    misuse = OperationalError if worked else ImproperlyConfigured
    match code(error):
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return OperationalError(
                f"{path} has been locked by another process for over {timeout_s:g} s: is it open in a tool, or a process stopped?"
            )
        case sqlite3.SQLITE_FULL:
            return OperationalError(f"{path} cannot grow: the disk is full (or a quota is reached). Nothing was changed.")
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
            return misuse(
                f"{path} cannot be written: fastq needs write permission on the file and on its directory (for -wal and -shm)."
            )
        case sqlite3.SQLITE_CANTOPEN:
            return misuse(f"{path} cannot be opened: {_why_not(path)}.")
        case sqlite3.SQLITE_NOTADB:
            return misuse(f"{path} is not an SQLite database: name another file, or move this one away.")
        case sqlite3.SQLITE_IOERR:
            # A limit on the size of files (ulimit -f) and some quotas come as this, not as a full disk.
            return OperationalError(
                f"{path} cannot be read or written ({error.sqlite_errorname}): the disk is full or failing, or a limit is reached. "
                "Nothing was changed."
            )
        case sqlite3.SQLITE_CORRUPT:
            return misuse(
                f"{path} is damaged ({error}): move it away, and save what can be read with `sqlite3 FILE .recover`."
            )
        case sqlite3.SQLITE_TOOBIG:
            return OperationalError(f"A message or result is larger than SQLite can hold ({error}).")
    return OperationalError(f"{path}: {getattr(error, 'sqlite_errorname', type(error).__name__)}: {error}")


def _why_not(path: str) -> str:
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        return f"there is no directory {folder}"
    if os.path.isdir(path):
        return "it is a directory"
    if os.path.exists(path):
        return "it may not be read and written by this user"
    return f"the directory {folder} may not be written by this user"
