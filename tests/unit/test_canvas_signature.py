"""A signature: what it holds, how it is completed, and that it survives every serializer."""

from __future__ import annotations

import copy
import json
import pickle
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from fastq import FastQ, _core
from fastq.canvas import Signature, chain, chord, chunks, group, maybe_signature, signature, xmap, xstarmap
from fastq.canvas.builtins import register
from fastq.exceptions import EncodeError, NotRegistered
from fastq.result import AsyncResult


@pytest.fixture
def app() -> Iterator[FastQ]:
    with FastQ("proj", broker=f"memory://{uuid.uuid4()}", set_as_current=False) as app:
        register(app)

        @app.task(name="proj.add")
        def add(x: int, y: int = 0) -> int:
            return x + y

        @app.task(name="proj.total")
        def total(values: list[int]) -> int:
            return sum(values)

        yield app


@pytest.fixture
def add(app: FastQ) -> Any:
    return app.tasks["proj.add"]


@pytest.fixture
def total(app: FastQ) -> Any:
    return app.tasks["proj.total"]


def sent(app: FastQ, queue: str = "default") -> list[_core.Delivery]:
    from fastq.transports import open_inspector

    return [_core.peek(message) for message in open_inspector(app.broker_url, app.transport_options()).peek(queue, 100)]


def calls(app: FastQ) -> list[Any]:
    return [app.serializers.loads(d.content_type, d.body) for d in sent(app)]


def test_a_signature_is_a_dict_of_plain_values(add: Any) -> None:
    sig = Signature(add, (2, 2), {"z": 1}, queue="q")
    assert dict(sig) == {
        "task": "proj.add", "args": (2, 2), "kwargs": {"z": 1}, "options": {"queue": "q"}, "subtask_type": None, "immutable": False,
    }  # fmt: skip
    assert (sig.task, sig.name, sig.args, sig.kwargs, sig.options) == ("proj.add", "proj.add", (2, 2), {"z": 1}, {"queue": "q"})
    assert sig.type is add and sig.app is add.app and sig.id is None


def test_the_texts_of_signatures(add: Any, total: Any) -> None:
    assert repr(Signature(add, (2, 2))) == "proj.add(2, 2)"
    assert repr(Signature(add, (2,), {"y": 3})) == "proj.add(2, y=3)"
    assert repr(Signature(add, (1,)) | Signature(total)) == "proj.add(1) | total()"
    assert repr(group(Signature(add, (1,)), Signature(add, (2,)))) == "group([proj.add(1), add(2)])"
    assert repr(chord([Signature(add, (1,))], Signature(total))) == "%proj.total([add(1)])"
    assert repr(xmap(add, [1, 2])) == "[proj.add(x) for x in [1, 2]]"
    assert repr(group([])) == "group(<empty>)" and repr(chain([])) == "chain(<empty>)"


def test_partial_arguments_come_in_front_and_keywords_over(app: FastQ, add: Any) -> None:
    sig = Signature(add, (4,), {"y": 1})
    assert sig.clone((3,), {"y": 2}).args == (3, 4)
    assert sig.clone((3,), {"y": 2}).kwargs == {"y": 2}
    Signature(add, (4,)).apply_async((3,))
    Signature(add, (4,)).delay(5)
    Signature(add, (4, 5)).set(immutable=True).apply_async((3,), {"y": 2})
    assert calls(app) == [[[3, 4], {}], [[5, 4], {}], [[4, 5], {}]]


def test_a_clone_shares_nothing(add: Any) -> None:
    sig = Signature(add, (1,), {"y": 1}, {"headers": {}})
    sig.link(Signature(add, (9,)))
    for other in (sig.clone(), copy.deepcopy(sig), signature(sig)):
        other.kwargs["y"] = 2
        other.options["queue"] = "q"
        other.options["link"][0].args = (8,)
        other.link(Signature(add, (7,)))
    assert sig.kwargs == {"y": 1} and "queue" not in sig.options
    assert [linked.args for linked in sig.options["link"]] == [(9,)]


def test_set_and_replace(add: Any) -> None:
    sig = Signature(add, (1,))
    assert sig.set(queue="q", countdown=3) is sig and sig.options == {"queue": "q", "countdown": 3}
    other = sig.replace(args=(5, 6), options={"priority": 1})
    assert (other.args, other.options, sig.args) == ((5, 6), {"priority": 1}, (1,))


def test_links_are_kept_once_and_flattened(add: Any) -> None:
    sig, first, second, errback = (Signature(add, (i,)) for i in range(4))
    assert sig.link(first) is first and sig.link(first.clone()) == first
    first.link(second)
    assert sig.on_error(errback) is sig and sig.link_error(errback) is errback
    assert sig.flatten_links() == [sig, first, second]
    assert sig.options["link"] == [first] and sig.options["link_error"] == [errback]


def test_a_frozen_signature_has_its_result_before_it_is_sent(app: FastQ, add: Any) -> None:
    sig = Signature(add, (1, 1))
    result = sig.freeze()
    assert isinstance(result, AsyncResult) and sig.id == result.id == sig.freeze().id
    assert sig.apply_async().id == result.id == sent(app)[0].id


def test_a_signature_is_called_like_a_function(add: Any) -> None:
    assert Signature(add, (2,))(1) == 3
    with pytest.raises(NotRegistered):
        Signature("proj.unknown", app=add.app)()


def test_a_task_that_is_not_known_here_is_sent_by_name(app: FastQ) -> None:
    Signature("elsewhere.do", (1,), app=app).delay()
    (Signature("elsewhere.do", (1,), app=app) | Signature("elsewhere.next", app=app)).delay()
    assert [d.name for d in sent(app)] == ["elsewhere.do", "elsewhere.do"]


@pytest.mark.parametrize("make", ["task", "chain", "group", "chord", "map", "chunks"])
def test_a_signature_survives_json_msgpack_and_pickle(app: FastQ, add: Any, total: Any, make: str) -> None:
    one = Signature(add, (1,), {"y": 2}).on_error(Signature(total))
    sig: Any = {
        "task": one,
        "chain": chain(one, Signature(add, (2,)), link=[Signature(total)]),
        "group": group(one, group(Signature(add, (2,)))),
        "chord": chord([one, Signature(add, (2,))], chain(Signature(total), Signature(add))),
        "map": xstarmap(add, [[1, 2]]),
        "chunks": chunks(add, [[1, 2], [3, 4]], 1),
    }[make]
    for again in (
        Signature.from_dict(json.loads(json.dumps(sig)), app=app),
        Signature.from_dict(app.serializers.loads("application/x-msgpack", app.serializers.dumps("msgpack", sig)[1]), app=app),
        Signature.from_dict(app.serializers.loads("application/json", app.serializers.dumps("json", sig)[1]), app=app),
        pickle.loads(pickle.dumps(sig)),
        maybe_signature(dict(sig), app=app),
    ):
        assert type(again) is type(sig) and repr(again) == repr(sig)
        assert json.dumps(again, sort_keys=True) == json.dumps(sig, sort_keys=True)


def test_a_signature_can_be_an_argument_of_a_task(app: FastQ, add: Any) -> None:
    inner = Signature(add, (1,)) | group(Signature(add, (2,)), Signature(add, (3,)))
    for serializer in ("msgpack", "json"):
        Signature("proj.later", (inner,), app=app).apply_async(serializer=serializer)
    for (argument,), _ in calls(app):
        assert repr(maybe_signature(argument, app=app)) == repr(inner)


def test_maybe_signature_leaves_other_things_alone(app: FastQ, add: Any) -> None:
    assert maybe_signature(None) is None and maybe_signature("text") == "text"
    sig = Signature(add)
    assert maybe_signature(sig) is sig and maybe_signature(sig, clone=True) is not sig


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda add: Signature(3), "not of int: 3"),
        (lambda add: signature({"args": ()}), "the name of a task under 'task'"),
        (lambda add: signature({"task": "x", "subtask_type": "nonesuch"}), "'nonesuch' is none of"),
        (lambda add: chain(3), "not of int: 3"),
        (lambda add: chain(Signature(add), add), "not of Task"),
        (lambda add: group(Signature(add), "text"), "not of str: 'text'"),
        (lambda add: group(3), "not of int: 3"),
        (lambda add: chord([Signature(add)], [Signature(add)]), "a chord's body is a signature"),
        (lambda add: chord([Signature(add)]).apply_async(), "a chord needs a body"),
        (lambda add: chain(Signature(add, (1,), link=3), Signature(add)).apply_async(), "a callback is a signature"),
    ],
)
def test_what_is_no_canvas_is_refused_with_what_was_seen(add: Any, make: Any, text: str) -> None:
    with pytest.raises((TypeError, ValueError), match=text):
        make(add)


def test_an_argument_that_cannot_be_written_is_named(add: Any) -> None:
    with pytest.raises(EncodeError, match="argument 'y'"):
        group(Signature(add, (1, 2)), Signature(add, (1, object()))).apply_async()


def test_or_with_something_else_is_a_type_error(add: Any) -> None:
    assert isinstance(Signature(add) | dict(Signature(add)), chain)
    with pytest.raises(TypeError):
        group(Signature(add)) | 3


def test_a_pipe_can_be_built_up_in_place(add: Any) -> None:
    sig: Any = Signature(add, (1, 1))
    sig |= Signature(add, (2,))
    sig |= Signature(add, (3,))
    assert isinstance(sig, chain) and [task.args for task in sig.tasks] == [(1, 1), (2,), (3,)]


def test_a_class_of_ones_own_is_found_by_its_type(app: FastQ) -> None:
    @Signature.register_type("mine")
    class Mine(Signature[Any]):
        __slots__ = ()

    try:
        made = Signature.from_dict({"task": "x", "args": [1], "subtask_type": "mine"})
        assert type(made) is Mine and made.args == (1,) and type(made.clone()) is Mine
    finally:
        del Signature.TYPES["mine"]
