"""The beat of a worker node that was started with ``-B``: a process of its own, whatever the pool, that ends with the node.

It is ``fastq beat`` like any other, so it shares the schedule with the beats of other nodes. One end of a pair of sockets is its
lifeline, the other tells the node of its death: neither needs a signal, and both hold after a kill.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from fastq.daemon.filenames import expand
from fastq.worker.shutdown import Stage

if TYPE_CHECKING:
    import subprocess

    from fastq.worker.loop import Timer
    from fastq.worker.node import Node
    from fastq.worker.options import WorkerOptions

__all__ = ["BeatChild", "add_beat", "arguments"]

logger = logging.getLogger("fastq.worker")

#: pause before one that has died is replaced, s: doubled each time, back to the first after LONG_S of life
AGAIN_S, AGAIN_MAX_S, LONG_S = 0.5, 30.0, 60.0
#: how long it has for handing over before it is killed, s
HANDOVER_S = 5.0


def arguments(options: WorkerOptions, node: str, lifeline: int) -> list[str]:
    """Return the arguments of ``fastq`` for the beat of a node."""
    words = ["beat", *(options.beat or ()), "--embedded", str(lifeline), "-l", options.loglevel, "-n", node]
    for flag, value in (("-A", options.app), ("-b", options.broker), ("--result-backend", options.result_backend)):
        if value is not None:
            words += (flag, value)
    if options.settings:
        words += ("--settings", json.dumps(options.settings))
    if options.include:
        words += ("--include", ",".join(options.include))
    if options.logfile is not None:
        words += ("-f", expand(options.logfile, node))
    return words


def add_beat(node: Node, options: WorkerOptions) -> None:
    """Give a node its beat, if its options ask for one. Before its services begin."""
    if options.beat is not None:
        child = BeatChild(node, options)
        node.services.add(child)
        node.services.on_changed.append(child.changed)


class BeatChild:
    """A service of a node, see ``services``."""

    def __init__(self, node: Node, options: WorkerOptions) -> None:
        self._node = node
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self._ours: socket.socket | None = None
        self._born_s = 0.0
        self._again_s = AGAIN_S
        self._timer: Timer | None = None
        self._ending = False

    @property
    def pid(self) -> int:
        """Return its pid, 0 while there is none."""
        return self._process.pid if self._process is not None else 0

    def start(self) -> None:
        self._timer = None
        if self._ending or self._node.stage is not Stage.RUNNING:
            return
        ours, theirs = socket.socketpair()
        with theirs:
            words = arguments(self._options, self._node.name, theirs.fileno())
            import subprocess  # lazy: few nodes keep a beat

            # a session of its own: Ctrl-C is the node's to pass on
            self._process = subprocess.Popen(
                [sys.executable, "-m", "fastq", *words],
                stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),), start_new_session=True,
            )  # fmt: skip
        self._ours = ours
        self._born_s = time.monotonic()
        self._node.loop.watch(ours.fileno(), self._lost)

    def changed(self) -> None:
        """Take in that the node stops: the lead is handed over at once, whatever its tasks still do."""
        if self._node.stage is not Stage.RUNNING:
            self._ending = True
            self._let_go()

    def _lost(self) -> None:
        """It has ended."""
        self._let_go()
        self._reap(0)
        if self._ending:
            return
        if time.monotonic() - self._born_s > LONG_S:
            self._again_s = AGAIN_S
        logger.error("The beat of this node (-B) has ended: another is started in %g s", self._again_s)
        self._timer = self._node.loop.after(self._again_s, self.start)
        self._again_s = min(self._again_s * 2, AGAIN_MAX_S)

    def _let_go(self) -> None:
        """Close the lifeline."""
        if self._ours is not None:
            self._node.loop.unwatch(self._ours.fileno())
            self._ours.close()
            self._ours = None

    def stop(self) -> None:
        self._ending = True
        if self._timer is not None:
            self._timer.cancel()
        self._let_go()
        if self._process is not None:
            self._reap(HANDOVER_S)

    def _reap(self, wait_s: float) -> None:
        import subprocess  # lazy: as above

        process = self._process
        assert process is not None
        try:
            # the node may have seen its death already: then there is nobody to wait for
            process.wait(max(wait_s, 1.0))
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
            process.wait()
        self._process = None
