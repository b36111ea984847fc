"""What people call things: nodes, and processes in logs and in ``ps``."""

from __future__ import annotations

import re
import socket
import sys

from fastq.exceptions import ImproperlyConfigured

__all__ = ["display_name", "expand_node", "set_process_name"]

#: what logs call a process of each pool; without spaces, so that log lines can be split
_STEMS = {
    "prefork": "ForkPoolWorker",
    "threads": "ThreadPoolWorker",
    "asyncio": "AsyncioPoolWorker",
    "gevent": "GeventPoolWorker",
    "eventlet": "EventletPoolWorker",
}


def display_name(pool: str, index: int) -> str:
    """Return the process name for logs, counted from 1 as people do; solo is the main process."""
    stem = _STEMS.get(pool)
    return f"{stem}-{index + 1}" if stem else "MainProcess"


def set_process_name(name: str) -> None:
    """Make logging's ``processName`` and the kernel's short name (``ps -o comm``) tell what this process is."""
    # lazy: costs 5 ms, and a green child must patch before it is imported
    import multiprocessing

    multiprocessing.current_process().name = name
    if sys.platform.startswith("linux"):
        # the kernel keeps 15 bytes: the pool is what the command line tells already
        short = name[name.find("PoolWorker") :] if "PoolWorker" in name else name
        try:
            with open("/proc/self/comm", "w") as file:
                file.write(f"fq:{short}"[:15])
        except OSError:
            return  # cosmetic: a system that hides /proc shows the interpreter's name


def expand_node(pattern: str | None) -> str:
    """Expand ``%h`` (host with domain), ``%n`` (host's name part), ``%d`` (domain), ``%%``; default ``fastq@<host>``.

    A name without ``@`` gets the host appended, as Celery does.
    """
    host = socket.gethostname() or "localhost"
    name, _, domain = host.partition(".")
    values = {"h": host, "n": name, "d": domain, "%": "%"}
    text = re.sub(r"%([hnd%])", lambda m: values[m.group(1)], pattern or "fastq@%h")
    if "@" not in text:
        text = f"{text}@{host}"
    if re.search(r"\s|[^\x21-\x7e]", text):
        raise ImproperlyConfigured(f"the node name {text!r} contains white space or control characters; try -n name@%h")
    return text
