"""The options of a call, and what becomes of them in its message."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fastq import AsyncResult, FastQ, Task, _core, flow, signals
from fastq.calling import CallOptions
from fastq.calling.options import CALLED, IGNORED, PLANNED
from fastq.context import Context
from fastq.running import current
from fastq.transports import open_inspector
from fastq.transports.memory.stores import reset


@pytest.fixture
def app() -> Iterator[FastQ]:
    with FastQ("proj", broker="memory://app-calling", set_as_current=False) as app:
        yield app
    reset("app-calling")


def sent(app: FastQ, queue: str = "default") -> list[_core.Delivery]:
    """Return the messages of a queue."""
    messages = open_inspector(app.broker_url, app.transport_options()).peek(queue, 100)
    return _core.deliveries(queue, [f"0:1:{i}" for i in range(len(messages))], messages, app.registry())


def last(app: FastQ, queue: str = "default") -> _core.Delivery:
    return sent(app, queue)[-1]


def options(app: FastQ, queue: str = "default") -> dict[str, Any]:
    return last(app, queue).options or {}


@pytest.fixture
def add(app: FastQ) -> Task[[int, int], int]:
    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    return add


# --- options ---


def test_every_option_is_of_exactly_one_kind() -> None:
    assert CallOptions.__optional_keys__ == PLANNED | CALLED | IGNORED
    assert not PLANNED & IGNORED and not CALLED & (PLANNED | IGNORED)


def test_an_unknown_option_is_refused_with_a_close_one(add: Task[..., Any]) -> None:
    with pytest.raises(TypeError, match=r"add.apply_async\(\) got an unexpected option 'countdwn'.*countdown"):
        add.apply_async((1, 2), countdwn=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unexpected option 'colour'"):
        add.apply_async((1, 2), colour=None)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="task_id is the option of a single call"):
        add.delay_many([(1, 2)], task_id="x")  # type: ignore[call-arg]


def test_options_that_mean_nothing_here_are_accepted(app: FastQ, add: Task[..., Any]) -> None:
    add.apply_async(
        (1, 2), connection=object(), producer=object(), declare=[], mandatory=True, immediate=False, delivery_mode=1, timeout=3,
        confirm_timeout=1, correlation_id="c",
    )  # fmt: skip
    assert last(app).options is None


def test_what_a_call_says_is_carried_and_shown_by_the_request(app: FastQ, add: Task[..., Any]) -> None:
    add.apply_async(
        (1, 2), task_id="me", root_id="r", parent_id="p", shadow="other", reply_to="mail", app_id="a", argsrepr="(…)",
        kwargsrepr="{…}", origin="o", retries=2, group_id="g", group_index=4, headers={"who": "you"}, priority=6,
        time_limit=9, soft_time_limit=5.5,
    )  # fmt: skip
    request = Context(add, last(app))
    assert (request.id, request.root_id, request.parent_id, request.retries) == ("me", "r", "p", 2)
    assert (request.shadow, request.reply_to, request.argsrepr, request.kwargsrepr) == ("other", "mail", "(…)", "{…}")
    assert request.origin == "o" and request.properties["app_id"] == "a"
    assert (request.group, request.group_index, request.who) == ("g", 4, "you")
    assert (request.time_limit, request.soft_time_limit, request.timelimit) == (9, 5.5, [9, 5.5])
    assert request.delivery_info == {"exchange": "", "routing_key": "default", "priority": 6, "redelivered": False}
    assert (request.chain, request.chord, request.callbacks, request.errbacks) == (None, None, None, None)
    assert request.replaced_task_nesting == 0 and request.stamps is None and request.loglevel is None


def test_limits_travel_only_if_the_call_sets_them(app: FastQ) -> None:
    @app.task(time_limit=10, soft_time_limit=8)
    def slow() -> None: ...

    slow.delay()
    assert last(app).flow is None
    request = Context(slow, last(app))
    assert (request.time_limit, request.soft_time_limit) == (10, 8)
    slow.apply_async(soft_time_limit=3)
    assert last(app).flow == {"limits": [3, None]}
    with pytest.raises(ValueError, match=r"^soft_time_limit must be less than or equal to time_limit$"):
        slow.apply_async(time_limit=7)
    with pytest.raises(TypeError, match="time_limit='long': expected a number of seconds"):
        slow.apply_async(time_limit="long")  # type: ignore[arg-type]


def test_links_and_errbacks_are_nodes_of_the_message(app: FastQ, add: Task[..., Any]) -> None:
    add.apply_async((1, 2), link=add.s(3), link_error=[add.si(0, 0), add.s(1)])
    flowing = last(app).flow
    assert flowing is not None and len(flowing["links"]) == 1 and len(flowing["errbacks"]) == 2
    request = Context(add, last(app))
    (callback,) = request.callbacks
    assert (callback["task"], callback["args"], callback["immutable"]) == ("add", [3], False)
    assert [errback["immutable"] for errback in request.errbacks] == [True, False]
    with pytest.raises(TypeError, match="expected a signature"):
        add.apply_async((1, 2), link=add)


def test_links_of_many_calls_have_ids_of_their_own(app: FastQ, add: Task[..., Any]) -> None:
    add.delay_many([(1, 2), (3, 4)], link=add.s(5))
    ids = [next(flow.ids(node))[0] for d in sent(app) for node in (d.flow or {})["links"]]
    assert len(set(ids)) == 2


def test_a_call_can_be_sent_again_with_what_follows_it(app: FastQ, add: Task[..., Any]) -> None:
    node = add._planned().leaf((), {}, task_id="next")
    add.apply_async((1, 2), task_id="t", chain=[node], chord=["j", "0", "q"], link=add.s(1), group_id="g")
    before = last(app)
    token = current.set(before)
    try:
        again = add.signature_from_request(Context(add, before))
    finally:
        current.reset(token)
    again.apply_async()
    after = last(app)
    assert after.id == "t" and after.flow == before.flow
    with pytest.raises(ValueError, match=r"chord= is the mark of a chord's member"):
        add.apply_async((1, 2), chord=add.s())


def test_a_result_class_of_ones_own_is_made(app: FastQ, add: Task[..., Any]) -> None:
    class Mine(AsyncResult[Any]):
        pass

    assert type(add.apply_async((1, 2), result_cls=Mine)) is Mine


def test_delay_goes_through_an_apply_async_of_ones_own(app: FastQ) -> None:
    seen: list[Any] = []

    class Counting(Task[..., Any]):
        def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
            seen.append((args, kwargs))
            return super().apply_async(args, kwargs, **options)

        async def aapply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
            seen.append("a")
            return await super().aapply_async(args, kwargs, **options)

    @app.task(base=Counting)
    def f(x: int, y: int = 0) -> None: ...

    f.delay(1, y=2)
    asyncio.run(f.adelay(1))
    assert seen == [((1,), {"y": 2}), "a"] and len(sent(app)) == 2


def test_a_shadow_name_is_asked_for_each_call(app: FastQ) -> None:
    class Named(Task[..., Any]):
        def shadow_name(self, args: Any, kwargs: Any, options: Any) -> str:
            return f"f-{args[0]}"

    @app.task(base=Named)
    def f(x: int) -> None: ...

    f.delay(1)
    assert options(app)["shadow"] == "f-1"
    f.delay_many([(2,), (3,)])
    assert [d.options["shadow"] for d in sent(app) if d.options] == ["f-1", "f-2", "f-3"]


# --- priorities ---


def test_priorities_count_from_the_other_end_with_celerys_order(app: FastQ, add: Task[..., Any]) -> None:
    add.apply_async((1, 2), priority=7)
    assert options(app) == {"priority": 7}
    app.conf.task_priority_order = "celery"
    add.apply_async((1, 2), priority=2, queue="other")
    assert options(app, "other") == {"priority": 7}
    assert Context(add, last(app, "other")).delivery_info["priority"] == 2
    add.apply_async((1, 2), queue="unset")
    assert options(app, "unset") == {"priority": 9}
    with pytest.raises(ValueError, match="priority=10: expected 0 to 9, 0 is the most urgent"):
        add.apply_async((1, 2), priority=10)


def test_a_child_has_its_parents_priority_if_the_settings_say_so(app: FastQ, add: Task[..., Any]) -> None:
    add.apply_async((1, 2), priority=4)
    token = current.set(last(app))
    try:
        add.apply_async((1, 2), queue="off")
        assert (options(app, "off")).get("priority") is None
        app.conf.task_inherit_parent_priority = True
        add.apply_async((1, 2), queue="on")
        assert options(app, "on")["priority"] == 4
        add.apply_async((1, 2), queue="own", priority=1)
        assert options(app, "own")["priority"] == 1
    finally:
        current.reset(token)


# --- inside a task ---


def test_what_a_task_sends_is_its_child(app: FastQ, add: Task[..., Any]) -> None:
    add.apply_async((1, 2), task_id="parent", root_id="root")
    parent = last(app)
    token = current.set(parent)
    try:
        first = add.delay(1, 2)
        add.apply_async((1, 2), add_to_parent=False)
        more = add.delay_many([(1, 2), (3, 4)])
        assert parent.children == [first.id, *(one.id for one in more)]
        assert all((d.options or {})["root_id"] == "root" for d in sent(app)[1:])
        assert all((d.options or {})["parent_id"] == "parent" for d in sent(app)[1:])
    finally:
        current.reset(token)


def test_a_task_without_a_trail_keeps_no_children(app: FastQ) -> None:
    @app.task(trail=False)
    def f() -> None: ...

    f.delay()
    d = last(app)
    token = current.set(d)
    try:
        f.delay()
    finally:
        current.reset(token)
    assert d.children is None


# --- routes ---


def test_routes_say_where_a_call_goes_unless_the_call_does(app: FastQ, add: Task[..., Any]) -> None:
    app.conf.task_routes = {"add": {"queue": "sums", "priority": 3}}
    add.delay(1, 2)
    assert options(app, "sums") == {"priority": 3}
    add.apply_async((1, 2), queue="mine")
    assert len(sent(app, "mine")) == 1
    app.send_task("add", (1, 2))
    assert len(sent(app, "sums")) == 2


def test_a_router_sees_each_call(app: FastQ, add: Task[..., Any]) -> None:
    seen: list[Any] = []

    def router(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **kw: Any) -> Any:
        seen.append((name, tuple(args), dict(kwargs), task))
        return {"queue": f"q{args[0]}"}

    app.conf.task_routes = (router,)
    add.delay(1, 2)
    add.delay(2, y=2)
    add.delay_many([(3, 1), (4, 1)])
    asyncio.run(add.aapply_async((5, 1)))
    assert [len(sent(app, f"q{i}")) for i in range(1, 6)] == [1] * 5
    assert seen[0] == ("add", (1, 2), {}, add) and seen[1][2] == {"y": 2}
    node = add._planned().leaf((6, 1), {}, task_id="x")
    assert flow.begin(node, flow.Place(0)).publications[0].queue == "q6"


# --- nodes ---


def test_a_leaf_is_the_call_resolved(app: FastQ) -> None:
    @app.task(name="f", queue="q", priority=2, expires=60)
    def f(x: int) -> None: ...

    due = datetime(2040, 1, 1, tzinfo=UTC)
    plan = f._planned()
    place = flow.Place(1_000, inbox="me")
    (made,) = flow.begin(plan.leaf((1,), {}, task_id="t", countdown=timedelta(seconds=2), waited=True), place).publications
    d = _core.peek(made.message)
    assert (made.queue, made.level, made.delay_ms, d.id, d.expires_ms, d.inbox) == ("q", 2, 2_000, "t", 61_000, "me")
    (made,) = flow.begin(plan.leaf((1,), {}, task_id="t", eta=due, expires=due, ignore_result=True), place).publications
    d = _core.peek(made.message)
    assert made.due_ms == d.expires_ms == 2_208_988_800_000 and d.inbox == "" and d.ignore_result
    (made,) = flow.begin(plan.leaf((), {}, task_id="t", expires=0, links=[b"node"]), place).publications
    d = _core.peek(made.message)
    assert d.expires_ms == 1_001 and d.flow is not None and d.flow["links"] == [b"node"]


# --- signals ---


def test_signals_see_what_is_published_and_may_add_headers(app: FastQ, add: Task[..., Any]) -> None:
    seen: list[Any] = []

    @signals.before_task_publish.connect(sender="add")
    def trace(sender: str, headers: dict[str, Any], body: Any, **kwargs: Any) -> None:
        seen.append((sender, headers["id"], body[0], kwargs["routing_key"]))
        headers["traceparent"] = "00-1"

    @signals.after_task_publish.connect
    def published(sender: str, headers: dict[str, Any], **kwargs: Any) -> None:
        seen.append((sender, headers["id"], headers["traceparent"]))

    try:
        result = add.apply_async((1, 2), headers={"own": 1})
        assert seen == [("add", result.id, (1, 2), "default"), ("add", result.id, "00-1")]
        assert options(app)["headers"] == {"own": 1, "traceparent": "00-1"}
        seen.clear()
        add.delay_many([(1, 2), (3, 4)])
        asyncio.run(add.adelay(5, 6))
        assert len(seen) == 6
    finally:
        signals.before_task_publish.disconnect(trace, sender="add")
        signals.after_task_publish.disconnect(published)
    add.delay(1, 2)
    assert len(seen) == 6 and last(app).options is None
