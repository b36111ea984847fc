"""Leave the terminal: start the same command again in a session of its own, and wait until it says that it has come up.

    shell ── fork ── exec ─▶ command --detach ── fork, setsid, exec ─▶ the same command without --detach
                                   ▲                                            │
                                   └── "up", or the end of the pipe ── pipe ◀───┘   (environment: FASTQ_UP_FD)

So ``--detach`` fails, with the reason, where a start in the foreground would: a wrong option, an application that cannot be
imported, a pid file of a living process.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Sequence

__all__ = ["is_detached", "leave_saying_up", "say_up", "start_detached"]

_UP_FD = "FASTQ_UP_FD"
#: an application that takes longer to import goes on doing so in the background
PATIENCE_S = 60.0


def is_detached() -> bool:
    """Say whether this process was started by ``start_detached``; afterwards what it starts itself does not inherit that."""
    fd = os.environ.get(_UP_FD, "")
    if not fd.isdigit():
        return False
    try:
        os.set_inheritable(int(fd), False)
    except OSError:  # somebody else's variable
        return False
    return True


def start_detached(command: Sequence[str], *, directory: str, output: str, executable: str | None = None) -> int:
    """Start ``fastq <command>`` in the background; return the exit code: 0 once it is up, its own if it ended before.

    ``directory``: where it starts. ``output``: the file that takes what it prints; if it fails, that is printed here too.
    ``executable``: the Python to run it, None: this one.
    """
    log = os.open(output, os.O_CREAT | os.O_APPEND | os.O_RDWR | os.O_CLOEXEC, 0o644)
    begin = os.lseek(log, 0, os.SEEK_END)
    read, write = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        _become_daemon(command, directory, log, write, executable)
    os.close(write)
    ready = select.select([read], [], [], PATIENCE_S)[0]
    told = os.read(read, 16) if ready else b"up"
    os.close(read)
    if told:
        os.close(log)
        return 0
    _, status = os.waitpid(pid, 0)
    os.lseek(log, begin, os.SEEK_SET)
    sys.stderr.write(os.read(log, 64 * 1024).decode(errors="replace"))
    os.close(log)
    return os.waitstatus_to_exitcode(status) or 1


def _become_daemon(command: Sequence[str], directory: str, log: int, write: int, executable: str | None) -> None:
    code = 1
    try:
        os.setsid()
        os.chdir(directory)
        null = os.open(os.devnull, os.O_RDWR)
        for at, source in enumerate((null, log, log)):
            os.dup2(source, at)
        os.set_inheritable(write, True)
        os.environ[_UP_FD] = str(write)
        python = executable or sys.executable
        os.execv(python, [python, "-m", "fastq", *command])
    except OSError as exc:
        os.write(2, f"Error: cannot start {executable or sys.executable}: {exc.strerror}\n".encode())
    finally:
        os._exit(code)


def say_up() -> None:
    """Tell the command that has started this one, if one waits, that the start has succeeded. Harmless to call again."""
    _let_go(b"up")


def leave_saying_up() -> None:
    """Let a process that was forked from this one ``say_up``."""
    _let_go(b"")


def _let_go(word: bytes) -> None:
    fd = os.environ.pop(_UP_FD, None)
    if fd is None:
        return
    try:
        if word:
            os.write(int(fd), word)
        os.close(int(fd))
    except (OSError, ValueError):
        return  # it has not waited
