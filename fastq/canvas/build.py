"""Build what travels of a canvas: a node of ``fastq.flow``, and the results that it will have.

Every task gets its id, queue and encoded arguments here, once, whoever runs it later. Two rules turn steps into nodes. A fork with
something behind it is a chord, whose body is what comes next if that is one task, else the built-in task ``fastq.accumulate``,
which returns the list that it is given. A fork that nothing follows, in a place where nothing waits for its end, is a group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from fastq import _core, flow
from fastq.calling.body import body
from fastq.canvas.maps import xmap, xstarmap
from fastq.canvas.signature import Signature
from fastq.canvas.stamping import call_options
from fastq.canvas.steps import NOTHING, Call, Fork, Given, Step, steps
from fastq.result import AsyncResult
from fastq.results import GroupResult
from fastq.signals import before_task_publish

if TYPE_CHECKING:
    from fastq.app import FastQ
    from fastq.calling import Plan

__all__ = ["ACCUMULATE", "Builder", "Built", "build", "plan_of"]

#: the built-in task that returns the list of results that it is given
ACCUMULATE = "fastq.accumulate"


class Built(NamedTuple):
    """A canvas ready to be sent."""

    #: for a canvas without tasks one that starts nothing
    node: bytes
    #: AsyncResult or GroupResult; None for an empty chain
    result: Any
    root_id: str | None
    #: every task of it
    ids: list[str]
    #: results that are told to who sends it
    waited: list[AsyncResult[Any]]


def build(
    sig: Any,
    app: FastQ,
    *,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    links: Sequence[Any] = (),
    errbacks: Sequence[Any] = (),
    task_id: str | None = None,
    root_id: str | None = None,
    parent_id: str | None = None,
    waited: bool = True,
    continued: bool = False,
) -> Built:
    """Resolve a signature (or its dict) as far as can be done before it runs; it is not changed.

    ``args``, ``kwargs`` and ``options`` complete it as in ``apply_async``; ``links`` and ``errbacks`` (signatures or nodes) are
    added to its own; ``task_id`` is that of its last task (of a group: the group's). ``waited``: the sender may wait for its end.
    ``continued``: its place has something behind it or is that of a member of a join, so it must end in a single task: a group at
    its end is gathered by one that has the ``task_id``.
    """
    given = Given(args, kwargs or {}, options or {}) if args or kwargs or options else NOTHING
    found = steps(sig, app, given, id=task_id, links=links, errbacks=errbacks)
    builder = Builder(app)
    nodes, result = builder.sequence(found, waited=waited, continued=continued)
    if root_id is None:
        root_id = (options or {}).get("root_id") or (sig.get("options") or {}).get("root_id")
    return Built(_one(nodes), result, root_id, builder.ids, builder.waited)


class Builder:
    """Builds one canvas."""

    def __init__(self, app: FastQ) -> None:
        self.app = app
        self.ids: list[str] = []
        self.waited: list[AsyncResult[Any]] = []
        self._now_ms = app.producer.clock_ms()
        self._plans: dict[str, Plan] = {}
        self._listened = bool(before_task_publish.receivers)

    def sequence(self, found: Sequence[Step], *, waited: bool, continued: bool) -> tuple[list[bytes], Any]:
        """Return the nodes of steps that run one after the other, and the result of the last, whose parents are the others'."""
        nodes: list[bytes] = []
        result: Any = None
        #: a fork that is to be joined by what comes next: its id and members
        ahead: tuple[str, list[bytes]] | None = None
        for i, step in enumerate(found):
            last = i == len(found) - 1
            above = result
            if isinstance(step, Call):
                if ahead is not None and step.given.immutable:
                    # a body is called with the results: what wants none comes behind one that does
                    nodes.append(self._gathered(*ahead, errbacks=step.errbacks)[0])
                    ahead = None
                node, result = self.call(step, waited=waited and last)
                nodes.append(flow.chord(ahead[0], queue_of(node), ahead[1], node) if ahead is not None else node)
                ahead = None
            else:
                if ahead is not None:
                    nodes.append(self._gathered(*ahead, errbacks=step.errbacks)[0])
                ends = last and not continued
                # where the place's one task gathers them, the id is that task's
                id = None if last and continued else step.id
                members, result = self.fork(step, id, waited=waited and ends, joined=not ends or bool(step.links))
                ahead = (result.id, members)
                if step.links and not (last and continued):
                    nodes.append(self._gathered(*ahead, links=step.links)[0])
                    ahead = None
            result.parent = above
        if ahead is not None:
            step = found[-1]
            if continued:
                node, gathered = self._gathered(*ahead, id=step.id, links=step.links, waited=waited)
                nodes.append(node)
                gathered.parent, result = result, gathered
            else:
                nodes.append(flow.group(*ahead))
        return nodes, result

    def call(self, step: Call, *, waited: bool) -> tuple[bytes, AsyncResult[Any]]:
        """Return the node of one task, and its result."""
        sig, given = step.sig, step.given
        plan = self.plan(sig)
        options = call_options(given.options) if given.options else {}
        if isinstance(sig, xmap | xstarmap):
            options.setdefault("queue", self.plan(sig.inner).queue)
        id = step.id or _core.new_id(self._now_ms)
        node = plan.leaf(
            given.args, given.kwargs, task_id=id, immutable=given.immutable, links=self.nodes(step.links),
            errbacks=self.nodes(step.errbacks), waited=waited, **options,
        )  # fmt: skip
        ignored = options.get("ignore_result")
        make: Any = options.get("result_cls")
        if make is not None:
            self.ids.append(id)
            return node, make(id, app=self.app)
        return node, self._result(id, plan.ignore_result if ignored is None else bool(ignored), waited)

    def _result(self, id: str, ignored: bool, waited: bool) -> AsyncResult[Any]:
        self.ids.append(id)
        result: AsyncResult[Any] = AsyncResult(id, self.app, ignored=ignored)
        if waited and not ignored:
            self.waited.append(result)
        return result

    def fork(self, step: Fork, id: str | None, *, waited: bool, joined: bool) -> tuple[list[bytes], GroupResult[Any]]:
        """Return the nodes of tasks that run side by side, and their results. ``joined``: something waits for all of them."""
        members: list[bytes] = []
        results: list[Any] = []
        id = id or _core.new_id(self._now_ms)
        for part in step.parts:
            new_ids = _core.new_ids(self._now_ms, len(part.tasks))
            plain = part.given is NOTHING and not part.errbacks
            for sig, new_id in zip(part.tasks, new_ids, strict=True):
                if plain and type(sig) is Signature and not sig["options"]:
                    plan = self.plan(sig)
                    if self.is_simple(plan):
                        members.append(_leaf(plan, new_id, sig, waited))
                        results.append(self._result(new_id, plan.ignore_result, waited))
                        continue
                found = steps(sig, self.app, part.given, errbacks=part.errbacks)
                nodes, result = self.sequence(found, waited=waited, continued=joined)
                if nodes:
                    members.append(flow.chain(nodes))
                    results.append(result)
        return members, GroupResult(id, results, app=self.app)

    def is_simple(self, plan: Plan) -> bool:
        """Say whether a call without options of its own needs nothing but its arguments written."""
        return is_bare(plan) and not self._listened

    def _gathered(
        self,
        join: str,
        members: list[bytes],
        *,
        id: str | None = None,
        links: Sequence[Any] = (),
        errbacks: Sequence[Any] = (),
        waited: bool = False,
    ) -> tuple[bytes, AsyncResult[Any]]:
        """Return a chord whose body only hands on the list of results, and that one's result."""
        # it runs where the first member does: there is a worker for that queue
        queue = queue_of(members[0]) if members else None
        options = {"queue": queue} if queue else {}
        node, result = self.call(
            Call(Signature(ACCUMULATE), Given(options=options), id, list(links), list(errbacks)), waited=waited
        )
        return flow.chord(join, queue_of(node), members, node), result

    def nodes(self, items: Sequence[Any]) -> list[bytes]:
        """Return callbacks as nodes; nobody waits for them."""
        return [item if isinstance(item, bytes) else self._linked(item) for item in items]

    def _linked(self, item: Any) -> bytes:
        if not isinstance(item, Mapping):
            raise TypeError(f"a callback is a signature, such as task.s(), not {type(item).__name__}: {item!r}")
        nodes, _ = self.sequence(steps(item, self.app), waited=False, continued=False)
        return _one(nodes)

    def plan(self, sig: Signature[Any]) -> Plan:
        """Return how calls of a signature's task are sent."""
        name: str = sig["task"]
        plan = self._plans.get(name)
        if plan is None:
            plan = self._plans[name] = plan_of(self.app, sig)
        return plan


def _one(nodes: Sequence[bytes]) -> bytes:
    return flow.chain(nodes) if nodes else flow.group("", [])


def _leaf(plan: Plan, id: str, sig: Signature[Any], waited: bool) -> bytes:
    """Return what ``Plan.leaf`` does for a signature without options: a large group is made of these."""
    content_type, written = body(plan, sig["args"], sig["kwargs"])
    return flow.leaf(
        id, plan.name, plan.queue, plan.level, content_type, written, immutable=sig["immutable"], options=plan.options,
        waited=waited and plan.inbox_wanted,
    )  # fmt: skip


def is_bare(plan: Plan) -> bool:
    """Say whether a message of this plan differs from others in its id and arguments only."""
    return not plan.detour and plan.queues is None and plan.expires is None


def plan_of(app: FastQ, sig: Signature[Any]) -> Plan:
    """Return how calls of a signature's task are sent, by name alone where the application does not know it."""
    task = app.tasks.get(sig["task"]) or sig._type
    return app._plan(sig["task"]) if task is None else task._planned()


def queue_of(node: bytes) -> str:
    """Return the queue in which the first task of a node starts."""
    kind, *fields = _core.unpackb(node)
    while kind != flow.LEAF:
        if kind == flow.CHAIN:
            node = fields[0][0]
        elif kind == flow.GROUP:
            if not fields[1]:
                return ""
            node = fields[1][0]
        else:
            node = fields[2][0] if fields[2] else fields[3]
        kind, *fields = _core.unpackb(node)
    return str(fields[2])
