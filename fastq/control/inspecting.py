"""Questions to nodes, each a method: what ``app.control.inspect()`` returns."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from fastq.control.broadcasting import TIMEOUT_S, Reply
from fastq.exceptions import DuplicateNodenameWarning

if TYPE_CHECKING:
    from fastq.control.broadcasting import Broadcasting

__all__ = ["Inspect"]

#: node -> what it has answered; of a single destination given as text only the answer; None: nobody has answered
Answers = Any


class Inspect:
    """Ask nodes. Every method returns ``{node: answer}``, None if nobody has answered; a node that cannot answer a question gives
    ``{"error": text}``. With ``destination`` as text, not as a list, returns the answer of that node alone, as Celery does.
    """

    def __init__(
        self,
        control: Broadcasting,
        destination: str | Iterable[str] | None = None,
        timeout: float | None = TIMEOUT_S,
        callback: Callable[[Reply], object] | None = None,
        connection: Any = None,
        limit: int | None = None,
        pattern: str | None = None,
        matcher: str | None = None,
    ) -> None:
        self.control = control
        self.destination = destination
        self.timeout = timeout
        self.callback = callback
        self.limit = limit
        self.pattern = pattern
        self.matcher = matcher

    def _request(self, command: str, **arguments: Any) -> Answers:
        return self._ask(command, arguments, self.destination)

    def _ask(self, command: str, arguments: dict[str, Any], destination: str | Iterable[str] | None) -> Answers:
        replies = self.control.broadcast(
            command,
            arguments,
            destination,
            reply=True,
            timeout=self.timeout,
            limit=self.limit,
            callback=self.callback,
            pattern=self.pattern,
            matcher=self.matcher,
        )
        if not replies:
            return None
        by_node = {node: answer for reply in replies for node, answer in reply.items()}
        if len(by_node) < len(replies):
            said = [node for reply in replies for node in reply]
            twice = ", ".join(sorted(node for node in by_node if said.count(node) > 1))
            warnings.warn(
                f"several nodes call themselves {twice}, and only one answer of these is kept: give each its own name (worker -n)",
                DuplicateNodenameWarning,
                stacklevel=4,
            )
        if isinstance(destination, str) and self.pattern is None:
            return by_node.get(destination)
        return by_node

    # --- tasks ---

    def active(self, safe: bool | None = None) -> Answers:
        """The tasks that run."""
        return self._request("active", safe=safe)

    def reserved(self, safe: bool | None = None) -> Answers:
        """The tasks that a node has fetched and not begun."""
        return self._request("reserved", safe=safe)

    def scheduled(self, safe: bool | None = None) -> Answers:
        """The tasks with a countdown, an eta or a retry that wait in the queues of a node."""
        return self._request("scheduled", safe=safe)

    def revoked(self) -> Answers:
        """The ids of tasks that must not start."""
        return self._request("revoked")

    def query_task(self, *ids: Any) -> Answers:
        """What is known of tasks, by id: ``{id: [state, task]}``."""
        given = [one for id in ids for one in ([id] if isinstance(id, str) else id)]
        return self._request("query_task", ids=given)

    def registered(self, *taskinfoitems: str) -> Answers:
        """The names of the tasks that a node knows, each with these attributes that it has."""
        return self._request("registered", taskinfoitems=list(taskinfoitems))

    registered_tasks = registered

    # --- the node ---

    def ping(self, destination: str | Iterable[str] | None = None) -> Answers:
        """``{"ok": "pong"}``."""
        return self._ask("ping", {}, self.destination if destination is None else destination)

    def stats(self) -> Answers:
        """Counters, pool, broker, resources of a node."""
        return self._request("stats")

    def active_queues(self) -> Answers:
        """The queues that a node takes tasks from."""
        return self._request("active_queues")

    def conf(self, with_defaults: bool = False) -> Answers:
        """The settings of the application, secrets hidden; ``with_defaults``: also those that nobody has set."""
        return self._request("conf", with_defaults=with_defaults)

    def report(self) -> Answers:
        """What a report of a fault should say of a node."""
        return self._request("report")

    def clock(self) -> Answers:
        """The logical clock of a node."""
        return self._request("clock")

    def hello(self, from_node: str, revoked: Any = None) -> Answers:
        """What a node tells one that starts: its clock and the ids it knows as revoked."""
        return self._request("hello", from_node=from_node, revoked=revoked) if from_node else None

    def memsample(self) -> Answers:
        """The memory that a node's supervisor uses; note the sample."""
        return self._request("memsample")

    def memdump(self, samples: int = 10) -> Answers:
        """The samples noted by ``memsample``."""
        return self._request("memdump", samples=samples)

    def objgraph(self, type: str = "Request", n: int = 200, max_depth: int = 10) -> Answers:
        """A graph of objects in a node's memory, if it can draw one."""
        return self._request("objgraph", type=type, num=n, max_depth=max_depth)

    # --- older names ---

    dump_active = active
    dump_reserved = reserved
    dump_schedule = scheduled
    dump_revoked = revoked
    dump_conf = conf
    dump_tasks = registered
    registered_tasks = registered
