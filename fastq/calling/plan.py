"""How calls of one task are sent: its options flattened once, then one envelope per call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from fastq import _core, flow
from fastq.calling import announce, many, values
from fastq.calling.announce import listened
from fastq.calling.arguments import Signature, arguments
from fastq.calling.body import blamed, body
from fastq.calling.made import CARRIED, FLOWING, Made
from fastq.calling.options import split
from fastq.calling.times import expires_after_ms, expires_at_ms, expires_ms, when
from fastq.exceptions import EncodeError
from fastq.records import Publication
from fastq.result import AsyncResult
from fastq.results import ResultSet
from fastq.running import Parent, current, directly_called, parent
from fastq.serialization import MSGPACK, content_types, default
from fastq.signals import after_task_publish, before_task_publish

if TYPE_CHECKING:
    from fastq.app import FastQ
    from fastq.task import Task

__all__ = ["Plan"]

_encode = _core.encode
_encode_call = _core.encode_call
_new_id = _core.new_id

class Plan:
    """How calls of one task are sent: every option resolved. Immutable but for its cache of variants."""

    __slots__ = (
        "_variants", "app", "call_ignore", "compression", "content_type", "detour", "dynamic", "eager", "expires", "high",
        "ignore_result", "inbox_wanted", "inherits", "level", "low", "name", "native", "options", "policy", "queue", "queues",
        "raw", "routed", "serializer", "signature", "slow", "task", "threshold",
    )  # fmt: skip

    def __init__(
        self,
        app: FastQ,
        name: str,
        signature: Signature | None,
        *,
        task: Task[..., Any] | None = None,
        call_ignore: bool | None = None,
        eager: bool | None = None,
        routed: bool = False,
        **given: Any,
    ) -> None:
        """``given``: the options of ``options.PLANNED``, those of the task under those of the call. ``call_ignore``: what this call
        says about its result: the worker knows what the task says, not what a call says, so the call carries it. ``eager``: whether
        calls run here (None: as the settings say). ``routed``: the route has been asked."""
        conf = app.conf
        self.app = app
        self.name = name
        self.task = task
        self.signature = signature
        self.low, self.high = (0, 1 << 30) if signature is None else (signature.low, signature.high)
        given = {key: value for key, value in given.items() if value is not None}
        self.raw = given
        self.routed = routed
        self.eager = bool(conf.task_always_eager and task is not None) if eager is None else eager
        #: a router wants to see each call
        self.dynamic = not routed and app.router.dynamic
        if not routed and not self.dynamic:
            given = app.router.route(name, (), {}, given, task)
            if call_ignore is None and "ignore_result" not in self.raw:
                call_ignore = given.get("ignore_result")
        get = given.get
        self.call_ignore = call_ignore
        #: where it goes if that is not one queue: a copy to each
        self.queues: tuple[str, ...] | None = None
        if (several := get("queues")) is not None:
            self.queues = tuple(several)
        self.queue = values.queue_name(get("queue") or (self.queues or (conf.task_default_queue,))[0])
        self.inherits = conf.task_inherit_parent_priority and get("priority") is None
        self.level = values.level(conf, get("priority"))
        serializer = get("serializer")
        self.serializer = app.serializers.task if serializer is None else serializer
        (self.content_type,) = content_types((self.serializer,), "serializer")
        codec = conf.task_compression if get("compression") is None else get("compression")
        self.compression = values.codec(codec)
        self.threshold: int = conf.task_compression_threshold
        #: arguments are written by the core alone
        self.native = self.content_type == MSGPACK and self.compression is None
        self.expires = get("expires")
        ignored = get("ignore_result")
        self.ignore_result = bool(conf.task_ignore_result if ignored is None else ignored)
        self.inbox_wanted = not self.ignore_result and app.keeps_results
        self.policy = values.policy(conf, get("retry"), get("retry_policy"))
        options: dict[str, Any] = {}
        if call_ignore is not None:
            options["ignore_result"] = bool(call_ignore)
        if self.level:
            options["priority"] = self.level
        routing_key = self.raw.get("routing_key")
        if isinstance(routing_key, str) and routing_key not in ("", self.queue):
            options["routing_key"] = routing_key
        limits = values.limits(get("soft_time_limit"), get("time_limit"), task)
        if limits is not None:
            options["flow"] = {"limits": limits}
        self.options = options or None
        #: calls take the longer way round: they run here, are routed one by one, have copies, or arguments to be changed
        self.detour = self.eager or self.dynamic or self.queues is not None or (task is not None and task._arranges)
        #: calls need more than a message of their own
        self.slow = self.detour or not self.native or self.expires is not None
        self._variants: dict[tuple[Any, ...], Plan] = {}

    def changed(self, given: Mapping[str, Any], *, routed: bool = False) -> Plan:
        """Return the plan with these options instead of its own."""
        if not given and routed == self.routed:
            return self
        try:
            key = (routed, *given.items())
            found = self._variants.get(key)
        except TypeError:  # an unhashable retry_policy
            key, found = None, None
        if found is None:
            ignore = given.get("ignore_result")
            found = Plan(
                self.app, self.name, self.signature, task=self.task, eager=self.eager, routed=routed,
                call_ignore=self.call_ignore if ignore is None else ignore, **{**self.raw, **given},
            )  # fmt: skip
            # a few combinations of options are used again and again; dates are not
            if key is not None and len(self._variants) < 64 and not isinstance(given.get("expires"), datetime):
                self._variants[key] = found
        return found

    # --- arguments ---

    arguments = staticmethod(arguments)

    def check(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Raise TypeError for arguments that the function does not take."""
        signature = self.signature
        if signature is not None and (kwargs or not self.low <= len(args) <= self.high):
            signature.check(args, kwargs)

    def resolve(self, options: Mapping[str, Any]) -> tuple[Plan, dict[str, Any]]:
        """Return the plan of a call with these options, and those that are for the single call."""
        planned, call = split(options, f"{self.name}.apply_async()")
        return (self.changed(planned, routed=self.routed) if planned else self), call

    def arranged(self, args: Sequence[Any], kwargs: dict[str, Any], call: dict[str, Any] | None) -> _Arranged:
        """Return what a call of the longer way is sent as: routed, its arguments in the form in which they travel."""
        plan, task = self, self.task
        call = dict(call or ())
        if task is not None and task._arranges:
            args, kwargs = task._arrange(args, kwargs, call, self.raw)
        router = call.pop("router", None) or (self.app.router if self.dynamic else None)
        if router is not None:
            routed = router.route(self.name, args, kwargs, {**self.raw, **call}, task)
            several = routed.pop("queues", None)
            found = {key: value for key, value in routed.items() if call.get(key) is not value}
            planned, own = split(found, f"the route of {self.name}")
            if several is not None:
                planned["queues"] = tuple(several)
            plan = self.changed(planned, routed=True)
            call = {**own, **call}
        return _Arranged(plan, args, kwargs, call)

    # --- one call ---

    def send(self, args: Sequence[Any], kwargs: dict[str, Any], call: dict[str, Any] | None = None) -> AsyncResult[Any]:
        """Publish one call and return its result."""
        if (self.slow or call) and (self.detour or (call and "router" in call)):
            self, args, kwargs, call = self.arranged(args, kwargs, call)
            if self.eager:
                from fastq.eager import apply  # lazy: only where task_always_eager is set

                return apply(self, args, kwargs, call)
        app = self.app
        producer = app.producer
        now_ms = producer.now_ms(self.policy)
        if not (call or self.slow or current.get() or directly_called.get() or listened[0]):
            # the common case: no options, outside of tasks, nobody listens
            task_id = _new_id(now_ms)
            try:
                written = _encode_call(args, kwargs, default)
            except (EncodeError, RecursionError) as exc:
                raise blamed(self, args, kwargs, exc) from None
            result: AsyncResult[Any] = AsyncResult(task_id, app, ignored=self.ignore_result)
            inbox = None
            if self.inbox_wanted:
                inbox = producer.name
                app.backend.waiter.expect(result)
            message = _encode(task_id, self.name, MSGPACK, written, now_ms, None, 0, inbox, self.options)
            producer.publish((Publication(self.queue, message, self.level),), (task_id,), self.policy)
            return result
        call = call or {}
        above = parent()
        made = self.make(args, kwargs, call, now_ms, above)
        producer.publish(made.publications, (made.result.id,), self.policy)
        self.sent((made,), call, above)
        return made.result

    async def asend(self, args: Sequence[Any], kwargs: dict[str, Any], call: dict[str, Any] | None = None) -> AsyncResult[Any]:
        """``send`` for an event loop."""
        if self.detour or (call and "router" in call):
            self, args, kwargs, call = self.arranged(args, kwargs, call)
            if self.eager:
                from fastq.eager import aapply  # lazy: only where task_always_eager is set

                return await aapply(self, args, kwargs, call)
        producer = self.app.producer
        now_ms = await producer.anow_ms(self.policy)
        call = call or {}
        above = parent()
        made = self.make(args, kwargs, call, now_ms, above)
        await producer.apublish(made.publications, (made.result.id,), self.policy)
        self.sent((made,), call, above)
        return made.result

    def make(
        self,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        call: Mapping[str, Any],
        now_ms: int,
        above: Parent | None,
        task_id: str | None = None,
        options: dict[str, Any] | None = None,
    ) -> Made:
        """Make the message of one call and its result. ``options``: the envelope's, if they are known already."""
        app = self.app
        task_id = task_id or call.get("task_id") or _new_id(now_ms)
        delay_ms, due_ms = when(app, now_ms, call.get("countdown"), call.get("eta"))
        expires = expires_ms(app, now_ms, self.expires)
        if options is None:
            options = self.envelope_options(call, above, task_id, due_ms or (now_ms + delay_ms if delay_ms else 0))
        level = self._level_under(above, options)
        announced = None
        if listened[0]:
            options, announced = announce.before(self, task_id, args, kwargs, options, call, expires)
        message = self.message(task_id, args, kwargs, now_ms, expires, options, call.get("retries", 0))
        make: Any = call.get("result_cls")
        if make is None:
            result: AsyncResult[Any] = AsyncResult(task_id, app, ignored=self.ignore_result)
        else:
            result = make(task_id, app=app)
        if self.inbox_wanted:
            app.backend.waiter.expect(result)
        queues = (self.queue,) if self.queues is None else self.queues
        return Made([Publication(queue, message, level, delay_ms, due_ms) for queue in queues], result, announced)

    def _level_under(self, above: Parent | None, options: dict[str, Any] | None) -> int:
        """Return the call's level: its own, or that of the task which sends it."""
        if not self.inherits or above is None or options is None:
            return self.level
        if above.level:
            options["priority"] = above.level
        else:
            options.pop("priority", None)
        return above.level

    @staticmethod
    def sent(made: Iterable[Made], call: Mapping[str, Any], above: Parent | None) -> None:
        """Note what was sent where it was sent, and tell who listens."""
        if above is not None and call.get("add_to_parent", True):
            for one in made:
                above.note(one.result.id)
        if listened[0]:
            for one in made:
                if one.announced is not None:
                    after_task_publish.send(**one.announced)

    # --- many calls ---

    def send_many(self, calls: Iterable[Sequence[Any]], call: dict[str, Any] | None = None) -> ResultSet[Any]:
        """Publish many calls, a chunk in each round trip."""
        return many.send(self, calls, call or {})

    async def asend_many(self, calls: Iterable[Sequence[Any]], call: dict[str, Any] | None = None) -> ResultSet[Any]:
        """``send_many`` for an event loop."""
        return await many.asend(self, calls, call or {})

    # --- a part of a canvas ---

    def leaf(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        task_id: str | None = None,
        immutable: bool = False,
        countdown: float | timedelta | None = None,
        eta: datetime | None = None,
        expires: float | timedelta | datetime | None = None,
        headers: Mapping[str, Any] | None = None,
        links: Sequence[bytes] = (),
        errbacks: Sequence[bytes] = (),
        waited: bool = False,
        **options: Any,
    ) -> bytes:
        """Write this call as a node of ``fastq.flow``: resolved and encoded, to be sent now or by a settlement later.

        ``links`` and ``errbacks`` are nodes; other options are those of ``apply_async``. Relative times count from the moment at
        which it is sent. Arguments are not checked: those in front may come later.
        """
        options.update(countdown=countdown, eta=eta, expires=expires, headers=headers)
        plan, call = self.resolve(options)
        named = dict(kwargs)
        if plan.detour or "router" in call:
            plan, args, named, call = plan.arranged(args, named, call)
        if plan.queues is not None:
            several = ", ".join(plan.queues) or "nobody listens"
            raise ValueError(
                f"{self.name} is routed to {len(plan.queues)} queues ({several}), and a part of a canvas goes to one: name it "
                "with queue="
            )
        app = self.app
        task_id = task_id or call.get("task_id") or _new_id(app.producer.clock_ms())
        delay_ms, due_ms = when(app, 0, call.get("countdown"), call.get("eta"))
        after_ms = at_ms = 0
        if plan.expires is not None:
            at_ms = expires_at_ms(app, plan.expires)
            after_ms = 0 if at_ms else (expires_after_ms(plan.expires) or 1)
        written = plan.envelope_options(call, None, task_id, 0, links, errbacks)
        if before_task_publish.receivers:
            written, _ = announce.before(plan, task_id, args, named, written, call, at_ms or None)
        content_type, encoded = body(plan, args, named)
        timing = (delay_ms, due_ms, after_ms, at_ms) if delay_ms or due_ms or after_ms or at_ms else None
        return flow.leaf(
            task_id, plan.name, plan.queue, plan.level, content_type, encoded, immutable=immutable, timing=timing, options=written,
            waited=waited and plan.inbox_wanted,
        )  # fmt: skip

    # --- the envelope ---

    def message(
        self,
        task_id: str,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        now_ms: int,
        expires_at: int | None,
        options: dict[str, Any] | None,
        retries: int = 0,
    ) -> bytes:
        content_type, written = body(self, args, kwargs)
        inbox = self.app.producer.name if self.inbox_wanted else None
        return _encode(task_id, self.name, content_type, written, now_ms, expires_at, retries, inbox, options)

    def envelope_options(
        self,
        call: Mapping[str, Any],
        above: Parent | None,
        task_id: str,
        eta_ms: int,
        links: Sequence[bytes] = (),
        errbacks: Sequence[bytes] = (),
    ) -> dict[str, Any] | None:
        """Return the envelope's options map: None where there is nothing to say."""
        options = dict(self.options or ())
        if above is not None:
            options["parent_id"] = above.id
            options["root_id"] = above.root_id
        flowing = bool(links or errbacks)
        for key, value in call.items():
            if key in CARRIED:
                options[key] = value
            elif key in FLOWING:
                flowing = True
        if headers := call.get("headers"):
            options["headers"] = values.plain_headers(self.name, headers)
        if eta_ms:
            options["eta_ms"] = eta_ms
        if flowing:
            from fastq.calling.follow import follow  # lazy: only where something follows

            follow(self.app, options, call, task_id, links, errbacks)
        return options or None


class _Arranged(NamedTuple):
    plan: Plan
    args: Sequence[Any]
    kwargs: dict[str, Any]
    call: dict[str, Any]
