"""Send canvases: one, or thousands of signatures in few round trips."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from fastq import _core, flow
from fastq.canvas.build import Built, build, is_bare, plan_of
from fastq.canvas.chain import chain
from fastq.canvas.chord import chord
from fastq.canvas.group import group
from fastq.canvas.maps import chunks, xmap, xstarmap
from fastq.canvas.signature import Signature, maybe_signature
from fastq.canvas.stamping import call_options
from fastq.exceptions import OperationalError
from fastq.producer import NO_RETRY, RetryPolicy
from fastq.records import Opening, Publication
from fastq.result import AsyncResult
from fastq.results import GroupResult, ResultSet
from fastq.running import Parent, parent
from fastq.signals import after_task_publish, before_task_publish

if TYPE_CHECKING:
    from fastq.app import FastQ

__all__ = ["asend", "asend_many", "send", "send_many"]

#: messages of one round trip (DESIGN, protocol rules)
CHUNK = 1_000


def send(
    sig: Any,
    app: FastQ,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Any:
    """Send a signature, completed by arguments and options; return its result, None for an empty chain."""
    sig, kwargs, options = _completed(sig, app, kwargs, options)
    if not isinstance(sig, chain | group | chord):
        return _single(sig, app, args, kwargs, options)
    if app.conf.task_always_eager:
        return sig.apply(args, kwargs, **options)
    batch = _Batch(app, _policy(app, options), parent())
    result = batch.add(sig, args, kwargs, options)
    if batch.publications:
        app.producer.publish(batch.publications, batch.ids, batch.policy, batch.openings)
    batch.sent(options)
    return result


async def asend(
    sig: Any,
    app: FastQ,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Any:
    """``send`` for an event loop."""
    sig, kwargs, options = _completed(sig, app, kwargs, options)
    if not isinstance(sig, chain | group | chord):
        return await _asingle(sig, app, args, kwargs, options)
    if app.conf.task_always_eager:
        return sig.apply(args, kwargs, **options)
    policy = _policy(app, options)
    await app.producer.anow_ms(policy)
    batch = _Batch(app, policy, parent())
    result = batch.add(sig, args, kwargs, options)
    if batch.publications:
        await app.producer.apublish(batch.publications, batch.ids, batch.policy, batch.openings)
    batch.sent(options)
    return result


def send_many(app: FastQ, signatures: Iterable[Any]) -> ResultSet[Any]:
    """Send signatures of any kind, a thousand messages in each round trip; return their results in order.

    The iterable is read as it is sent. If the broker fails half-way, the OperationalError names the tasks of the failed round trip;
    earlier ones were kept, and ``error.results`` holds their results.
    """
    if app.conf.task_always_eager:
        return ResultSet([maybe_signature(sig, app=app).apply_async() for sig in signatures], app)
    policy, above = _policy(app, {}), parent()
    results: list[Any] = []
    for batch, made in _batches(app, signatures, policy, above):
        try:
            if batch.publications:
                app.producer.publish(batch.publications, batch.ids, policy, batch.openings)
        except OperationalError as exc:
            exc.results = ResultSet(results, app)  # type: ignore[attr-defined]
            raise
        batch.sent({})
        results.extend(made)
    return ResultSet(results, app)


async def asend_many(app: FastQ, signatures: Iterable[Any]) -> ResultSet[Any]:
    """``send_many`` for an event loop."""
    if app.conf.task_always_eager:
        return ResultSet([await maybe_signature(sig, app=app).aapply_async() for sig in signatures], app)
    policy, above = _policy(app, {}), parent()
    await app.producer.anow_ms(policy)
    results: list[Any] = []
    for batch, made in _batches(app, signatures, policy, above):
        try:
            if batch.publications:
                await app.producer.apublish(batch.publications, batch.ids, policy, batch.openings)
        except OperationalError as exc:
            exc.results = ResultSet(results, app)  # type: ignore[attr-defined]
            raise
        batch.sent({})
        results.extend(made)
    return ResultSet(results, app)


def _batches(
    app: FastQ, signatures: Iterable[Any], policy: RetryPolicy, above: Parent | None
) -> Iterator[tuple[_Batch, list[Any]]]:
    """Yield batches of messages with the results of their signatures. A join and its members are in one batch."""
    ahead = iter(signatures)
    while some := list(islice(ahead, CHUNK)):
        batch = _Batch(app, policy, above)
        made: list[Any] = []
        new_ids = _core.new_ids(batch.now_ms, len(some))
        for sig, new_id in zip(some, new_ids, strict=True):
            made.append(batch.add_one(maybe_signature(sig, app=app), new_id))
            if len(batch.publications) >= CHUNK:
                yield batch, made
                batch, made = _Batch(app, policy, above), []
        if made:
            yield batch, made


@dataclass(slots=True)
class _Batch:
    """Messages of one call of the producer."""

    app: FastQ
    policy: RetryPolicy
    above: Parent | None
    publications: list[Publication] = field(default_factory=list)
    openings: list[Opening] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    #: results that were sent, for the task that sends them
    results: list[Any] = field(default_factory=list)
    now_ms: int = 0
    listened: bool = False
    _plans: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.now_ms = self.app.producer.now_ms(self.policy)
        self.listened = bool(before_task_publish.receivers or after_task_publish.receivers)

    # --- one signature ---

    def add(
        self,
        sig: Signature[Any],
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Any:
        """Add a signature; return its result."""
        if isinstance(sig, group) and not (args or kwargs or options or sig.options or sig.args):
            result = self._add_group(sig)
            if result is not None:
                return result
        built = build(sig, self.app, args=args or (), kwargs=kwargs, options=options)
        self._begin(built, options)
        return built.result

    def _begin(self, built: Built, options: Mapping[str, Any] | None) -> None:
        app, above = self.app, self.above
        if built.result is None:
            return
        root_id, parent_id = built.root_id, (options or {}).get("parent_id")
        if above is not None:
            root_id, parent_id = root_id or above.root_id, parent_id or above.id
        place = flow.Place(self.now_ms, inbox=app.producer.name if app.keeps_results else "", root_id=root_id, parent_id=parent_id)
        effects = flow.begin(built.node, place)
        self.publications.extend(effects.publications)
        self.openings.extend(effects.openings)
        self.ids.extend(built.ids)
        if app.keeps_results:
            expect = app.backend.waiter.expect
            for result in built.waited:
                expect(result)
        self.results.append(built.result)

    # --- many alike ---

    def add_one(self, sig: Signature[Any], id: str) -> Any:
        """Add a signature of any kind, with this id if it is a simple one."""
        if type(sig) is Signature and not sig["options"] and (plan := self._simple(sig)) is not None:
            result: AsyncResult[Any] = AsyncResult(id, self.app, ignored=plan.ignore_result)
            self._add_call(plan, sig, id, plan.options, result)
            self.ids.append(id)
            self.results.append(result)
            return result
        return self.add(sig)

    def _add_group(self, sig: group[Any]) -> GroupResult[Any] | None:
        """Add a group of simple calls only, without the node that others need; None if it is none."""
        tasks = sig.tasks
        plans: list[Any] = []
        for task in tasks:
            if type(task) is not Signature or task["options"] or (plan := self._simple(task)) is None:
                return None
            plans.append(plan)
        group_id = _core.new_id(self.now_ms)
        app = self.app
        ids = _core.new_ids(self.now_ms, len(tasks))
        results: list[AsyncResult[Any]] = []
        for index, (plan, task, id) in enumerate(zip(plans, tasks, ids, strict=True)):
            own = plan.options
            options: dict[str, Any] = {**own, "group": (group_id, index)} if own else {"group": (group_id, index)}
            result: AsyncResult[Any] = AsyncResult(id, app, ignored=plan.ignore_result)
            self._add_call(plan, task, id, options, result)
            results.append(result)
        self.ids.extend(ids)
        result_of_all = GroupResult(group_id, results, app=app)
        self.results.append(result_of_all)
        return result_of_all

    def _simple(self, sig: Signature[Any]) -> Any:
        """Return the plan of a call that needs nothing but its arguments written, None for any other."""
        name = sig["task"]
        try:
            return self._plans[name]
        except KeyError:
            plan = plan_of(self.app, sig)
            bare = self.above is None and not self.listened and is_bare(plan)
            found = self._plans[name] = plan if bare else None
            return found

    def _add_call(self, plan: Any, sig: Signature[Any], id: str, options: dict[str, Any] | None, result: AsyncResult[Any]) -> None:
        message = plan.message(id, sig["args"], sig["kwargs"], self.now_ms, None, options)
        if plan.inbox_wanted:
            self.app.backend.waiter.expect(result)
        self.publications.append(Publication(plan.queue, message, plan.level))

    # ---

    def sent(self, options: Mapping[str, Any]) -> None:
        """Note what was sent where it was sent, and tell who listens."""
        if self.above is not None and options.get("add_to_parent", True):
            for result in self.results:
                self.above.note(result.as_tuple())
        if after_task_publish.receivers:
            for publication in self.publications:
                _announce(publication)


def _announce(publication: Publication) -> None:
    d = _core.peek(publication.message)
    headers = {"lang": "py", "task": d.name, "id": d.id, **((d.options or {}).get("headers") or {})}
    for key in ("root_id", "parent_id"):
        headers[key] = (d.options or {}).get(key)
    after_task_publish.send(sender=d.name, headers=headers, body=((), {}, {}), exchange="", routing_key=publication.queue)


def _completed(
    sig: Any, app: FastQ, kwargs: Mapping[str, Any] | None, options: Mapping[str, Any] | None
) -> tuple[Signature[Any], Mapping[str, Any] | None, dict[str, Any]]:
    """Return the signature in the form that is sent; options that are None are as if not given."""
    sig = maybe_signature(sig, app=app)
    if isinstance(sig, chord):
        sig, kwargs = sig.with_body(kwargs)
    elif isinstance(sig, chunks):
        sig, kwargs = sig.group(), None
    return sig, kwargs, {key: value for key, value in (options or {}).items() if value is not None}


def _single(sig: Signature[Any], app: FastQ, args: Any, kwargs: Any, options: Mapping[str, Any]) -> Any:
    args, kwargs, merged = _call(sig, app, args, kwargs, options)
    task = sig._type or app.tasks.get(sig["task"])
    if task is None:
        return app.send_task(sig["task"], args, kwargs, **merged)
    return task.apply_async(args, kwargs, **merged)


async def _asingle(sig: Signature[Any], app: FastQ, args: Any, kwargs: Any, options: Mapping[str, Any]) -> Any:
    args, kwargs, merged = _call(sig, app, args, kwargs, options)
    task = sig._type or app.tasks.get(sig["task"])
    if task is None:
        return await app.asend_task(sig["task"], args, kwargs, **merged)
    return await task.aapply_async(args, kwargs, **merged)


def _call(
    sig: Signature[Any], app: FastQ, args: Any, kwargs: Any, options: Mapping[str, Any]
) -> tuple[Sequence[Any], Mapping[str, Any], dict[str, Any]]:
    positional, named, merged = sig._merge(args, kwargs, options)
    if merged:
        merged = call_options(merged)
    if isinstance(sig, xmap | xstarmap):
        # a map runs where its task would
        merged = {"queue": plan_of(app, sig.inner).queue, **merged}
    return positional, named, merged


def _policy(app: FastQ, options: Mapping[str, Any]) -> RetryPolicy:
    conf = app.conf
    retry, policy = options.get("retry"), options.get("retry_policy")
    if not (conf.task_publish_retry if retry is None else retry):
        return NO_RETRY
    return RetryPolicy.of({**conf.task_publish_retry_policy, **(policy or {})})
