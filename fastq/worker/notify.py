"""Wake a consumer that sleeps in ``select`` from a slot."""

from __future__ import annotations

import select
import socket
from collections.abc import Sequence

__all__ = ["Notifier", "wait_readable"]


class Notifier:
    """A descriptor that slots make readable when there is something for the consumer to do.

    The consumer calls ``arm``, looks once more, then sleeps; a slot that finds it armed writes. So a busy consumer costs
    its slots one attribute read. Story of the race: the slot appends its outcome *before* it reads ``armed``; the consumer
    sets ``armed`` *before* it looks for outcomes. Whichever comes second sees the other.
    """

    def __init__(self) -> None:
        # not a pipe: eventlet's os.write waits in the hub, which a signal handler must not; a non-blocking socket never does
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)
        self.armed = False

    def fileno(self) -> int:
        return self._read.fileno()

    def notify(self) -> None:
        """Wake the consumer if it sleeps. Any slot, and a signal handler, may call this."""
        if self.armed:
            self.armed = False
            try:
                self._write.send(b"\0")
            except BlockingIOError:
                return  # full: it is awake long since
            except OSError:
                return  # closed: the worker has stopped

    def clear(self) -> None:
        """Take in what was written; called by the consumer when it is awake."""
        self.armed = False
        try:
            while len(self._read.recv(512)) == 512:
                pass
        except BlockingIOError:
            return

    def close(self) -> None:
        self._read.close()
        self._write.close()


def wait_readable(fds: Sequence[int], timeout_s: float | None) -> list[int]:
    """Return those of ``fds`` that are readable, waiting at most ``timeout_s`` seconds (None: for ever).

    Looks ``poll`` up at each call: gevent replaces it with a cooperative one, eventlet takes it away (its ``select`` has no
    limit of 1,024 descriptors, the plain one has).
    """
    poll = getattr(select, "poll", None)
    if poll is None:
        return list(select.select(fds, [], [], timeout_s)[0])
    poller = poll()
    for fd in fds:
        poller.register(fd, select.POLLIN)
    # poll counts in ms and would make 0.4 ms a busy loop
    ready = poller.poll(None if timeout_s is None else max(1, round(timeout_s * 1000)) if timeout_s > 0 else 0)
    return [fd for fd, _ in ready]
