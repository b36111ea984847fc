"""The nursery: a process with one thread and the application imported, that forks worker processes on request.

A fork copies held locks and open connections, so the process that forks has neither: the supervisor talks to the broker, the
nursery does not. It forks twice, so that the worker process loses its parent at once and becomes a child of the supervisor (a
subreaper), which then learns of its death by itself.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from fastq.daemon.filenames import expand
from fastq.worker.kinship import die_with
from fastq.worker.link import Link
from fastq.worker.options import WorkerOptions
from fastq.worker.procname import display_name, set_process_name

if TYPE_CHECKING:
    from fastq.app import FastQ

__all__ = ["main", "nursery_main"]

#: signature of ``fastq.worker.process.run_process``
RunProcess = Callable[..., int]

#: seconds that hooks and receivers have which are told of a task whose process was killed
TELL_S = 30.0

#: signals that reach every process of a terminal or a service; only the supervisor acts on them
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP)


def main() -> None:
    """Enter as a fresh interpreter (``argv``: link descriptor, supervisor's pid): the one that replaces a nursery that died."""
    link = Link.from_fd(int(sys.argv[1]), fds=True)
    supervisor = int(sys.argv[2])
    if not die_with(supervisor):
        os._exit(0)
    first = link.receive_one()
    if first is not None:
        nursery_main(link, WorkerOptions.from_json(first["options"]), supervisor)
    os._exit(0)


def nursery_main(link: Link, options: WorkerOptions, supervisor: int, *, run: RunProcess | None = None) -> None:
    """Import the application, say hello, then fork until the link ends. Never raises; the caller exits.

    ``supervisor``: pid of the process that is to become the parent of every worker process.
    """
    # lazy: imports what only a process with the application needs
    from fastq.worker.announce import STOPPED, before_fork

    ignore_stop_signals()
    set_process_name("Nursery")
    try:
        app, options, hello = settle_in(options)
        if run is None:
            run = import_run_process()
        prepare(hello["broker_url"])
    except Exception:
        link.send({"error": describe_failure()})
        return
    # the application may have put its own handlers in place while it was imported
    ignore_stop_signals()
    link.send({"hello": hello})
    # what exists now is shared by all processes for as long as nobody writes to it, the garbage collector included
    gc.collect()
    gc.freeze()
    while not link.closed:
        for message in link.wait(None):
            if "fork" in message:
                before_fork(app, options)
                _fork(link, app, options, supervisor, run, message["fork"])
            elif "apart" in message:
                _tell_apart(link, app, options, supervisor, message)
            elif "ask" in message:
                _answer(link, app, options, message)
            elif "told" in message:
                _tell(app, options, message["told"])
                if message["told"]["event"] == STOPPED:
                    return


def _tell(app: FastQ, options: WorkerOptions, told: Mapping[str, Any]) -> None:
    """Send a signal of the node, then drop the connections that its receivers may have made: forks are to come."""
    # lazy: as above
    from fastq.worker.announce import tell

    tell(app, options, told)
    app._disconnect()


def _answer(link: Link, app: FastQ, options: WorkerOptions, question: Mapping[str, Any]) -> None:
    """Answer a question of the node, then drop the connections that may have been made for it: forks are to come."""
    # lazy: as above
    from fastq.worker.answering import reply_to
    from fastq.worker.procname import expand_node

    link.send(reply_to(question, app, expand_node(options.hostname)))
    app._disconnect()


def _tell_apart(link: Link, app: FastQ, options: WorkerOptions, supervisor: int, question: dict[str, Any]) -> None:
    """Fork a process that tells of ends, if anybody is to be told; answer its pid, or 0.

    Of its own: a hook may take long, and what it opens must be in no process that is forked later.
    """
    # lazy: as above
    from fastq.worker.asking import packed, unpacked
    from fastq.worker.procname import expand_node
    from fastq.worker.telling import tell_ends, wanted

    ends = unpacked(question["packed"])["ends"]

    def be() -> None:
        link.close()
        set_process_name("Teller")
        faulthandler.dump_traceback_later(TELL_S, exit=True)
        move_in(app, options, expand_node(options.hostname))
        tell_ends(app, ends)
        app.close()

    pid = 0
    try:
        pid = _adopted(supervisor, be) if wanted(app, ends) else 0
    except Exception:  # the nursery must live
        traceback.print_exc()
    link.send({"answer": question["ask"], "packed": packed({"reply": pid})})


def settle_in(options: WorkerOptions) -> tuple[FastQ, WorkerOptions, dict[str, Any]]:
    """Import and finish the application; return it, the options with its settings merged in, and the hello."""
    # lazy: this module is imported by the supervisor too, which must not import the application's parts
    from fastq.finding import find_app
    from fastq.worker import announce
    from fastq.worker.hello import configure, introduce

    app = find_app(options.app, os.getcwd())
    announce.preloaded(app, options)
    options = announce.set_up(app, configure(app, options))
    return app, options, introduce(app, options).to_message()


def prepare(broker_url: str) -> None:
    """Import what every process will need, so that they share it."""
    # lazy: as above
    from fastq import transports

    transports.preload(broker_url)


def import_run_process() -> RunProcess:
    """Import the life of a worker process: after the application, which may configure what that imports."""
    # lazy: the supervisor imports this module too
    from fastq.worker.process import run_process

    return run_process


def describe_failure() -> str:
    """Return the current exception for the user: only its text if it is fastq's own, with the traceback if it is not."""
    # lazy: an error path
    from fastq.exceptions import FastQError
    from fastq.finding import user_traceback

    exc = sys.exception()
    assert exc is not None, "called outside of an except clause"
    return str(exc) if isinstance(exc, FastQError) else f"the application cannot be loaded.\n{user_traceback(exc)}"


def ignore_stop_signals() -> None:
    """Do nothing on a stop signal. Not SIG_IGN: the programs that tasks start would inherit it."""
    signal.set_wakeup_fd(-1)
    for signum in STOP_SIGNALS:
        if signum != signal.SIGHUP or signal.getsignal(signum) != signal.SIG_IGN:  # nohup is respected
            signal.signal(signum, _nothing)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # a fresh interpreter starts with them blocked (``starters.spawn``)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def _nothing(signum: int, frame: object) -> None:
    pass


def _fork(link: Link, app: FastQ, options: WorkerOptions, supervisor: int, run: RunProcess, request: dict[str, Any]) -> None:
    """Fork one worker process; tell the supervisor its pid."""
    child_fd, board_fd = link.take_fds(2)

    def be() -> int:
        link.close()
        return live(app, options, request, Link.from_fd(child_fd), board_fd, run)

    pid = _adopted(supervisor, be)
    for fd in (child_fd, board_fd):
        os.close(fd)
    link.send({"forked": request["serial"], "pid": pid})


def _adopted(supervisor: int, be: Callable[[], int | None]) -> int:
    """Fork a process by way of one in between, so that it is the supervisor's child and dies with it; return its pid."""
    sys.stdout.flush()
    sys.stderr.flush()
    read_fd, write_fd = os.pipe()
    between = os.fork()
    if between == 0:
        pid = os.fork()
        if pid:
            os.write(write_fd, b"%d" % pid)
            os._exit(0)
        os.close(read_fd)
        os.close(write_fd)
        _live(supervisor, be)
    os.close(write_fd)
    pid_text = os.read(read_fd, 32)
    os.close(read_fd)
    os.waitpid(between, 0)
    return int(pid_text or 0)


def _live(supervisor: int, be: Callable[[], int | None]) -> None:
    """Be such a process, from its first instruction to its last."""
    code = 1
    try:
        if not die_with(supervisor, adopted=True):
            os._exit(0)
        code = be() or 0
    except BaseException:
        traceback.print_exc()
    finally:
        leave(code)


def live(app: FastQ, options: WorkerOptions, request: dict[str, Any], link: Link, board_fd: int, run: RunProcess) -> int:
    """Run a worker process as ``request`` (of the supervisor) describes it; return its exit code."""
    set_process_name(display_name(request["pool"], request["index"]))
    try:
        move_in(app, options, request["node"], request["index"])
        return run(
            app,
            pool=request["pool"],
            slots=request["slots"],
            room=request["room"],
            queues=tuple(request["queues"]),
            options=options,
            index=request["index"],
            board_fd=board_fd,
            link=link,
            node=request["node"],
        )
    except Exception:
        link.send({"error": describe_failure()})
        return 1


def move_in(app: FastQ, options: WorkerOptions, node: str, index: int | None = None) -> None:
    """Make the application at home in a process that is going to run its tasks. ``index``: None in the main process (solo)."""
    # lazy: the supervisor imports this module too
    from fastq.log import setup_worker_logging

    app.hostname = node
    logfile = options.logfile and expand(options.logfile, node, None if index is None else index + 1)
    setup_worker_logging(options.loglevel, app.conf, logfile=logfile)


def leave(code: int) -> NoReturn:
    """End this process without the interpreter's farewell: threads of tasks, or of the application, must not hold it up."""
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError, AttributeError):
            continue  # closed or redirected by a task: nothing left to say
    os._exit(code)
