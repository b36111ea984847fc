"""What nodes can be told to change: their pools, queues, limits, events."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

from fastq.control.broadcasting import Broadcasting, Reply

__all__ = ["Steering"]

#: what each method takes beside its own arguments
Destination = str | Iterable[str] | None
Replies = list[Reply] | None


class Steering(Broadcasting):
    """The commands of ``app.control``.

    Each takes ``destination``, ``pattern``, ``matcher``, ``reply``, ``timeout``, ``limit`` and ``callback`` as ``broadcast`` does,
    and returns what that returns: None, or with ``reply=True`` a list of ``{node: {"ok": text}}`` or ``{node: {"error": text}}``.
    """

    def ping(self, destination: Destination = None, timeout: float | None = 1.0, **options: Any) -> list[Reply]:
        """Return ``{node: {"ok": "pong"}}`` of every node that answers."""
        return self.broadcast("ping", destination=destination, reply=True, timeout=timeout, **options) or []

    # --- how many at once ---

    def pool_grow(self, n: int = 1, destination: Destination = None, **options: Any) -> Replies:
        """Let each node run ``n`` tasks more at once."""
        return self.broadcast("pool_grow", {"n": n}, destination, **options)

    def pool_shrink(self, n: int = 1, destination: Destination = None, **options: Any) -> Replies:
        """Let each node run ``n`` tasks less at once; what runs is finished."""
        return self.broadcast("pool_shrink", {"n": n}, destination, **options)

    def autoscale(self, max: int, min: int, destination: Destination = None, **options: Any) -> Replies:
        """Let each node scale itself between ``min`` and ``max``."""
        return self.broadcast("autoscale", {"max": max, "min": min}, destination, **options)

    def pool_restart(
        self,
        modules: Iterable[str] | None = None,
        reload: bool = False,
        reloader: Any = None,
        destination: Destination = None,
        **options: Any,
    ) -> Replies:
        """Replace the worker processes of each node one by one; each finishes what it runs. Modules are not loaded anew."""
        if reloader is not None:
            raise ValueError("pool_restart(reloader=...): a function cannot be sent to a node, and nodes load no modules anew")
        arguments = {"modules": None if modules is None else list(modules), "reload": reload}
        return self.broadcast("pool_restart", arguments, destination, **options)

    # --- which queues ---

    def add_consumer(
        self,
        queue: str,
        exchange: str | None = None,
        exchange_type: str = "direct",
        routing_key: str | None = None,
        options: dict[str, Any] | None = None,
        destination: Destination = None,
        **kwargs: Any,
    ) -> Replies:
        """Let each node take tasks from a queue too, until it ends."""
        arguments = {"queue": queue, "exchange": exchange, "exchange_type": exchange_type, "routing_key": routing_key}
        return self.broadcast("add_consumer", {**arguments, **(options or {})}, destination, **kwargs)

    def cancel_consumer(self, queue: str, destination: Destination = None, **options: Any) -> Replies:
        """Let each node take no more tasks from a queue."""
        return self.broadcast("cancel_consumer", {"queue": queue}, destination, **options)

    # --- limits ---

    def rate_limit(self, task_name: str, rate_limit: int | float | str, destination: Destination = None, **options: Any) -> Replies:
        """Limit how often a task starts: "10/s", "100/m", "5/h", a number a second, 0 for no limit."""
        return self.broadcast("rate_limit", {"task_name": task_name, "rate_limit": rate_limit}, destination, **options)

    def time_limit(
        self,
        task_name: str,
        soft: float | None = None,
        hard: float | None = None,
        destination: Destination = None,
        **options: Any,
    ) -> Replies:
        """Limit how long a task runs, seconds."""
        return self.broadcast("time_limit", {"task_name": task_name, "soft": soft, "hard": hard}, destination, **options)

    # --- the node itself ---

    def enable_events(self, destination: Destination = None, **options: Any) -> Replies:
        """Let each node tell monitors of its tasks."""
        return self.broadcast("enable_events", {}, destination, **options)

    def disable_events(self, destination: Destination = None, **options: Any) -> Replies:
        """Let each node tell monitors of its tasks no more."""
        return self.broadcast("disable_events", {}, destination, **options)

    def heartbeat(self, destination: Destination = None, **options: Any) -> Replies:
        """Let each node say at once how it is."""
        return self.broadcast("heartbeat", {}, destination, **options)

    def shutdown(self, destination: Destination = None, **options: Any) -> Replies:
        """Stop nodes as TERM does: what runs is finished. Without a destination all of them."""
        return self.broadcast("shutdown", {}, destination, **options)

    def election(self, id: str, topic: str, action: Any = None, connection: Any = None) -> NoReturn:
        raise NotImplementedError(
            "election(): nodes of fastq elect nobody. Where one of several must do something, a periodic task does: any number of "
            "beats share one schedule, and exactly one fires each run."
        )
