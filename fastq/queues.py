"""What a queue and an exchange are: names, and the rule by which a key finds its queues.

A broker of fastq knows queues only. Exchanges and keys are names that ``fastq.routes`` resolves to queues before a message is sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastq.exceptions import ImproperlyConfigured

__all__ = ["Broadcast", "Exchange", "Queue", "copy_queue", "matches", "node_of", "queue_of", "worker_direct"]

_TYPES = ("direct", "topic", "fanout")


class Exchange:
    """A name that queues are bound to, and how it compares keys. ``durable``, ``delivery_mode`` and the like are accepted."""

    __slots__ = ("name", "type")

    def __init__(self, name: str = "", type: str = "direct", **accepted: Any) -> None:
        """``type``: ``direct`` (the key is equal), ``topic`` (``*`` is one word, ``#`` any number), ``fanout`` (every queue)."""
        if not isinstance(name, str):
            raise TypeError(f"Exchange(name={name!r}): expected text")
        if type not in _TYPES:
            raise ImproperlyConfigured(f"exchange {name!r} has the type {type!r}: expected {', '.join(_TYPES)}")
        self.name = name
        self.type = type

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Exchange) and (self.name, self.type) == (other.name, other.type)

    def __hash__(self) -> int:
        return hash((self.name, self.type))

    def __repr__(self) -> str:
        return f"<Exchange {self.name}({self.type})>"


class Queue:
    """A queue and how it is bound. Without an exchange and a key it is bound to one of its own name by its own name."""

    #: whether each node has one of its own
    broadcast = False

    def __init__(
        self,
        name: str = "",
        exchange: Any = None,
        routing_key: str = "",
        *,
        queue_arguments: Mapping[str, Any] | None = None,
        expires: float | None = None,
        max_priority: int | None = None,
        **accepted: Any,
    ) -> None:
        """``exchange``: an Exchange, kombu's, or its name. ``queue_arguments``, ``expires``, ``max_priority`` and further options
        of kombu are accepted: they are RabbitMQ's."""
        if not isinstance(name, str) or not name:
            raise TypeError(f"Queue(name={name!r}): expected the queue's name")
        self.name = name
        #: None: decided by the settings
        self.exchange = _exchange_of(exchange) if exchange else None
        self.routing_key = routing_key or ""
        self.queue_arguments = dict(queue_arguments or {})
        self.expires = expires
        self.max_priority = max_priority

    def bound(self, exchange: Exchange, routing_key: str) -> Queue:
        """Return the same queue with a binding where it has none."""
        if self.exchange is not None and self.routing_key:
            return self
        return type(self)(
            self.name, self.exchange or exchange, self.routing_key or routing_key,
            queue_arguments=self.queue_arguments, expires=self.expires, max_priority=self.max_priority,
        )  # fmt: skip

    def taken_by(self, node: str) -> tuple[str, ...]:
        """Return the names that a worker node takes tasks from."""
        return (self.name,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Queue) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[Any, ...]:
        return type(self), self.name, self.exchange, self.routing_key

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        exchange = f" exchange={self.exchange.name}({self.exchange.type})" if self.exchange else ""
        return f"<{type(self).__name__} {self.name}{exchange}{f' key={self.routing_key}' if self.routing_key else ''}>"


class Broadcast(Queue):
    """A queue of which every worker node gets a copy of each message. A node that is not running when it is sent gets none.

    Its copies go to a queue of the node, ``<name>.<node>``. The node also takes tasks from the name itself, to which nothing is
    sent: that tells others that it listens.
    """

    broadcast = True

    def __init__(self, name: str = "", exchange: Exchange | str | None = None, routing_key: str = "", **accepted: Any) -> None:
        accepted.pop("queue", None)
        accepted.pop("unique", None)
        super().__init__(name, exchange or Exchange(name, "fanout"), routing_key or name, **accepted)

    def taken_by(self, node: str) -> tuple[str, ...]:
        return (self.name, copy_queue(self.name, node))


def copy_queue(name: str, node: str) -> str:
    """Return the queue of a node's copies of what is sent to a Broadcast queue."""
    return f"{name}.{node}"


def node_of(process: str) -> str:
    """Return the node of a process' name, ``<node>.<index>.<random>``."""
    return process.rsplit(".", 2)[0]


def worker_direct(hostname: str | Queue) -> Queue:
    """Return the queue of one worker node, for ``queue=``; it exists where ``worker_direct`` is on."""
    return hostname if isinstance(hostname, Queue) else Queue(f"{hostname}.dq")


def matches(type: str, pattern: str, key: str) -> bool:
    """Say whether a queue bound with ``pattern`` gets what is sent with ``key``."""
    if type == "fanout":
        return True
    return _topic(pattern.split("."), key.split(".")) if type == "topic" else pattern == key


def _topic(pattern: list[str], words: list[str]) -> bool:
    # which beginnings of the pattern the words so far can be: no backtracking, so a pattern of many # is quick too
    reached = {0}
    for at, part in enumerate(pattern):
        if part == "#" and at in reached:
            reached.add(at + 1)
    for word in words:
        reached = {at if pattern[at] == "#" else at + 1 for at in reached if at < len(pattern) and pattern[at] in ("#", "*", word)}
        for at in range(len(pattern)):
            if at in reached and pattern[at] == "#":
                reached.add(at + 1)
    return len(pattern) in reached


def queue_of(value: Any, where: str) -> Queue:
    """Return a queue given in any form: a Queue, kombu's, a name, or a mapping of options with its name."""
    if isinstance(value, Queue):
        return value
    if isinstance(value, str) and value:
        return Queue(value)
    if isinstance(value, Mapping):
        options = dict(value)
        name = options.pop("name", None) or options.pop("queue", None)
        if name:
            exchange, type_ = options.pop("exchange", None), options.pop("exchange_type", None)
            if type_ is not None and isinstance(exchange, str | None):
                exchange = Exchange(exchange or name, type_)
            key = options.pop("routing_key", None) or options.pop("binding_key", None) or ""
            return Queue(name, exchange, key, **{str(option): given for option, given in options.items()})
    name = getattr(value, "name", None)
    if isinstance(name, str) and name and hasattr(value, "routing_key"):
        return _foreign(value, name)
    raise ImproperlyConfigured(f"{where}: {value!r} is no queue; expected fastq.queues.Queue('name'), its name, or a mapping")


def _foreign(value: Any, name: str) -> Queue:
    """Read a queue of kombu, known by its attributes."""
    exchange = _exchange_of(value.exchange) if getattr(value, "exchange", None) is not None else None
    if exchange is not None and not exchange.name:
        exchange = None
    if type(value).__name__ == "Broadcast":
        # kombu gives the queue itself a random name; the exchange has the one that the application chose
        return Broadcast(getattr(value, "alias", None) or (exchange.name if exchange else name))
    return Queue(
        name, exchange, getattr(value, "routing_key", "") or "",
        queue_arguments=getattr(value, "queue_arguments", None), expires=getattr(value, "expires", None),
        max_priority=getattr(value, "max_priority", None),
    )  # fmt: skip


def _exchange_of(value: Any) -> Exchange:
    """Read an exchange in any form."""
    if isinstance(value, Exchange):
        return value
    if isinstance(value, str):
        return Exchange(value)
    return Exchange(str(getattr(value, "name", None) or ""), str(getattr(value, "type", None) or "direct"))
