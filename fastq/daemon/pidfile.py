"""A file that holds the pid of the one process that may run under its name."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from fastq.exceptions import ImproperlyConfigured

__all__ = ["PidFile", "is_alive", "read_pid"]

#: seconds within which a file that was made is written: one that is empty for longer was left by a process that died
WRITTEN_S = 3.0


class PidFile:
    """Hold a pid file for as long as the ``with`` block lasts.

    One that is left of a process that does not exist any more is taken over. ImproperlyConfigured if it names a living process,
    holds something else, or cannot be written. Only the process that has written it removes it: forks leave it alone.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self._owner = 0

    def __enter__(self) -> PidFile:
        text = f"{os.getpid()}\n"
        while True:
            try:
                fd = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            except FileExistsError:
                self._take_over()
            except OSError as exc:
                raise ImproperlyConfigured(f"the pid file {self.path} cannot be written: {exc.strerror}") from exc
            else:
                break
        with os.fdopen(fd, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(fd)
        self._owner = os.getpid()
        return self

    def _take_over(self) -> None:
        """Remove a file whose process is gone.

        Two that start at once and find the same file: A removes it and makes its own, then B would remove that. So whoever looks
        locks what it looks at, and B sees that the name leads elsewhere by now. A file that is empty may have been made just now.
        """
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return  # removed meanwhile
        except OSError as exc:
            raise ImproperlyConfigured(f"the pid file {self.path} cannot be read: {exc.strerror}") from exc
        with file:
            with suppress(OSError):  # a file system that knows no locks: one start at a time is safe there too
                fcntl.flock(file, fcntl.LOCK_EX)
            pid = _parsed(self.path, file.read())
            seen = os.fstat(file.fileno())
            if not pid and 0 <= time.time() - seen.st_mtime < WRITTEN_S:
                time.sleep(0.02)
                return
            if pid and pid != os.getpid() and is_alive(pid):
                raise ImproperlyConfigured(
                    f"the pid file {self.path} exists and names process {pid}, which is running: stop that first, or give "
                    "another --pidfile"
                )
            with suppress(FileNotFoundError):
                if os.path.samestat(seen, self.path.stat()):
                    self.path.unlink()

    def __exit__(
        self, kind: type[BaseException] | None = None, exc: BaseException | None = None, trace: TracebackType | None = None
    ) -> None:
        if self._owner == os.getpid():
            with suppress(OSError, ImproperlyConfigured):
                if read_pid(self.path) == self._owner:  # not one that was put in its place
                    self.path.unlink()


def read_pid(path: Path) -> int | None:
    """Return the pid in a file, 0 if the file is empty (its writer died), None if there is no file.

    ImproperlyConfigured if it holds something else."""
    try:
        return _parsed(path, path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise ImproperlyConfigured(f"the pid file {path} cannot be read: {exc.strerror}") from exc


def _parsed(path: Path, data: bytes) -> int:
    text = data.decode(errors="replace").strip()
    if text and not (text.isascii() and text.isdigit()):
        raise ImproperlyConfigured(f"{path} is no pid file: it holds {text[:40]!r}, expected a number. Remove it if it is yours")
    return int(text or 0)


def is_alive(pid: int) -> bool:
    """Say whether a process exists and has not just ended: one that nobody has waited for yet does not count."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    except OverflowError:
        return False
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True


def send(pid: int, signum: int) -> bool:
    """Send a signal; False if the process does not exist. PermissionError if it is somebody else's."""
    try:
        os.kill(pid, signal.Signals(signum) if signum in signal.valid_signals() else signum)
    except ProcessLookupError:
        return False
    return True
