"""Commands that change how a node works: size of the pool, queues, limits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastq.exceptions import ImproperlyConfigured
from fastq.settings.table import suggest
from fastq.worker.capacity import CapacityError
from fastq.worker.control import Later

if TYPE_CHECKING:
    from fastq.worker.node import Node

__all__ = ["COMMANDS"]

Reply = dict[str, str]


# --- how many at once ---


def pool_grow(node: Node, n: Any = 1, **ignored: Any) -> Reply:
    """Run ``n`` tasks more at once: processes of prefork, slots in each process of the other pools."""
    return _resize(node, n, 1, "pool will grow")


def pool_shrink(node: Node, n: Any = 1, **ignored: Any) -> Reply:
    """Run ``n`` tasks less at once. What runs is finished."""
    return _resize(node, n, -1, "pool will shrink")


def _resize(node: Node, n: Any, sign: int, done: str) -> Reply:
    count = _whole(n)
    if count is None or count < 1:
        return {"error": f"n={n!r}: expected a whole number, 1 or more"}
    steering = node.steering
    size = steering.capacity.size + sign * count
    try:
        steering.capacity.resize(size)
    except CapacityError as exc:
        return {"error": str(exc)}
    steering.autoscaler.stretch(size)
    return {"ok": done}


def autoscale(node: Node, max: Any = None, min: Any = None, **ignored: Any) -> Reply:
    """Scale by itself between ``min`` and ``max`` from now on, whether the worker was started with --autoscale or not."""
    bounds: list[int | None] = []
    for name, value in (("max", max), ("min", min)):
        number = None if value is None else _whole(value)
        if value is not None and number is None:
            return {"error": f"{name}={value!r}: expected a whole number"}
        bounds.append(number)
    if bounds == [None, None]:
        return {"error": "autoscale needs max, min or both"}
    try:
        now = node.steering.autoscaler.update(*bounds)
    except CapacityError as exc:
        return {"error": str(exc)}
    return {"ok": f"autoscale now max={now.most} min={now.fewest}"}


def _whole(value: Any) -> int | None:
    """Return a whole number, also one written as text; None for anything else."""
    if isinstance(value, bool):
        return None
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if isinstance(value, str) or number == value else None


# --- which queues ---


def add_consumer(
    node: Node, queue: Any = None, exchange: Any = None, exchange_type: Any = None, routing_key: Any = None, **ignored: Any
) -> Reply:
    """Take tasks from ``queue`` too."""
    if error := _no_queue(queue):
        return error
    for name, value in (("exchange", exchange), ("routing_key", routing_key)):
        if value not in (None, "", queue):
            return {
                "error": f"{name}={value!r}: a worker takes from queues by their names, and which message goes to which queue is "
                "decided where it is sent: declare the binding in task_queues, then add the consumer of the queue alone"
            }
    fixed = node.hello.fixed_queues
    if fixed and queue not in fixed and queue not in node.known_queues:
        return {"error": f"no queue {queue!r} in task_queues{suggest(queue, fixed)}, and task_create_missing_queues is off"}
    try:
        added = node.steering.consuming.add(queue)
    except ConnectionError as exc:
        return {"error": str(exc)}
    return {"ok": f"add consumer {queue}" if added else f"already consuming from {queue!r}"}


def cancel_consumer(node: Node, queue: Any = None, **ignored: Any) -> Reply:
    """Take tasks from ``queue`` no more; those that run, or are about to, are finished."""
    if error := _no_queue(queue):
        return error
    if not node.steering.consuming.cancel(queue) and queue not in node.known_queues:
        return {"error": f"not consuming from {queue!r}{suggest(queue, node.known_queues)}"}
    return {"ok": f"no longer consuming from {queue}"}


def _no_queue(queue: Any) -> Reply | None:
    return None if isinstance(queue, str) and queue else {"error": f"queue={queue!r}: expected the name of a queue"}


# --- limits of tasks ---


def rate_limit(node: Node, task_name: Any = None, rate_limit: Any = None, **ignored: Any) -> Reply | Later:
    """Let runs of a task begin at most this often from now on: "10/s", "100/m", "5/h", a number a second; 0: no limit."""
    # lazy: brings what makes messages, and in most nodes no limit ever changes
    from fastq.worker.rates import per_second

    try:
        rate = per_second(rate_limit)
    except ImproperlyConfigured as exc:
        return {"error": f"Invalid rate limit string: {exc}"}
    if node.hello.rates_off:
        return {"error": "rate limits are switched off for this worker (worker_disable_rate_limits)"}
    order = {"do": "rate_limit", "task": task_name, "rate": rate}
    done = "new rate limit set successfully" if rate else "rate limit disabled successfully"
    # told first: what is recalled is limited anew
    return _limit(node, order, done, lambda: node.steering.recalls.begin(task_name, rate))


def time_limit(node: Node, task_name: Any = None, soft: Any = None, hard: Any = None, **ignored: Any) -> Reply | Later:
    """Set the time limits of a task's next runs, in seconds. None: as the settings say; 0: none."""
    limits: list[float | None] = []
    for name, value in (("soft", soft), ("hard", hard)):
        try:
            limits.append(None if value is None else _seconds(value))
        except (TypeError, ValueError):
            return {"error": f"{name}={value!r}: expected seconds, 0 for no limit, or nothing for what the settings say"}
    if limits[0] and limits[1] and limits[0] >= limits[1]:
        return {"error": f"soft={soft} is not less than hard={hard}: the task would be ended before it is told"}
    order = {"do": "time_limit", "task": task_name, "soft": limits[0], "hard": limits[1]}
    return _limit(node, order, "time limits set successfully")


def _seconds(value: Any) -> float:
    if isinstance(value, bool):
        raise TypeError(value)
    seconds = float(value)
    if not 0 <= seconds < float("inf"):
        raise ValueError(value)
    return seconds


def _limit(node: Node, order: dict[str, Any], done: str, then: Callable[[], object] = lambda: None) -> Reply | Later:
    """Give the order to all processes, present and future, if there is such a task; ``then`` what follows."""
    name = order["task"]
    if not isinstance(name, str):
        return {"error": f"task_name={name!r}: expected the name of a task"}

    def give() -> Reply:
        node.order(order, standing=f"{order['do']} {name}")
        then()
        return {"ok": done}

    if name in node.hello.tasks or name in node.hello.builtin:
        return give()

    # it may have been declared since the node began
    def ask(reply: Callable[[Any], None]) -> None:
        def answer(found: Any) -> None:
            names = found if isinstance(found, list) else node.hello.tasks
            reply(give() if name in names else {"error": f"unknown task{suggest(name, names)}"})

        node.ask({"what": "registered", "attributes": ("no attribute",), "builtins": True}, answer)

    return Later(ask)


#: name -> ``command(node, **arguments)``
COMMANDS: dict[str, Callable[..., Any]] = {
    command.__name__: command
    for command in (pool_grow, pool_shrink, autoscale, add_consumer, cancel_consumer, rate_limit, time_limit)
}
