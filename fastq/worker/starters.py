"""How the supervisor gets processes: forked by the nursery, or as fresh interpreters that patch before anything else."""

from __future__ import annotations

import os
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from fastq.worker.kinship import die_with
from fastq.worker.link import Link
from fastq.worker.nursery import STOP_SIGNALS, nursery_main
from fastq.worker.options import WorkerOptions

__all__ = ["GREEN_POOLS", "NurseryHouse", "spawn_green"]

#: pools whose processes must patch before they import anything
GREEN_POOLS = ("gevent", "eventlet")

#: Patch, then import. Not ``fastq.pools.patch``, which does the same: to reach it, fastq itself would be imported first, with locks
#: that stay unpatched. Eventlet's notice that it is deprecated is for those who choose it, and they have.
_GREEN_CODE = {
    "gevent": "from gevent import monkey; monkey.patch_all(); from fastq.worker.green import main; main()",
    "eventlet": (
        "import warnings\n"
        "with warnings.catch_warnings():\n"
        "    warnings.filterwarnings('ignore', r'\\s*Eventlet is deprecated')\n"
        "    import eventlet\n"
        "eventlet.monkey_patch()\n"
        "from fastq.worker.green import main; main()"
    ),
}
_NURSERY_CODE = "from fastq.worker.nursery import main; main()"


def spawn(code: str, fds: Sequence[int], *args: str) -> int:
    """Start a fresh interpreter of this environment that inherits ``fds``; ``code`` finds their numbers, this process' pid
    and ``args`` in ``sys.argv[1:]``. Return its pid; the caller waits for it."""
    # lazy: only for fresh interpreters
    import subprocess

    # private, but what multiprocessing uses as well: the one place that knows how to pass on -X, -W, -I and the like
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    argv = [sys.executable, *flags, "-c", code, *map(str, fds), str(os.getpid()), *args]
    for fd in fds:
        os.set_inheritable(fd, True)
    sys.stdout.flush()
    try:
        # ^C in a terminal must not end it while it has no handlers yet: they wait until it has
        return os.posix_spawn(sys.executable, argv, os.environ, setsigmask=STOP_SIGNALS)
    finally:
        for fd in fds:
            os.set_inheritable(fd, False)


def spawn_green(pool: str, options: WorkerOptions, board_fd: int) -> tuple[int, Link]:
    """Start an interpreter that patches, imports the application and says hello; it then waits for ``{"live": ...}``."""
    link, theirs = Link.pair(patience_s=0)
    with theirs:
        pid = spawn(_GREEN_CODE[pool], (theirs.fileno(), board_fd))
    link.send({"options": options.to_json()})
    return pid, link


class NurseryHouse:
    """The supervisor's side of the nursery."""

    def __init__(self, options: WorkerOptions) -> None:
        self._options = options
        self.pid = 0
        self.link: Link

    def fork(self, close: Sequence[int] = ()) -> None:
        """Fork the first nursery, while this process has neither threads nor connections.

        ``close``: descriptors it must not keep.
        """
        supervisor = os.getpid()
        self.link, theirs = Link.pair(patience_s=0)
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid:
            theirs.close()
            return
        _be_nursery(theirs, [self.link.fileno(), *close], self._options, supervisor)

    def respawn(self) -> None:
        """Start another nursery after the first has died: a fresh interpreter, for this process has connections by now."""
        self.link.close()
        self.link, theirs = Link.pair(patience_s=0)
        with theirs:
            self.pid = spawn(_NURSERY_CODE, (theirs.fileno(),))
        self.link.send({"options": self._options.to_json()})

    def request(self, request: dict[str, Any], child: socket.socket, board_fd: int) -> None:
        """Ask for a fork; the answer is ``{"forked": serial, "pid": pid}``."""
        self.link.send({"fork": request}, (child.fileno(), board_fd))

    def close(self) -> None:
        """Let it go: it ends at the end of its link, at once even in the middle of an import."""
        self.link.close()
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)


def _be_nursery(theirs: socket.socket, close: Sequence[int], options: WorkerOptions, supervisor: int) -> None:
    try:
        for fd in close:
            os.close(fd)
        if die_with(supervisor):
            nursery_main(Link(theirs, fds=True), options, supervisor)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
