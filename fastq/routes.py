"""Which queue a task goes to, and which queues a worker takes tasks from.

The call's options win over the task's, those over ``task_routes``, and that over the default queue. Exchanges and keys are resolved
here, where a message is sent; brokers know queues only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fastq.exceptions import ImproperlyConfigured
from fastq.queues import Exchange, Queue, copy_queue, matches, queue_of, worker_direct
from fastq.settings.sources import import_object
from fastq.settings.table import suggest

__all__ = ["MapRoute", "Router"]

#: options of a call that say where it goes
_PLACE = ("queue", "exchange", "routing_key")
#: options that mean nothing once the queue is known
_AMQP = ("exchange", "exchange_type", "routing_key", "delivery_mode", "mandatory", "immediate")

_Options = dict[str, Any]
_Ask = Callable[[str, Sequence[Any], Mapping[str, Any], _Options, Any], Any]


class MapRoute:
    """Routes by the name of the task: exact names first, then globs and patterns in order; the first that matches wins."""

    def __init__(self, pairs: Iterable[tuple[Any, Any]]) -> None:
        self._names: dict[str, Any] = {}
        self._patterns: list[tuple[re.Pattern[str], Any]] = []
        for key, route in pairs:
            _check_route(route, f"task_routes[{key!r}]")
            if isinstance(key, re.Pattern):
                self._patterns.append((key, route))
            elif not isinstance(key, str):
                raise ImproperlyConfigured(f"task_routes: {key!r} is no name, glob or compiled pattern of tasks")
            elif "*" in key or "?" in key:
                glob = re.escape(key).replace(r"\*", ".*").replace(r"\?", ".")
                self._patterns.append((re.compile(glob + r"\Z", re.DOTALL), route))
            else:
                self._names.setdefault(key, route)

    def __call__(self, name: str) -> Any:
        if name in self._names:
            return self._names[name]
        for pattern, route in self._patterns:
            if pattern.match(name):
                return route
        return None


class Router:
    """The routing that some settings describe. Made anew when settings change (``conf.generation``); safe in any thread."""

    def __init__(self, conf: Any, *, audience: Callable[[str], Iterable[str]] | None = None) -> None:
        """``audience``: names the nodes that have a queue of a broadcast. ImproperlyConfigured: routes or queues make no sense."""
        self._audience = audience
        self._create_missing: bool = conf.task_create_missing_queues
        self._own_queue: bool = conf.worker_direct
        self._default: str = conf.task_default_queue
        self._exchange = Exchange(conf.task_default_exchange or self._default, conf.task_default_exchange_type)
        self._key: str = conf.task_default_routing_key or self._default
        #: every queue by name: those of task_queues, or the default queue alone
        self.queues: dict[str, Queue] = self._read_queues(conf.task_queues)
        self._routes: list[MapRoute | _Ask] = _prepare(conf.task_routes)
        self._broadcasts = any(queue.broadcast for queue in self.queues.values())
        #: whether a route may depend on more than the task's name and the call's options: then it is asked at each call
        self.dynamic: bool = self._broadcasts or any(not isinstance(route, MapRoute) for route in self._routes)

    def _read_queues(self, given: Any) -> dict[str, Queue]:
        if given is None or len(given) == 0:
            return {self._default: Queue(self._default, self._exchange, self._key)}
        named: Iterable[Any] = given
        if isinstance(given, Mapping):
            named = [_with_name(name, options) for name, options in given.items()]
        found: dict[str, Queue] = {}
        for value in named:
            queue = self._bind(queue_of(value, "task_queues"))
            if found.setdefault(queue.name, queue) != queue:
                raise ImproperlyConfigured(f"task_queues has two queues named {queue.name!r}: {found[queue.name]!r} and {queue!r}")
        return found

    def _bind(self, queue: Queue) -> Queue:
        """Give a queue the binding it does not name."""
        if queue.name == self._default:
            return queue.bound(self._exchange, self._key)
        if queue.routing_key:
            return queue.bound(self._exchange, queue.routing_key)
        return queue.bound(Exchange(queue.name), queue.name)

    # --- sending ---

    def route(
        self,
        name: str,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        task: Any = None,
    ) -> _Options:
        """Return the options of a call with its place resolved.

        ``options``: what the call and the task say, None for nothing. The answer has them with those of the matching route where
        they are None, without exchange and key, and with ``queue`` (one), or ``queues`` where a copy goes to each of several; that
        list is empty for a broadcast that no node listens to. ImproperlyConfigured: there is no such queue, or none takes the key.
        """
        merged: _Options = {key: value for key, value in (options or {}).items() if value is not None}
        if self._routes:
            found = self._look_up(name, args, kwargs or {}, merged, task)
            if found is not None:
                placed = any(merged.get(key) is not None for key in _PLACE)
                merged = {key: value for key, value in found.items() if not (placed and key in _PLACE)} | merged
        names = self._resolve(merged, name)
        for key in (*_AMQP, "queue"):
            merged.pop(key, None)
        if names is not None and len(names) == 1:
            merged["queue"] = names[0]
        else:
            merged["queues"] = names
        return merged

    def _look_up(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], options: _Options, task: Any) -> _Options | None:
        for route in self._routes:
            if isinstance(route, MapRoute):
                found = route(name)
            else:
                found = route(name, args, kwargs, options, task)
                if found is not None:
                    _check_route(found, f"the router {route!r}")
            if found is None:
                continue
            if isinstance(found, Mapping):
                return {key: value for key, value in found.items() if value is not None}
            return {"queue": found}
        return None

    def _resolve(self, options: Mapping[str, Any], task: str) -> list[str]:
        """Return the names of the queues that options mean."""
        queue, exchange, key = (options.get(part) for part in _PLACE)
        if queue:
            return self._named(queue, task)
        if exchange is not None and not isinstance(exchange, str):
            exchange = str(getattr(exchange, "name", exchange))
        if exchange:
            return self._of_exchange(exchange, key, task)
        if exchange == "" and key:  # the nameless exchange: the key is a queue's name
            return self._named(key, task)
        if key:
            own = self._bound(self._exchange.name, key) or [one for one in self.queues.values() if _direct(one, key)]
            if own:
                return self._copies(own)
        return self._named(self._default, task)

    def _named(self, queue: Any, task: str) -> list[str]:
        known: Queue | None
        if isinstance(queue, str):
            known = self.queues.get(queue)
        else:
            given = queue_of(queue, f"the queue of {task}")
            known = self.queues.get(given.name) or self._bind(given)
            queue = given.name
            if known.broadcast:
                return self._copies([known])
        if known is None:
            return [self._missing(queue, f"{task} is sent to it")]
        if known.exchange is not None and known.exchange.type == "fanout":
            # whoever sends to one queue of a fanout exchange sends to all of them
            return self._copies(self._bound(known.exchange.name, ""))
        return [known.name]

    def _of_exchange(self, exchange: str, key: str | None, task: str) -> list[str]:
        bound = self._at(exchange)
        if not bound:
            # a queue that is made when it is needed has an exchange and a key of its name
            if not key or key == exchange:
                return self._named(exchange, task)
            known = {queue.exchange.name for queue in self.queues.values() if queue.exchange is not None}
            raise ImproperlyConfigured(
                f"{task} is sent to the exchange {exchange!r}, which no queue is bound to{suggest(exchange, known, 0.6)}, so it "
                "would be lost. Give a queue, or bind one in task_queues."
            )
        if not key and len(bound) == 1:
            return self._copies(bound)
        wanted = key or self._key
        found = self._bound(exchange, wanted)
        if not found:
            bindings = ", ".join(f"{queue.name} ({queue.routing_key})" for queue in bound)
            raise ImproperlyConfigured(
                f"{task} is sent to the exchange {exchange!r} with the key {wanted!r}, which none of its queues takes: {bindings}. "
                "It would be lost."
            )
        return self._copies(found)

    def _bound(self, exchange: str, key: str) -> list[Queue]:
        return [queue for queue in self._at(exchange) if matches(queue.exchange.type, queue.routing_key, key)]  # type: ignore[union-attr]

    def _at(self, exchange: str) -> list[Queue]:
        return [queue for queue in self.queues.values() if queue.exchange is not None and queue.exchange.name == exchange]

    def _copies(self, queues: Iterable[Queue]) -> list[str]:
        names: list[str] = []
        for queue in queues:
            if not queue.broadcast:
                names.append(queue.name)
            elif self._audience is None:
                raise ImproperlyConfigured(
                    f"{queue.name!r} is a Broadcast queue, and the broker cannot tell which nodes listen to it; use a queue per "
                    "node (worker_direct) or a fanout exchange with named queues"
                )
            else:
                names += (copy_queue(queue.name, node) for node in self._audience(queue.name))
        return names

    def _missing(self, name: str, why: str) -> str:
        if not isinstance(name, str) or not name:
            raise TypeError(f"queue={name!r}: expected a queue's name")
        if not self._create_missing and not (self._own_queue and name.endswith(".dq")):
            raise ImproperlyConfigured(
                f"there is no queue {name!r}{suggest(name, self.queues, 0.6)}: {why}, task_queues names {', '.join(self.queues)}, "
                "and task_create_missing_queues is off"
            )
        return name

    # --- consuming ---

    def consumed(self, only: Iterable[str] = (), exclude: Iterable[str] = (), *, node: str | None = None) -> tuple[Queue, ...]:
        """Return the queues that a worker takes tasks from.

        ``only`` (``-Q``): these; one that ``task_queues`` does not name is bound to an exchange of its name. Without it: all of
        ``task_queues``, else the default queue. ``exclude`` (``-X``): not these. ``node``: also that node's own queue, where
        ``worker_direct`` is on. ImproperlyConfigured: nothing is left, or a queue is missing and must not be made.
        """
        excluded = set(exclude)
        chosen = [self.named(name) for name in only] or list(self.queues.values())
        chosen = [queue for queue in dict.fromkeys(chosen) if queue.name not in excluded]
        if not chosen:
            raise ImproperlyConfigured(f"no queue is left to take tasks from: left out are {', '.join(sorted(excluded))}")
        if self._own_queue and node:
            chosen.append(self._bind(worker_direct(node)))
        return tuple(chosen)

    def binding(self, name: str) -> str:
        """Return how a consumed queue is bound, as banners show it: ``exchange=default(direct) key=default``."""
        queue = self.queues.get(name) or next(
            (one for one in self.queues.values() if one.broadcast and name.startswith(f"{one.name}.")), Queue(name)
        )
        queue = self._bind(queue)
        assert queue.exchange is not None
        return f"exchange={queue.exchange.name}({queue.exchange.type}) key={queue.routing_key}"

    def named(self, name: str) -> Queue:
        """Return a queue by its name, made if it may be."""
        known = self.queues.get(name)
        return known or self._bind(Queue(self._missing(name, "a worker is to take tasks from it")))


def _direct(queue: Queue, key: str) -> bool:
    return queue.exchange is not None and queue.exchange.type == "direct" and queue.routing_key == key


def _with_name(name: Any, options: Any) -> Any:
    if options is None or isinstance(options, Mapping):
        return {**(options or {}), "name": name}
    return options


def _check_route(route: Any, where: str) -> None:
    if route is None or isinstance(route, Queue) or (isinstance(route, str) and route):
        return
    if isinstance(route, Mapping) and all(isinstance(key, str) for key in route):
        return
    if isinstance(getattr(route, "name", None), str) and hasattr(route, "routing_key"):  # kombu's
        return
    raise ImproperlyConfigured(f"{where} gives {route!r}: expected a queue's name, options such as {{'queue': 'x'}}, or None")


def _prepare(routes: Any) -> list[MapRoute | _Ask]:
    """Return the routers of ``task_routes``, in order."""
    if routes is None:
        return []
    if not isinstance(routes, list | tuple):
        routes = [routes]
    prepared: list[MapRoute | _Ask] = []
    pairs: list[Any] = []
    for route in (*routes, None):
        if _is_pair(route):
            pairs.append(route)
            continue
        if pairs:  # pairs that stand together are one map
            prepared.append(MapRoute(pairs))
            pairs = []
        if route is not None:
            prepared.append(_router(route))
    return prepared


def _is_pair(route: Any) -> bool:
    return (
        isinstance(route, list | tuple)
        and len(route) == 2
        and isinstance(route[0], str | re.Pattern)
        and not callable(route[1])
        and not _is_pair(route[1])
    )


def _router(route: Any) -> MapRoute | _Ask:
    if isinstance(route, Mapping):
        return MapRoute(route.items())
    if isinstance(route, list | tuple):
        if not all(_is_pair(pair) for pair in route):
            raise ImproperlyConfigured(f"task_routes: {route!r} is no list of pairs (name or pattern, route)")
        return MapRoute(route)
    if isinstance(route, str):
        route = import_object(route)
        if isinstance(route, Mapping | list | tuple):
            return _router(route)
    if isinstance(route, type):
        route = route()
    old_style = getattr(route, "route_for_task", None)
    if callable(old_style):

        def ask_old(name: str, args: Sequence[Any], kwargs: Mapping[str, Any], options: _Options, task: Any) -> Any:
            return old_style(name, args, kwargs)

        return ask_old
    if not callable(route):
        raise ImproperlyConfigured(f"task_routes: {route!r} is no mapping, router function, or dotted name of one")

    def ask(name: str, args: Sequence[Any], kwargs: Mapping[str, Any], options: _Options, task: Any) -> Any:
        return route(name, args, kwargs, options, task=task)

    ask.__qualname__ = getattr(route, "__qualname__", type(route).__qualname__)
    return ask
