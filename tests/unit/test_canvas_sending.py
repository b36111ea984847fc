"""Sending canvases: many at once, inside of tasks, to event loops, and run here instead."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from fastq import FastQ, _core
from fastq.canvas import Signature, chain, chord, chunks, group, xmap
from fastq.canvas.builtins import register
from fastq.canvas.sending import asend_many, send_many
from fastq.exceptions import ChordError, OperationalError
from fastq.records import Publication
from fastq.results import GroupResult
from fastq.signals import after_task_publish, before_task_publish
from tests.canvas_machine import Machine


@pytest.fixture
def app() -> Iterator[FastQ]:
    with FastQ("proj", broker=f"memory://{uuid.uuid4()}", set_as_current=False) as app:
        register(app)

        @app.task(name="add")
        def add(x: int, y: int = 0) -> int:
            return x + y

        @app.task(name="total")
        def total(values: list[int]) -> int:
            return sum(values)

        @app.task(name="fail")
        def fail(*args: Any) -> None:
            raise ValueError("no")

        noted: list[Any] = []

        @app.task(name="note")
        def note(*args: Any) -> list[Any]:
            noted.append(args)
            return list(args)

        app.conf.noted = noted
        yield app


def s(app: FastQ, name: str, *args: Any) -> Signature[Any]:
    return Signature(app.tasks[name], args)


# --- many ---


def test_many_signatures_of_any_kind_are_sent_in_few_calls(app: FastQ) -> None:
    run = Machine(app)
    sigs = [
        s(app, "add", 1, 1),
        chain(s(app, "add", 1, 1), s(app, "add", 5)),
        s(app, "add", 2, 2).set(priority=3),
        chord([s(app, "add", i, i) for i in range(3)], s(app, "total")),
        group(s(app, "add", 3, 3), s(app, "add", 4, 4)),
        dict(s(app, "add", 9, 9)),
    ]
    results = send_many(app, iter(sigs * 500))
    assert run.calls < 10
    run.run()
    assert [run.value(result) for result in results[:6]] == [2, 7, 4, 6, [6, 8], 18]
    assert len(results) == 3000 and run.joins == {}


def test_many_from_an_event_loop(app: FastQ) -> None:
    run = Machine(app)

    async def main() -> Any:
        many = await asend_many(app, (s(app, "add", i, i) for i in range(1500)))
        one = await (s(app, "add", 1, 1) | s(app, "add", 2)).aapply_async()
        three = await group(s(app, "add", 3, 3)).adelay()
        single = await s(app, "add", 5, 6).adelay()
        return many, one, three, single

    many, one, three, single = asyncio.run(main())
    run.run()
    assert [run.value(result) for result in many] == [2 * i for i in range(1500)]
    assert (run.value(one), run.value(three), run.value(single)) == (4, [6], 11)


def test_a_broker_that_fails_half_way_leaves_the_results_of_what_was_kept(app: FastQ) -> None:
    run = Machine(app)
    publish, calls = run.publish, iter([True, True, False])

    def failing(*args: Any) -> None:
        if not next(calls):
            raise OperationalError("gone")
        publish(*args)

    run.publish = failing  # type: ignore[method-assign]
    app.conf.task_publish_retry = False
    with pytest.raises(OperationalError) as caught:
        send_many(app, (s(app, "add", i, i) for i in range(3000)))
    assert len(caught.value.results) == 2000  # type: ignore[attr-defined]
    assert len(caught.value.task_ids) == 1000


def test_a_large_group_is_one_call_and_says_which_group_it_is(app: FastQ) -> None:
    run = Machine(app)
    result = group(s(app, "add", i, i) for i in range(2500)).apply_async()
    assert len(run.messages) == 2500 and run.calls == 1
    d = _core.peek(run.messages[7])
    assert d.flow is None and d.options == {"group": [result.id, 7]} and d.id == result.results[7].id
    assert run.run().value(result) == [2 * i for i in range(2500)]


def test_the_simple_way_and_the_general_way_send_the_same(app: FastQ) -> None:
    run = Machine(app)

    def shape() -> list[Any]:
        found = []
        for message in run.messages:
            d = _core.peek(message)
            options = {key: value for key, value in (d.options or {}).items() if key not in ("flow", "group")}
            found.append((d.name, d.content_type, d.body, options, sorted(d.flow or {}), d.inbox, d.retries, d.expires_ms))
        run.messages.clear()
        return found

    def make() -> Signature[Any]:
        return group(s(app, "add", i, i) for i in range(3))

    make().apply_async()
    simple = shape()
    make().set(routing_key=None).apply_async()
    assert shape() == simple


# --- where it is sent ---


def test_what_a_task_sends_is_its_child(app: FastQ) -> None:
    from fastq.running import current

    run = Machine(app)
    app.tasks["add"].delay(1, 1)
    parent = _core.peek(run.waiting.pop().message)
    run.messages.clear()
    token = current.set(parent)
    try:
        first = chain(s(app, "add", 1, 1), s(app, "add", 2)).apply_async()
        second = group(s(app, "add", 1, 1), s(app, "add", 1, 2)).apply_async()
        chord([s(app, "add", 1, 1)], s(app, "total")).apply_async(add_to_parent=False)
    finally:
        current.reset(token)
    for message in (*run.messages, *(join.body.message for join in run.joins.values())):
        options = _core.peek(message).options or {}
        assert (options["root_id"], options["parent_id"]) == (parent.id, parent.id)
    assert parent.children is not None
    assert [child[0][0] for child in parent.children] == [first.id, second.id]


def test_results_of_intermediate_tasks_are_told_to_nobody(app: FastQ) -> None:
    run = Machine(app)
    chain(s(app, "add", 1, 1), group(s(app, "add", 1), s(app, "add", 2)), s(app, "total")).apply_async()
    run.run()
    inboxes = {(d.name, bool(d.inbox)) for d in map(_core.peek, run.messages)}
    assert inboxes == {("add", False), ("total", True)}


def test_signals_are_told_of_what_is_sent(app: FastQ) -> None:
    run = Machine(app)
    before: list[str] = []
    after: list[str] = []

    def tell_before(sender: str, headers: dict[str, Any], **kwargs: Any) -> None:
        before.append(sender)
        headers["trace"] = "t"

    def tell_after(sender: str, **kwargs: Any) -> None:
        after.append(sender)

    before_task_publish.connect(tell_before)
    after_task_publish.connect(tell_after)
    try:
        group(s(app, "add", 1, 1), s(app, "add", 2, 2)).apply_async()
    finally:
        before_task_publish.disconnect(tell_before)
        after_task_publish.disconnect(tell_after)
    assert before == after == ["add", "add"]
    assert [_core.peek(message).options["headers"] for message in run.messages] == [{"trace": "t"}] * 2  # type: ignore[index]


def test_a_map_goes_where_its_task_goes(app: FastQ) -> None:
    run = Machine(app)
    app.tasks["add"].queue = "special"
    xmap(app.tasks["add"], [1]).apply_async()
    chunks(app.tasks["add"], [(1, 1)], 1).apply_async()
    (xmap(app.tasks["add"], [1]) | s(app, "total")).apply_async()
    chain(group(s(app, "add", 1), s(app, "add", 1)), group(s(app, "total"), s(app, "total"))).apply_async()
    bodies = [join.body for join in run.joins.values()]
    assert {publication.queue for publication in (*run.waiting, *bodies)} == {"special"}
    assert isinstance(bodies[0], Publication) and _core.peek(bodies[0].message).name == "fastq.accumulate"


def test_a_workflow_goes_on_without_a_result_backend() -> None:
    with FastQ("proj", broker=f"memory://{uuid.uuid4()}", backend="disabled://", set_as_current=False) as app:
        register(app)
        app.task(name="add")(lambda x, y=0: x + y)
        app.task(name="total")(sum)
        run = Machine(app)
        result = chord([s(app, "add", 1, 1), s(app, "add", 2, 2)], s(app, "total")).apply_async()
        assert run.run().value(result) == 6


# --- here and now ---


def test_apply_runs_a_canvas_here(app: FastQ) -> None:
    assert s(app, "add", 1, 2).apply().get() == 3
    result = chain(s(app, "add", 1), s(app, "add", 5)).apply((10,))
    assert result.get() == 16 and result.parent.get() == 11
    made = group(s(app, "add", i, i) for i in range(3)).apply()
    assert isinstance(made, GroupResult) and made.get() == [0, 2, 4]
    assert chord([s(app, "add", 1, 1), s(app, "add", 2, 2)], s(app, "total")).apply().get() == 6
    assert chain(s(app, "add", 1, 1), group(s(app, "add", 1), s(app, "add", 2)), s(app, "total")).apply().get() == 7
    assert xmap(app.tasks["add"], [1, 2]).apply().get() == [1, 2]
    assert chunks(app.tasks["add"], [(1, 1), (2, 2), (3, 3)], 2).apply().get() == [[2, 4], [6]]
    assert chain(app=app).apply() is None


def test_always_eager_runs_canvases_here(app: FastQ) -> None:
    app.conf.task_always_eager = True
    run = Machine(app)
    assert (s(app, "add", 1, 1) | s(app, "add", 2)).delay().get() == 4
    assert group(s(app, "add", i, i) for i in range(3))().get() == [0, 2, 4]
    assert chord([s(app, "add", 1, 1)])(s(app, "total")).get() == 2
    assert [result.get() for result in send_many(app, [s(app, "add", 1, 1), chain(s(app, "add", 1, 2))])] == [2, 3]
    assert run.messages == []


def test_what_fails_here_is_the_end_of_all_behind_it(app: FastQ) -> None:
    result = chain(s(app, "fail"), s(app, "add", 1)).apply()
    assert result.failed() and isinstance(result.result, ValueError) and result.parent.failed()
    result = chord([s(app, "add", 1, 1), s(app, "fail")], s(app, "total")).apply()
    assert isinstance(result.result, ChordError) and "raised ValueError('no')" in str(result.result)


def test_links_of_what_runs_here_are_called(app: FastQ) -> None:
    app.conf.task_always_eager = True
    noted = app.conf.noted
    sig = chain(s(app, "add", 1, 1), s(app, "add", 2))
    sig.link(s(app, "note", "chain"))
    sig.apply()
    many = group(s(app, "add", 1, 1), s(app, "add", 2, 2))
    many.link(s(app, "note", "group"))
    many.apply()
    assert noted == [(4, "chain"), ("group",)]
    noted.clear()
    failing = chain(s(app, "fail"), s(app, "add", 1))
    failing.link_error(s(app, "note", "error"))
    result = failing.apply()
    assert [args[-1] for args in noted] == ["error"] and result.failed()


def test_the_built_in_tasks_are_there_and_hidden(app: FastQ) -> None:
    names = {"accumulate", "map", "starmap", "chunks", "chain", "group", "chord", "chord_unlock", "backend_cleanup"}
    assert {f"fastq.{name}" for name in names} <= set(app.tasks)
    assert not [task for task in app.tasks.regular() if task.name.startswith("fastq.")]
    assert app.tasks["fastq.accumulate"]([1, 2]) == [1, 2]
    assert app.tasks["fastq.accumulate"]([1, 2], index=1) == 2
    assert app.tasks["fastq.chord_unlock"]("group", None) is None
    app.tasks["fastq.backend_cleanup"]()


def test_a_map_over_a_coroutine_function_awaits_each(app: FastQ) -> None:
    @app.task(name="slow")
    async def slow(x: int) -> int:
        await asyncio.sleep(0)
        return x + 1

    assert xmap(slow, [1, 2]).apply().get() == [2, 3]


def test_applied_with_throw_a_canvas_raises_what_failed(app: FastQ) -> None:
    for canvas in (
        chain(s(app, "add", 1, 1), s(app, "fail"), s(app, "add", 1)),
        group([s(app, "add", 1, 1), s(app, "fail")]),
        chord([s(app, "fail")], s(app, "total")),
    ):
        assert canvas.apply().failed()
        with pytest.raises((ValueError, ChordError)):
            canvas.apply(throw=True)
