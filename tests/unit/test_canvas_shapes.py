"""What canvases become, end to end without a worker."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from fastq import FastQ, flow
from fastq.canvas import Signature, chain, chord, chunks, group, signature, xmap, xstarmap
from fastq.canvas.build import build
from fastq.canvas.builtins import register
from fastq.results import GroupResult
from tests.canvas_machine import NOW_MS, Failure, Machine


@pytest.fixture
def app() -> Iterator[FastQ]:
    with FastQ("proj", broker=f"memory://{uuid.uuid4()}", set_as_current=False) as app:
        register(app)
        yield app


@pytest.fixture
def run(app: FastQ) -> Machine:
    def total(values: list[Any]) -> Any:
        return sum(values)

    def fail(*args: Any) -> None:
        raise ValueError("no")

    made = {
        "add": lambda x, y=0: x + y,
        "mul": lambda x, y: x * y,
        "total": total,
        "same": lambda x: x,
        "nothing": lambda *args: None,
        "note": lambda *args: list(args),
        "fail": fail,
    }
    for name, function in made.items():
        app.task(name=f"proj.{name}")(function)
    return Machine(app)


def s(run: Machine, name: str, *args: Any, **options: Any) -> Signature[Any]:
    return Signature(run.app.tasks[f"proj.{name}"], args, options=options)


def add(run: Machine, *args: Any) -> Signature[Any]:
    return s(run, "add", *args)


# --- chains ---


def test_each_task_of_a_chain_gets_the_result_of_the_one_before(run: Machine) -> None:
    assert run(add(run, 2, 2) | add(run, 4) | s(run, "mul", 10)) == 80


def test_a_chain_returns_the_last_result_with_its_parents(run: Machine) -> None:
    result = chain(add(run, 1, 1), add(run, 2), add(run, 3))()
    run.run()
    assert [run.value(r) for r in (result, result.parent, result.parent.parent)] == [7, 4, 2]
    assert result.parent.parent.parent is None


def test_a_chain_in_a_chain_is_taken_apart(run: Machine) -> None:
    sig = chain(add(run, 1, 1), chain(add(run, 2), chain(add(run, 3))))
    assert [task.args for task in sig.tasks] == [(1, 1), (2,), (3,)]
    assert run(sig) == 7


def test_a_chain_of_one_is_its_task(run: Machine) -> None:
    assert run(chain(add(run, 1, 1))) == 2
    assert run(chain([add(run, 1, 1)])) == 2


def test_an_empty_chain_sends_nothing(run: Machine) -> None:
    assert chain(app=run.app).apply_async() is None
    assert run.messages == []


def test_a_chain_takes_arguments_for_its_first_task(run: Machine) -> None:
    assert run(chain(add(run), add(run, 10)), 1, 2) == 13


def test_an_immutable_step_gets_no_result(run: Machine) -> None:
    assert run(add(run, 1, 1) | add(run, 5, 5).set(immutable=True)) == 10


def test_a_chain_that_fails_ends_in_the_same_failure_for_all_that_was_to_come(run: Machine) -> None:
    result = (add(run, 1, 1) | s(run, "fail") | add(run, 1) | add(run, 2))()
    run.run()
    assert run.value(result) == run.value(result.parent) == run.value(result.parent.parent) == Failure("ValueError")
    assert run.value(result.parent.parent.parent) == 2
    assert [name for name, *_ in run.runs] == ["proj.add", "proj.fail"]


def test_an_errback_of_a_chain_is_called_by_the_task_that_failed(run: Machine) -> None:
    sig = chain(add(run, 1, 1), s(run, "fail"), add(run, 1))
    sig.link_error(s(run, "note"))
    result = sig()
    run.run()
    assert run.runs[-1] == ("proj.note", (result.parent.id,), {})
    assert len(run.runs) == 3


def test_what_is_linked_to_a_chain_is_called_with_its_last_result(run: Machine) -> None:
    sig = chain(add(run, 1, 1), add(run, 2))
    sig.link(s(run, "note", "after"))
    run(sig)
    assert run.runs[-1] == ("proj.note", (4, "after"), {})


# --- groups ---


def test_a_group_gives_the_results_in_order(run: Machine) -> None:
    result = group(add(run, i, i) for i in range(5))()
    assert isinstance(result, GroupResult)
    assert run.run().value(result) == [0, 2, 4, 6, 8]


def test_groups_in_a_group_are_taken_apart(run: Machine) -> None:
    sig = group(add(run, 1, 1), group(add(run, 2, 2), group(add(run, 3, 3))), add(run, 4, 4))
    assert run(sig) == [2, 4, 6, 8]


def test_an_empty_group_sends_nothing_and_has_no_results(run: Machine) -> None:
    result = group([], app=run.app)()
    assert isinstance(result, GroupResult) and result.results == [] and run.messages == []


def test_arguments_of_a_group_are_for_every_task(run: Machine) -> None:
    assert run(group(add(run, 1), add(run, 2)), 10) == [11, 12]


def test_a_chain_that_ends_in_a_group_gives_its_results(run: Machine) -> None:
    assert run(add(run, 1, 1) | group(add(run, 1), add(run, 2))) == [3, 4]


def test_a_chain_ending_in_a_group_is_a_nested_list_among_the_results_of_a_group(run: Machine) -> None:
    inner = add(run, 1, 1) | group(add(run, 1), add(run, 2))
    assert run(group(inner, add(run, 5, 5))) == [[3, 4], 10]
    assert run(group(inner, add(run, 5, 5)) | s(run, "same")) == [[3, 4], 10]


def test_what_is_linked_to_a_group_runs_once_after_all_of_it(run: Machine) -> None:
    sig = group(add(run, i, i) for i in range(3))
    sig.link(s(run, "note", "all"))
    assert run(sig) == [0, 2, 4]
    assert [entry for entry in run.runs if entry[0] == "proj.note"] == [("proj.note", ("all",), {})]
    assert run.runs[-1][0] == "proj.note"


def test_what_is_linked_to_a_group_with_a_failure_never_runs(run: Machine) -> None:
    sig = group(add(run, 1, 1), s(run, "fail"))
    sig.link(s(run, "note"))
    assert run(sig) == [2, Failure("ValueError")]
    assert "proj.note" not in [name for name, *_ in run.runs]


def test_every_task_of_a_group_that_fails_calls_its_errback(run: Machine) -> None:
    sig = group(s(run, "fail"), add(run, 1, 1), s(run, "fail"))
    sig.link_error(s(run, "note"))
    result = sig()
    run.run()
    called = [args for name, args, _ in run.runs if name == "proj.note"]
    assert sorted(called) == sorted([(result.results[0].id,), (result.results[2].id,)])


# --- chords ---


def test_a_chord_calls_its_body_with_the_results_in_order(run: Machine) -> None:
    result = chord([add(run, i, i) for i in range(4)])(s(run, "same"))
    assert run.run().value(result) == [0, 2, 4, 6]
    assert run.value(result.parent) == [0, 2, 4, 6]


def test_a_group_with_a_task_behind_it_is_a_chord(run: Machine) -> None:
    sig = group(add(run, 1, 1), add(run, 2, 2)) | s(run, "total")
    assert isinstance(sig, chord)
    assert run(sig) == 6


def test_a_group_in_the_middle_of_a_chain_is_a_chord(run: Machine) -> None:
    sig = chain(add(run, 1, 1), group(add(run, 1), add(run, 2)), s(run, "total"))
    assert [type(task).__name__ for task in sig.tasks] == ["Signature", "chord"]
    assert run(sig) == 7


def test_two_groups_are_a_chord_whose_body_is_a_group(run: Machine) -> None:
    sig = group(add(run, 1, 1), add(run, 2, 2)) | group(s(run, "total"), s(run, "same"))
    result = sig()
    assert run.run().value(result) == [6, [2, 4]]
    assert isinstance(result, GroupResult) and run.value(result.parent) == [2, 4]


def test_a_chord_with_a_task_behind_it_chains_its_body(run: Machine) -> None:
    sig = chord([add(run, 1, 1)], s(run, "total")) | add(run, 10)
    assert isinstance(sig, chord) and isinstance(sig.body, chain)
    assert run(sig) == 12


def test_a_chord_without_a_header_calls_its_body_with_an_empty_list(run: Machine) -> None:
    assert run(chord([], s(run, "same"))) == []
    assert run(group([], app=run.app) | s(run, "total")) == 0
    assert run(chord([], group(s(run, "same"), s(run, "total")))) == [[], 0]


def test_a_header_of_one_still_gives_a_list(run: Machine) -> None:
    assert run(chord([add(run, 2, 5)], s(run, "same"))) == [7]
    assert run(group([add(run, 2, 5)]) | s(run, "same")) == [7]


def test_a_group_of_one_in_a_chain_is_its_task(run: Machine) -> None:
    assert run(chain(add(run, 1, 1), group([add(run, 2)]), s(run, "same"))) == 4


def test_empty_groups_in_a_chain_are_left_out(run: Machine) -> None:
    assert run(chain(group([]), add(run, 1, 1), group([]), add(run, 2), group([]))) == 4


def test_a_member_that_fails_fails_the_body_with_a_chord_error(run: Machine) -> None:
    result = chord([add(run, 1, 1), s(run, "fail")])(s(run, "total") | add(run, 1))
    run.run()
    assert run.value(result) == run.value(result.parent) == Failure("ChordError")
    failed = result.parent.parent.results[1]
    assert run.value(result).text == f"Dependency {failed.id} raised ValueError('no')"
    assert run.value(result.parent.parent) == [2, Failure("ValueError")]


def test_an_errback_of_a_chord_is_called_by_its_body_once(run: Machine) -> None:
    sig = chord([s(run, "fail"), s(run, "fail")], s(run, "total"))
    sig.link_error(s(run, "note"))
    result = sig()
    run.run()
    assert [entry for entry in run.runs if entry[0] == "proj.note"] == [("proj.note", (result.id,), {})]


def test_an_errback_of_a_chord_with_a_group_as_body_is_called_once(run: Machine) -> None:
    sig = chord([s(run, "fail"), add(run, 1, 1)], group(s(run, "total"), s(run, "same")))
    sig.link_error(s(run, "note"))
    assert run(sig) == [Failure("ChordError"), Failure("ChordError")]
    assert [name for name, *_ in run.runs].count("proj.note") == 1


def test_with_the_setting_an_errback_of_a_chord_is_called_by_its_header_too(run: Machine) -> None:
    run.app.conf.task_allow_error_cb_on_chord_header = True
    sig = chord([s(run, "fail"), s(run, "fail")], s(run, "total"))
    sig.link_error(s(run, "note"))
    result = sig()
    run.run()
    called = [args for name, args, _ in run.runs if name == "proj.note"]
    assert sorted(called) == [(), (), (result.id,)]


def test_what_is_linked_to_a_chord_is_called_with_the_result_of_its_body(run: Machine) -> None:
    sig = chord([add(run, 1, 1), add(run, 2, 2)], s(run, "total"))
    sig.link(s(run, "note"))
    run(sig)
    assert run.runs[-1] == ("proj.note", (6,), {})


def test_chords_in_chords_give_nested_values(run: Machine) -> None:
    inner = chord([add(run, 1, 1), add(run, 2, 2)], s(run, "same"))
    assert run(chord([inner, add(run, 5, 5)], s(run, "same"))) == [[2, 4], 10]


def test_a_chord_as_the_body_of_a_chord_gets_the_list(run: Machine) -> None:
    body = chord([s(run, "total"), s(run, "same")], s(run, "same"))
    assert run(chord([add(run, 1, 1), add(run, 2, 2)], body)) == [6, [2, 4]]


def test_groups_behind_groups_behind_groups(run: Machine) -> None:
    sig = chain(add(run, 1, 0), group(add(run, 1), add(run, 1)), group(s(run, "total"), s(run, "total")), s(run, "total"))
    assert run(sig) == 8


def test_every_join_is_gone_when_a_canvas_has_succeeded(run: Machine) -> None:
    inner = chord([add(run, 1, 1), add(run, 2, 2)], s(run, "total"))
    run(chord([inner, inner.clone() | group(add(run, 1), add(run, 2))], s(run, "same")) | group(s(run, "same"), s(run, "same")))
    assert run.joins == {}


def test_what_is_continued_ends_in_one_task_with_the_id_of_the_place(run: Machine) -> None:
    for sig in (group(add(run, 1, 1), add(run, 2, 2)), add(run, 1, 1) | group(add(run, 1), add(run, 2)), chain(add(run, 1, 1))):
        built = build(sig, run.app, task_id="place", continued=True)
        assert built.result.id == "place"
        run.carry_out(flow.begin(built.node, flow.Place(NOW_MS, rest=[build(s(run, "same"), run.app, task_id="next").node])))
    run.run()
    assert sorted(repr(args) for name, args, _ in run.runs if name == "proj.same") == ["(2,)", "([2, 4],)", "([3, 4],)"]


def test_nothing_may_be_linked(run: Machine) -> None:
    sig = add(run, 1, 1) | add(run, 2)
    for nothing in (chain(app=run.app), group([], app=run.app)):
        sig.link(nothing)
    assert run(sig) == 4


def test_an_immutable_body_gets_no_results_and_waits_all_the_same(run: Machine) -> None:
    body = add(run, 5, 5).set(immutable=True).on_error(s(run, "note"))
    assert run(chord([add(run, 1, 1), add(run, 2, 2)], body)) == 10
    assert run(chord([s(run, "fail"), add(run, 2, 2)], body)) == Failure("ChordError")
    assert [name for name, *_ in run.runs].count("proj.note") == 1


# --- maps ---


def test_map_starmap_and_chunks_call_one_task_in_few_messages(run: Machine) -> None:
    assert run(xmap(add(run), range(4))) == [0, 1, 2, 3]
    assert run(xstarmap(add(run), [(1, 2), (3, 4)])) == [3, 7]
    before = len(run.messages)
    assert run(chunks(add(run), zip(range(10), range(10), strict=True), 4)) == [[0, 2, 4, 6], [8, 10, 12, 14], [16, 18]]
    assert len(run.messages) - before == 3
    assert run(chunks(add(run), zip(range(4), range(4), strict=True), 3).group() | s(run, "same")) == [[0, 2, 4], [6]]


def test_maps_stand_in_canvases_like_tasks(run: Machine) -> None:
    assert run(chain(xmap(add(run), [1, 2]), s(run, "total"))) == 3
    assert run(chord([xmap(add(run), [1, 2]), add(run, 1, 1)], s(run, "same"))) == [[1, 2], 2]


def test_chunks_of_nothing_are_refused(run: Machine) -> None:
    with pytest.raises(ValueError, match="1 or more"):
        chunks(add(run), [1], 0)


# --- ids, options, size ---


def test_ids_given_or_frozen_are_used(run: Machine) -> None:
    assert chain(add(run, 1, 1), add(run, 2)).apply_async(task_id="the-last").id == "the-last"
    assert group(add(run, 1, 1)).apply_async(task_id="the-group").id == "the-group"
    result = chord([add(run, 1, 1)], s(run, "total")).apply_async(task_id="the-body")
    assert result.id == "the-body"
    sig = add(run, 1, 1) | group(add(run, 2), add(run, 3))
    frozen = sig.freeze()
    sent = sig()
    assert sent.id == frozen.id and [r.id for r in sent.results] == [r.id for r in frozen.results]
    assert sent.parent.id == frozen.parent.id
    run.run()
    assert run.value(frozen) == [4, 5]


def test_options_of_a_chain_are_its_first_tasks_and_those_of_a_group_every_tasks(run: Machine) -> None:
    chain(add(run, 1, 1), add(run, 2)).apply_async(queue="first")
    assert [p.queue for p in run.waiting] == ["first"]
    run.run()
    group(add(run, 1, 1), add(run, 2, 2)).apply_async(queue="all", countdown=3)
    assert [(p.queue, p.delay_ms) for p in run.waiting] == [("all", 3000)] * 2
    run.waiting.clear()
    chord([add(run, 1, 1)], s(run, "total")).apply_async(queue="both", countdown=2)
    (join,) = run.joins.values()
    assert [(p.queue, p.delay_ms) for p in (*run.waiting, join.body)] == [("both", 2000), ("both", 0)]


def test_a_skewed_group_starts_one_after_the_other(run: Machine) -> None:
    group(add(run, i, i) for i in range(4)).skew(start=1, stop=3).apply_async()
    assert [p.delay_ms for p in run.waiting] == [1000, 2000, 3000, 3000]


def test_the_size_of_what_is_sent_is_linear_in_the_depth(run: Machine) -> None:
    def nested(depth: int) -> Signature[Any]:
        sig: Signature[Any] = add(run, 1, 1)
        for _ in range(depth):
            sig = chord([sig, add(run, 1, 1)], s(run, "same"))
        return sig

    def behind(depth: int) -> Signature[Any]:
        sig: Signature[Any] = s(run, "same")
        for _ in range(depth):
            sig = chord([s(run, "same", 0).set(immutable=True), add(run, 1, 1).set(immutable=True)], sig)
        return sig

    def alternating(depth: int) -> Signature[Any]:
        return chain(add(run, 1, 1), *[part for _ in range(depth) for part in (group(add(run, 1), add(run, 2)), s(run, "total"))])

    for make in (nested, behind, alternating):
        sizes = []
        for depth in (10, 20, 40):
            run.messages.clear()
            run.joins.clear()
            run.waiting.clear()
            make(depth).apply_async()
            sent = [*run.messages, *(join.body.message for join in run.joins.values())]
            sizes.append(sum(map(len, sent)))
        assert sizes[1] < 2.5 * sizes[0] and sizes[2] < 2.5 * sizes[1], (make.__name__, sizes)


def test_deep_canvases_can_be_sent(run: Machine) -> None:
    sig: Signature[Any] = add(run, 1, 1)
    for _ in range(100):
        sig = chord([sig], s(run, "total"))
    assert run(sig) == 2
    assert run(chain(add(run, i, 0) if i == 0 else add(run, i) for i in range(300))) == sum(range(300))


def test_a_canvas_that_went_through_json_is_the_same(run: Machine) -> None:
    import json

    sig = chain(add(run, 1, 1), group(add(run, 1), xmap(add(run), [1, 2])), chord([s(run, "same")], s(run, "same"))).on_error(
        s(run, "note")
    )
    again = Signature.from_dict(json.loads(json.dumps(sig)), app=run.app)
    assert type(again) is chain and again == sig and repr(again) == repr(sig)
    assert run(again) == run(sig)


def test_signature_makes_one_of_anything(run: Machine) -> None:
    task = run.app.tasks["proj.add"]
    assert run(signature(task, (1, 2))) == 3
    assert run(signature("proj.add", (1, 2), app=run.app)) == 3
    assert run(signature({"task": "proj.add", "args": [1, 2]}, app=run.app)) == 3
