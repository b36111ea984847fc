"""The inbox of a backend that tells nobody: whoever waits must look."""

from __future__ import annotations

import os
import time

from fastq.exceptions import OperationalError

__all__ = ["SilentInbox"]


class SilentInbox:
    """``Inbox`` in which nothing ever arrives: a database calls nobody, so results are found by the waiter's own looks."""

    def __init__(self) -> None:
        self._pipe: tuple[int, int] | None = None
        self._closed = False

    def open(self) -> None:
        """There is nothing to subscribe to."""

    def fileno(self) -> int:
        """Return a descriptor that never becomes readable."""
        if self._pipe is None:
            self._pipe = os.pipe()
        return self._pipe[0]

    def read(self, timeout_s: float | None) -> list[tuple[str, bytes | None]]:
        """Return [] after the timeout, which there must be: None would wait for ever."""
        if self._closed:
            raise OperationalError("this inbox is closed")
        if timeout_s is None:
            raise ValueError("read(None) of an inbox in which nothing arrives would wait for ever")
        time.sleep(timeout_s)
        return []

    def close(self) -> None:
        self._closed = True
        pipe, self._pipe = self._pipe, None
        for fd in pipe or ():
            os.close(fd)
