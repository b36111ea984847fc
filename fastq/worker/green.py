"""A worker process of gevent or eventlet: a fresh interpreter that has patched itself before anything else was imported.

A fork of a process that knows ``ssl`` is patched too late, so there is no nursery for them. Started by ``starters.spawn_green``.
"""

from __future__ import annotations

import sys

from fastq.worker.kinship import die_with
from fastq.worker.link import Link
from fastq.worker.nursery import describe_failure, ignore_stop_signals, import_run_process, leave, live, settle_in
from fastq.worker.options import WorkerOptions

__all__ = ["main"]


def main() -> None:
    """Enter (``argv``: descriptors of link and board, the supervisor's pid): say hello, then live as told."""
    link_fd, board_fd, supervisor = map(int, sys.argv[1:4])
    # the application sees the arguments of nobody
    del sys.argv[1:]
    ignore_stop_signals()
    if not die_with(supervisor):
        leave(0)
    link = Link.from_fd(link_fd)
    first = link.receive_one()
    if first is None:
        leave(0)
    options = WorkerOptions.from_json(first["options"])
    try:
        # lazy: after the patching, and where its failure is told
        from fastq.worker.announce import Herald

        app, options, hello = settle_in(options)
        run = import_run_process()
    except Exception:
        link.send({"error": describe_failure()})
        leave(1)
    ignore_stop_signals()
    link.send({"hello": hello})
    request = link.receive_one()
    if request is None:
        leave(0)
    herald = Herald(app, options)
    link.heard = herald.hear
    code = live(app, options, request["live"], link, board_fd, run)
    herald.end()
    leave(code)
