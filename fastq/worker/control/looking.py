"""Commands that look at a node (``fastq inspect``). Their replies have the form of Celery's."""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fastq.queues import Exchange
from fastq.transports import open_inspector, url_fields
from fastq.transports.base import PARKED_MS
from fastq.worker.control import Later
from fastq.worker.control.tasks import described, held
from fastq.worker.opening import transport_options

if TYPE_CHECKING:
    from fastq.worker.node import Node

__all__ = ["COMMANDS"]

#: delayed tasks of one queue that are shown at most, the next due first, and how many are read at once
SCHEDULED_MAX, SCHEDULED_STEP = 1_000, 50
#: bytes of delayed messages that are read at most
SCHEDULED_BYTES = 16 * 1024 * 1024
#: what Celery gives every task in its timer
TIMER_PRIORITY = 6


def ping(node: Node) -> Any:
    """Answer."""
    return {"ok": "pong"}


def clock(node: Node) -> Any:
    """Return the broker's clock, Unix ms: it rises as Celery's logical clock does."""
    return {"clock": node.services.heartbeat.now_ms() or 0}


def hello(node: Node, from_node: str = "", revoked: Any = None) -> Any:
    """Say hello as Celery's workers do at start. What is revoked is known to the broker, so there is nothing to tell."""
    return None if from_node == node.name else {"revoked": {}, "clock": node.services.heartbeat.now_ms() or 0}


# --- tasks ---


def active(node: Node, safe: bool | None = False) -> Any:
    """Return the tasks that run."""
    return _shown(node, (task for task in held(node) if task.started), safe)


def reserved(node: Node, safe: bool | None = False) -> Any:
    """Return the tasks that a process has and has not started."""
    return _shown(node, (task for task in held(node) if not task.started), safe)


def _shown(node: Node, tasks: Iterable[Any], safe: bool | None) -> list[dict[str, Any]]:
    shown = (described(node, task.queue, task.message, task, safe=bool(safe)) for task in tasks)
    return [one for one in shown if one is not None]


def scheduled(node: Node, safe: bool | None = False) -> Any:
    """Return the delayed tasks that wait in the broker, in the queues of this node; not those put aside for a pause."""
    return [
        {"eta": _iso(due_ms), "priority": TIMER_PRIORITY, "request": request}
        for due_ms, request in _delayed(node, safe=bool(safe))
        if due_ms < PARKED_MS
    ]


def _delayed(node: Node, *, safe: bool) -> list[tuple[int, dict[str, Any]]]:
    inspector = open_inspector(node.hello.broker_url, transport_options(node.hello))
    found = []
    size = 0
    try:
        for queue in node.queues:
            for offset in range(0, SCHEDULED_MAX, SCHEDULED_STEP):
                step = inspector.delayed(queue, SCHEDULED_STEP, offset)
                for due_ms, _, message in step:
                    size += len(message)
                    request = described(node, queue, message, safe=safe)
                    if request is not None:
                        found.append((due_ms, request))
                if len(step) < SCHEDULED_STEP or size > SCHEDULED_BYTES:
                    break
    finally:
        inspector.close()
    return found


def _iso(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="microseconds")


def query_task(node: Node, ids: str | Sequence[str]) -> Any:
    """Return (active, reserved, scheduled or paused; the task) of those of these tasks that are here, or wait for this node."""
    wanted = {ids} if isinstance(ids, str) else set(ids)
    found: dict[str, Any] = {}
    for task in held(node):
        info = described(node, task.queue, task.message, task)
        if info is not None and info["id"] in wanted:
            found[info["id"]] = ["active" if task.started else "reserved", info]
    if wanted - set(found):
        for due_ms, info in _delayed(node, safe=False):
            if info["id"] in wanted:
                found.setdefault(info["id"], ["scheduled" if due_ms < PARKED_MS else "paused", info])
    return found


def revoked(node: Node) -> Any:
    """Return the ids that are revoked, as the broker knows them."""
    return node.revoked()


# --- what the application knows ---


def registered(node: Node, taskinfoitems: Sequence[str] | None = None, builtins: bool = False) -> Any:
    """Return the names of the tasks, with attributes."""
    question = {"what": "registered", "attributes": list(taskinfoitems or ()), "builtins": builtins}
    # without attributes the node knows them itself, should nobody answer
    return _later(node, question, otherwise=None if taskinfoitems or builtins else list(node.hello.tasks))


def conf(node: Node, with_defaults: bool = False) -> Any:
    """Return the settings; passwords and keys are hidden."""
    return _later(node, {"what": "conf", "with_defaults": with_defaults})


def report(node: Node) -> Any:
    """Return what belongs into a report of an error: versions, platform, settings."""
    return _later(node, {"what": "report"})


def custom_commands(node: Node) -> Any:
    """Return what is to be known of the commands that the application has added."""
    return _later(node, {"what": "panel"})


def custom_call(node: Node, name: str, words: Sequence[str] = ()) -> Any:
    """Carry out a command of the application as a command line gives it: what the words mean, its own code says."""
    return _later(node, {"what": "command", "name": name, "words": list(words)})


def _later(node: Node, question: dict[str, Any], otherwise: Any = None) -> Later:
    """Ask the application; ``otherwise``: the reply if it does not answer, None: the error."""

    def start(reply: Callable[[Any], None]) -> None:
        def told(answer: Any) -> None:
            reply((otherwise or {"error": str(answer)}) if isinstance(answer, Exception) else answer)

        node.ask(question, told)

    return Later(start)


# --- the node ---


def active_queues(node: Node) -> Any:
    """Return the queues that are taken from, with all that kombu's ``Queue.as_dict`` has."""
    bound = dict(zip(node.hello.queues, node.hello.bindings, strict=False))
    return [_queue(name, bound.get(name, "")) for name in node.queues]


def _queue(name: str, binding: str) -> dict[str, Any]:
    """Return a queue; ``binding`` is how the banner shows it: ``exchange=default(direct) key=default``."""
    exchange, key = Exchange(name), name
    if binding:
        place, _, key = binding.removeprefix("exchange=").partition(" key=")
        exchange_name, _, kind = place.removesuffix(")").rpartition("(")
        exchange = Exchange(exchange_name, kind)
    return {
        "name": name,
        "exchange": {
            "name": exchange.name,
            "type": exchange.type,
            "arguments": None,
            "durable": True,
            "passive": False,
            "auto_delete": False,
            "delivery_mode": None,
            "no_declare": False,
        },
        "routing_key": key,
        "queue_arguments": None,
        "binding_arguments": None,
        "consumer_arguments": None,
        "durable": True,
        "exclusive": False,
        "auto_delete": False,
        "no_ack": False,
        "alias": None,
        "bindings": [],
        "no_declare": None,
        "expires": None,
        "message_ttl": None,
        "max_length": None,
        "max_length_bytes": None,
        "max_priority": None,
        "dead_letter_exchange": None,
        "dead_letter_routing_key": None,
    }


def stats(node: Node) -> Any:
    """Return what the node has done so far, and what it is made of."""
    processes = node.processes()
    totals = Counter({name: task.ran for name, task in node.tallies.totals().tasks.items()})
    totals.update(name for process in processes for _, _, name, _ in process.board.active())
    slots = node.steering.capacity.slots * len(processes)
    return {
        "total": {name: count for name, count in totals.items() if count},
        "pid": node.pid,
        "clock": str(node.services.heartbeat.now_ms() or 0),
        "uptime": math.ceil(time.time() - node.started_at),
        "prefetch_count": slots,
        "pool": {
            "implementation": node.hello.pool,
            "max-concurrency": slots,
            "processes": [process.pid for process in processes if process.pid],
            "max-tasks-per-child": node.hello.max_tasks_per_child or "N/A",
            "put-guarded-by-semaphore": False,
            "timeouts": list(node.hello.limits),
            "restarts": dict(node.restarts),
        },
        **node.steering.autoscaler.info(),
        "broker": _broker(node),
        "rusage": _rusage(),
        "lease": {"seconds": node.hello.lease_ms / 1000, "reachable": node.reachable},
    }


def _broker(node: Node) -> dict[str, Any]:
    """Return where the broker is, with the fields of Celery; no password."""
    hello = node.hello
    where = url_fields(hello.broker_display)
    return where | {
        "insist": False,
        "ssl": where["transport"] in ("rediss", "sentinel+tls"),
        "connect_timeout": hello.transport.get("connect_timeout_s"),
        "transport_options": {},
        "login_method": None,
        "uri_prefix": None,
        "heartbeat": 0,
        "failover_strategy": "round-robin",
        "alternates": [],
    }


def _rusage() -> dict[str, Any]:
    try:
        import resource  # lazy: not there on every system
    except ImportError:
        return {}
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        name: getattr(used, f"ru_{name}")
        for name in (
            "utime", "stime", "maxrss", "ixrss", "idrss", "isrss", "minflt", "majflt", "nswap", "inblock", "oublock", "msgsnd",
            "msgrcv", "nsignals", "nvcsw", "nivcsw",
        )
    }  # fmt: skip


# --- memory ---


def memsample(node: Node) -> Any:
    """Return the resident memory of the node's main process and of its worker processes."""
    pids = [process.pid for process in node.processes() if process.pid]
    return {"rss": _rss(os.getpid()), "processes": {str(pid): _rss(pid) for pid in pids}}


def _rss(pid: int) -> str | None:
    """Return the resident memory of a process, None where the system does not tell."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            pages = int(file.read().split()[1])
    except (OSError, IndexError, ValueError):
        return None
    return f"{pages * os.sysconf('SC_PAGE_SIZE') / 2**20:.1f}MB"


def memdump(node: Node, samples: int = 10) -> Any:
    """Refuse, with what to use instead."""
    return {"error": "memdump: samples are not kept in the worker; ask for memsample again and again, or watch /metrics"}


def objgraph(node: Node, num: int = 200, max_depth: int = 10, type: str = "Request") -> Any:
    """Refuse, with what to use instead."""
    return {
        "error": "objgraph: the node's main process runs no code of the application, so there is nothing to draw; use memray or "
        "objgraph inside a worker process (memsample gives their pids)"
    }


COMMANDS: dict[str, Callable[..., Any]] = {
    "ping": ping,
    "clock": clock,
    "hello": hello,
    "active": active,
    "reserved": reserved,
    "scheduled": scheduled,
    "query_task": query_task,
    "revoked": revoked,
    "registered": registered,
    "conf": conf,
    "report": report,
    "custom_commands": custom_commands,
    "custom_call": custom_call,
    "active_queues": active_queues,
    "stats": stats,
    "memsample": memsample,
    "memdump": memdump,
    "objgraph": objgraph,
    # older names of Celery
    "dump_active": active,
    "dump_reserved": reserved,
    "dump_schedule": scheduled,
    "dump_revoked": revoked,
    "dump_tasks": registered,
    "registered_tasks": registered,
    "dump_conf": conf,
}
