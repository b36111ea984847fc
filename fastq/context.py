"""What a running task knows about its call: ``self.request``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fastq.running import Trail, current, directly_called

if TYPE_CHECKING:
    from fastq._core import Delivery
    from fastq.app import FastQ
    from fastq.task import Task

__all__ = ["Context", "begin_request", "described", "request_of"]


class Context:
    """What a running task knows about its call: ``self.request``. Read from the delivery when asked for.

    Attributes that code sets stay for the run; headers of the call are attributes too. ``callbacks``, ``errbacks`` and ``chain``
    are signatures in the form of dicts, as Celery has them.
    """

    #: the task object; ``task`` is its name, as in Celery
    _task: Task[..., Any] | None
    id: str | None
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    retries: int
    headers: dict[str, Any] | None
    delivery_info: dict[str, Any]

    def __init__(self, task: Task[..., Any] | None = None, delivery: Delivery | None = None, **values: Any) -> None:
        put = self.__dict__
        put["_task"] = task
        put["_delivery"] = delivery
        put.update(values)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        delivery: Delivery | None = self.__dict__.get("_delivery")
        read = _CONTEXT.get(name)
        if read is not None:
            value = read(self, delivery)
        elif name.startswith("_"):
            raise AttributeError(name)
        else:
            headers = self.headers
            if headers is None or name not in headers:
                if name in _ABSENT:
                    return None
                raise AttributeError(f"the request has no {name!r}")
            return headers[name]
        self.__dict__[name] = value
        return value

    def get(self, key: str, default: Any = None) -> Any:
        """Return an attribute, or the default where there is none."""
        return getattr(self, key, default)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Set attributes."""
        self.__dict__.update(*args, **kwargs)

    def clear(self) -> None:
        """Forget attributes that were set; what the delivery says stays."""
        kept = {key: self.__dict__.get(key) for key in ("_task", "_delivery")}
        self.__dict__.clear()
        self.__dict__.update(kept)

    @property
    def children(self) -> list[Any] | None:
        """Return the results of what this task has sent while it runs; None: nothing."""
        found = getattr(self.__dict__.get("_delivery") or self.trail, "children", None)
        if not found:
            return None
        from fastq.result_tree import result_from_tuple  # lazy: only where code asks for them

        return [result_from_tuple(child, self._task.app if self._task is not None else None) for child in found]

    def as_execution_options(self) -> dict[str, Any]:
        """Return the options that ``apply_async`` sends the same call with again: it takes the place of this one in its canvas."""
        return {
            "task_id": self.id,
            "root_id": self.root_id,
            "parent_id": self.parent_id,
            "group_id": self.group,
            "group_index": self.group_index,
            "shadow": self.shadow,
            "chord": self.chord,
            "chain": list(self._flow.get("chain") or ()) or None,
            "link": list(self._flow.get("links") or ()) or None,
            "link_error": list(self._flow.get("errbacks") or ()) or None,
            "expires": self.expires,
            "soft_time_limit": self.soft_time_limit,
            "time_limit": self.time_limit,
            "headers": self.headers,
            "retries": self.retries,
            "reply_to": self.reply_to,
            "replaced_task_nesting": self.replaced_task_nesting,
            "origin": self.origin or None,
            "priority": self.delivery_info.get("priority"),
        }

    def __repr__(self) -> str:
        return f"<Context: {self.id} args={self.args!r} kwargs={self.kwargs!r} retries={self.retries}>"


#: the request made for the delivery that runs here, so that what a task sets on it stays
_request: ContextVar[Context | None] = ContextVar("fastq_request", default=None)


def request_of(task: Task[..., Any]) -> Context:
    """Return what is known about the call of a task that runs here; an empty one outside of a call."""
    called = directly_called.get()
    if called is not None and called._task is task:
        return called
    delivery = current.get()
    if delivery is None or delivery.name != task.name:
        return Context(task)
    made = _request.get()
    if made is None or made.__dict__["_delivery"] is not delivery:
        made = Context(task, delivery)
        _request.set(made)
    return made


def begin_request(task: Task[..., Any], delivery: Delivery) -> Context:
    """Make the request of a run that begins here; whoever asks for it in this run, in whatever context, gets this one."""
    made = Context.__new__(Context)
    made.__dict__.update(_task=task, _delivery=delivery)
    _request.set(made)
    return made


# --- what the delivery says ---

_Read = Callable[[Context, "Delivery | None"], Any]


def _options(context: Context, d: Delivery | None) -> Mapping[str, Any]:
    return (d.options or {}) if d is not None else {}


def _flow(context: Context, d: Delivery | None) -> Mapping[str, Any]:
    return (d.flow or {}) if d is not None else {}


def _call(context: Context, d: Delivery | None) -> tuple[list[Any], dict[str, Any]]:
    if d is None or context._task is None:
        return [], {}
    args, kwargs = context._task.app.serializers.loads(d.content_type, d.body)
    return list(args), dict(kwargs)


def _level(context: Context, d: Delivery | None) -> int:
    return int(context._options.get("priority") or 0)


def _delivery_info(context: Context, d: Delivery | None) -> dict[str, Any]:
    if d is None:
        return {}
    level = context._level
    if context._task is not None and context._task.app.conf.get("task_priority_order") == "celery":
        level = 9 - level
    return {
        "exchange": "",
        "routing_key": context._options.get("routing_key") or d.queue,
        "priority": level,
        "redelivered": d.deliveries > 0 or bool(context._options.get("requeued")),
    }


def _nodes(key: str) -> _Read:
    def read(context: Context, d: Delivery | None) -> list[dict[str, Any]] | None:
        found = context._flow.get(key)
        if not found:
            return None
        app = context._task.app if context._task is not None else None
        return [described(node, app) for node in found]

    return read


def _limit(index: int, attribute: str) -> _Read:
    def read(context: Context, d: Delivery | None) -> float | None:
        own = (context._flow.get("limits") or (None, None))[index]
        if own is not None or d is None or context._task is None:
            return own
        option: float | None = getattr(context._task, attribute, None)
        return option if option is not None else context._task.app.conf.get(f"task_{attribute}")

    return read


def _hostname(context: Context, d: Delivery | None) -> str | None:
    return (context._task.app.hostname or None) if context._task is not None and (d is not None or context.is_eager) else None


def _properties(context: Context, d: Delivery | None) -> dict[str, Any]:
    if d is None:
        return {}
    properties: dict[str, Any] = {
        "correlation_id": context.id, "reply_to": context.reply_to, "delivery_info": context.delivery_info, "delivery_mode": 2,
        "priority": context.delivery_info["priority"],
    }  # fmt: skip
    if "app_id" in context._options:
        properties["app_id"] = context._options["app_id"]
    return properties


def _ms_iso(ms: int | None) -> str | None:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat() if ms else None


_CONTEXT: dict[str, _Read] = {
    "id": lambda c, d: d.id if d else None,
    "task_id": lambda c, d: c.id,
    "correlation_id": lambda c, d: c.id,
    "task": lambda c, d: d.name if d else c._task.name if c._task is not None else None,
    "_options": _options,
    "_flow": _flow,
    "_call": _call,
    "_level": _level,
    "_stores": lambda c, d: False,
    # where a task that runs eagerly notes what it has sent
    "trail": lambda c, d: Trail() if c.is_eager else None,
    "args": lambda c, d: c._call[0],
    "kwargs": lambda c, d: c._call[1],
    "argsrepr": lambda c, d: c._options.get("argsrepr"),
    "kwargsrepr": lambda c, d: c._options.get("kwargsrepr"),
    "retries": lambda c, d: d.retries if d else 0,
    "delivery_info": _delivery_info,
    "deliveries": lambda c, d: d.deliveries if d else 0,
    "headers": lambda c, d: c._options.get("headers"),
    "root_id": lambda c, d: c._options.get("root_id") or c.id,
    "parent_id": lambda c, d: c._options.get("parent_id"),
    "eta": lambda c, d: _ms_iso(c._options.get("eta_ms")),
    "expires": lambda c, d: _ms_iso(d.expires_ms) if d else None,
    "reply_to": lambda c, d: c._options.get("reply_to") or ((d.inbox or None) if d else None),
    # who sent it, as far as the message says: the producer that waits for its result
    "origin": lambda c, d: c._options.get("origin") or (d.inbox if d else ""),
    "shadow": lambda c, d: c._options.get("shadow"),
    "ignore_result": lambda c, d: d.ignore_result if d else False,
    "callbacks": _nodes("links"),
    "errbacks": _nodes("errbacks"),
    "chain": _nodes("chain"),
    "chord": lambda c, d: c._flow.get("join"),
    "group": lambda c, d: (c._options.get("group") or (None, None))[0],
    "group_index": lambda c, d: (c._options.get("group") or (None, None))[1],
    "soft_time_limit": _limit(0, "soft_time_limit"),
    "time_limit": _limit(1, "time_limit"),
    "timelimit": lambda c, d: [c.time_limit, c.soft_time_limit],
    "stamps": lambda c, d: (c.headers or {}).get("stamps"),
    "stamped_headers": lambda c, d: (c.headers or {}).get("stamped_headers"),
    "replaced_task_nesting": lambda c, d: c._options.get("replaced_task_nesting") or 0,
    "hostname": _hostname,
    "called_directly": lambda c, d: d is None,
    "is_eager": lambda c, d: False,
    "utc": lambda c, d: True,
    "properties": _properties,
}

#: attributes of Celery's request that nothing here has, such as the log level of a worker that is configured elsewhere
_ABSENT = frozenset({"loglevel", "logfile", "traceparent"})


# --- what follows, for the reader ---


def described(node: bytes, app: FastQ | None) -> dict[str, Any]:
    """Return a node of ``fastq.flow`` as a signature in the form of a dict; its arguments are None without an application."""
    from fastq import _core, flow  # lazy: only where code looks at what follows a task

    kind, *fields = _core.unpackb(node)
    if kind == flow.LEAF:
        id, name, queue, level, content_type, body, immutable, _, own, _ = fields
        args: Any = None
        kwargs: Any = None
        if app is not None:
            args, kwargs = app.serializers.loads(content_type, body)
        options: dict[str, Any] = {"task_id": id, "queue": queue}
        if level:
            options["priority"] = level
        follows = (own or {}).get("flow") or {}
        for key, option in (("links", "link"), ("errbacks", "link_error")):
            if follows.get(key):
                options[option] = [described(follow, app) for follow in follows[key]]
        return _signature(name, args, kwargs, options, immutable=immutable)
    if kind == flow.GROUP:
        members = [described(part, app) for part in fields[1]]
        return _signature("fastq.group", (), {"tasks": members}, {"task_id": fields[0]}, "group")
    if kind == flow.CHORD:
        header = _signature("fastq.group", (), {"tasks": [described(part, app) for part in fields[2]]}, {}, "group")
        return _signature("fastq.chord", (), {"header": header, "body": described(fields[3], app)}, {}, "chord")
    return _signature("fastq.chain", (), {"tasks": [described(part, app) for part in fields[0]]}, {}, "chain")


def _signature(
    name: str, args: Any, kwargs: Any, options: dict[str, Any], kind: str | None = None, *, immutable: bool = False
) -> dict[str, Any]:
    return {
        "task": name, "args": args, "kwargs": kwargs, "options": options, "subtask_type": kind, "immutable": immutable,
    }  # fmt: skip
