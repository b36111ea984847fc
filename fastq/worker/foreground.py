"""How signals reach a solo worker: its keeper decides what they mean, for a task may keep this process from looking.

A signal is written to a wire by the interpreter's own handler in C, which runs also while a task holds the GIL. A cold stop comes
back as a signal, with a mark in shared memory that says what it is.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import socket
import sys
import time
from types import FrameType

from fastq.worker.link import Link
from fastq.worker.nursery import STOP_SIGNALS
from fastq.worker.say import say
from fastq.worker.shutdown import Shutdown, Stage

__all__ = ["Foreground", "Wires"]

#: places in the shared memory
_LEAVE, _SOFT = 0, 1


class Wires:
    """What foreground and keeper share beside their link; made before the fork."""

    def __init__(self) -> None:
        self._keepers, self._foregrounds = socket.socketpair()
        self._keepers.setblocking(False)
        self._foregrounds.setblocking(False)
        self._marks = mmap.mmap(-1, mmap.PAGESIZE)

    def keep_keeper_end(self) -> None:
        self._foregrounds.close()

    def keep_foreground_end(self) -> None:
        self._keepers.close()

    @property
    def leave(self) -> bool:
        """The keeper has decided: leave in the middle of the task."""
        return self._marks[_LEAVE] == 1

    @leave.setter
    def leave(self, value: bool) -> None:
        self._marks[_LEAVE] = int(value)

    @property
    def soft_or_colder(self) -> bool:
        """The stop is one that may leave tasks unfinished."""
        return self._marks[_SOFT] == 1

    @soft_or_colder.setter
    def soft_or_colder(self, value: bool) -> None:
        self._marks[_SOFT] = int(value)

    # --- the keeper ---

    def fileno(self) -> int:
        return self._keepers.fileno()

    def receive(self) -> list[int] | None:
        """Return the stop signals that have come; None if there is nobody who could send any."""
        try:
            data = self._keepers.recv(4096)
        except BlockingIOError:
            return []
        except OSError:
            return None
        return [number for number in data if number in STOP_SIGNALS] if data else None

    # --- the foreground ---

    def wake(self) -> None:
        """Have the interpreter write every signal that comes."""
        signal.set_wakeup_fd(self._foregrounds.fileno(), warn_on_full_buffer=False)

    def rewake(self, signum: int) -> None:
        """See to it that this signal, just handled, was written: a task's event loop may have taken the wire away for itself."""
        before = signal.set_wakeup_fd(self._foregrounds.fileno(), warn_on_full_buffer=False)
        if before == self._foregrounds.fileno():
            return
        with contextlib.suppress(OSError):  # the keeper is gone: the end of the link stops the consumer
            os.write(self._foregrounds.fileno(), bytes([signum]))
        if before != -1:
            signal.set_wakeup_fd(before, warn_on_full_buffer=False)


class Foreground:
    """The process that runs the tasks, as far as its end is concerned."""

    def __init__(self, link: Link, keeper_pid: int, wires: Wires, *, remap: bool) -> None:
        self._link = link
        self._keeper_pid = keeper_pid
        self._wires = wires
        self._shutdown = Shutdown(remap=remap)
        self._pid = os.getpid()
        self._ended = False
        #: the application is there; before, a signal ends the process
        self.ready = False
        os.register_at_fork(after_in_child=self._forked)

    def take_signals(self) -> None:
        for signum in STOP_SIGNALS:
            if signum != signal.SIGHUP or signal.getsignal(signum) != signal.SIG_IGN:  # nohup is respected
                signal.signal(signum, self._on_signal)
        self._wires.wake()

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        """Runs between any two instructions of a task, so it touches nothing that may be in use."""
        if self._ended:
            return
        if self._wires.leave or self._link.closed:  # or the keeper is gone
            self._leave(1)
        if self.ready:
            self._wires.rewake(signum)
            return
        cold = self._shutdown.signal(signum, time.monotonic(), busy=False) is not Stage.WARM
        say(f"worker: {'Cold' if cold else 'Warm'} shutdown (MainProcess)")
        self._leave(self._shutdown.exit_code)

    def _leave(self, code: int) -> None:
        """Exit in the middle of whatever runs; the keeper reads the end of the link, and hands back."""
        for stream in (sys.__stdout__, sys.__stderr__):
            if stream is not None:
                with contextlib.suppress(Exception):  # the signal may have come in the middle of writing to it
                    stream.flush()
        os._exit(code)

    def _forked(self) -> None:
        """In a process that a task has forked: a signal to that one is none of the worker's."""
        if os.getpid() != self._pid and not self._ended:
            signal.set_wakeup_fd(-1)
            for signum in (signal.SIGTERM, signal.SIGQUIT):
                if signal.getsignal(signum) == self._on_signal:
                    signal.signal(signum, signal.SIG_DFL)

    def let_go(self) -> int:
        """End the link and wait until the keeper has handed back what is left; 1 if it could not do its work."""
        self._ended = True
        signal.set_wakeup_fd(-1)
        self._link.close()
        if not self._keeper_pid:
            return 0
        pid, self._keeper_pid = self._keeper_pid, 0
        try:
            _, status = os.waitpid(pid, 0)
        except ChildProcessError:  # a task has waited for all children of this process
            return 0
        finally:
            # one more signal changes nothing now; not our handlers, which the interpreter takes away before it ends
            for signum in STOP_SIGNALS:
                signal.signal(signum, signal.SIG_IGN)
        return 0 if status == 0 else 1
