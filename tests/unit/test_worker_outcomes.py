"""How runs end: retries, workflows, hooks, signals and refusals, each in one settlement."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from fastq import FastQ, _core, flow, signals
from fastq.canvas import group
from fastq.exceptions import ChordError, Ignore, MaxRetriesExceededError, OperationalError, Reject, Retry
from fastq.records import DEAD, DONE, RETRY, Opening, Publication, Settlement
from fastq.remote import decode_exception
from fastq.serialization import MSGPACK
from fastq.task import Task
from tests.unit.worker_rig import Rig, message, rig, wait_for

_names = itertools.count(1)


@pytest.fixture
def app() -> Iterator[FastQ]:
    url = f"memory://outcomes{next(_names)}"
    made = FastQ("t", broker=url, backend=url)
    yield made
    made.close()


def node(name: str, *args: Any, id: str, immutable: bool = False, **options: Any) -> bytes:
    return flow.leaf(id, name, "default", 0, MSGPACK, _core.encode_call(args, {}), immutable=immutable, options=options or None)


def value(made: Rig, id: str) -> Any:
    """Return a task's value, or the exception that it ended with."""
    found: list[Any] = []

    def final() -> bool:
        record = made.backend.get([id])[0] if made.backend is not None else None
        found[:] = [] if record is None else [_core.decode_result(record)]
        return bool(found) and found[0][0] in ("SUCCESS", "FAILURE", "REVOKED")

    wait_for(final, f"the end of {id}")
    state, content_type, body, traceback, _, _ = found[0]
    serializers = made.serializers
    if state == "SUCCESS":
        return serializers.loads_result(content_type, body)
    return decode_exception(content_type, body, traceback, serializers)


def settlements(made: Rig, id: str) -> list[Settlement]:
    return [s for _, batch in made.trouble.settled for s in batch if s.id == id]


# --- retries ---


def test_a_retry_is_one_settlement_and_keeps_the_id_the_queue_and_the_level(app: FastQ) -> None:
    seen: list[Any] = []

    @app.task(name="t", bind=True, default_retry_delay=0)
    def t(self: Any, x: int) -> str:
        seen.append((self.request.id, self.request.retries, x))
        if self.request.retries < 2:
            raise self.retry(exc=ValueError("later"))
        return "done"

    with rig({}, app=app) as made:
        made.publish(message("t", 7, id="x", options={"priority": 4, "headers": {"a": 1}}))
        assert value(made, "x") == "done"
        assert seen == [("x", 0, 7), ("x", 1, 7), ("x", 2, 7)]
        first, second, last = settlements(made, "x")
        assert [s.verdict for s in (first, second, last)] == [RETRY, RETRY, DONE]
        assert first.level == 4 and first.message is not None and first.result is not None
        assert _core.decode_result(first.result)[0] == "RETRY" and first.inbox == ""
        assert _core.peek(first.message).options == {"priority": 4, "headers": {"a": 1}}


def test_a_retry_changes_what_it_is_told_to_and_nothing_else(app: FastQ) -> None:
    @app.task(name="t", bind=True)
    def t(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.request.retries == 0:
            raise self.retry(args=(1, 2), kwargs={"k": 3}, countdown=0, headers={"b": 2}, priority=7, expires=60)
        return [list(args), kwargs, self.request.headers, self.request.delivery_info["priority"], self.request.expires is not None]

    with rig({}, app=app) as made:
        made.publish(message("t", 9, id="x", options={"headers": {"a": 1}}))
        assert value(made, "x") == [[1, 2], {"k": 3}, {"a": 1, "b": 2}, 7, True]


def test_a_retry_in_another_queue_is_published_by_the_settlement_that_ends_the_run(app: FastQ) -> None:
    @app.task(name="t", bind=True)
    def t(self: Any) -> Any:
        if self.request.retries == 0:
            raise self.retry(countdown=0, queue="other")
        return self.request.delivery_info["routing_key"]

    with rig({}, app=app, queues=("default", "other")) as made:
        made.publish(message("t", id="x"))
        assert value(made, "x") == "other"
        first = settlements(made, "x")[0]
        assert (first.verdict, first.queue, len(first.effects.publications)) == (DONE, "default", 1)


@pytest.mark.parametrize("given", [None, KeyError("mine")])
def test_one_retry_too_many_ends_in_the_given_exception_or_says_whose_it_was(app: FastQ, given: Exception | None) -> None:
    @app.task(name="t", bind=True, max_retries=1, default_retry_delay=0)
    def t(self: Any) -> None:
        raise self.retry(exc=given)

    with rig({}, app=app) as made:
        made.publish(message("t", id="x"))
        error = value(made, "x")
        if given is None:
            assert isinstance(error, MaxRetriesExceededError) and "t[x]" in str(error)
        else:
            assert repr(error) == repr(given)
        assert [s.verdict for s in settlements(made, "x")] == [RETRY, DEAD]


def test_a_retry_without_throw_happens_when_the_task_returns(app: FastQ) -> None:
    ran: list[int] = []

    @app.task(name="t", bind=True)
    def t(self: Any) -> int:
        ran.append(self.request.retries)
        if self.request.retries == 0:
            assert isinstance(self.retry(throw=False, countdown=0), Retry)
        return len(ran)

    with rig({}, app=app) as made:
        made.publish(message("t", id="x"))
        assert value(made, "x") == 2 and ran == [0, 1]


def test_an_unknown_option_of_a_retry_is_named_where_it_stands(app: FastQ) -> None:
    @app.task(name="t", bind=True)
    def t(self: Any) -> None:
        self.retry(countdwn=3)

    with rig({}, app=app) as made:
        made.publish(message("t", id="x"))
        assert isinstance(error := value(made, "x"), TypeError) and "countdwn" in str(error)


def test_exceptions_named_by_the_task_are_retried_by_themselves(app: FastQ) -> None:
    ran: list[str] = []

    limits = {"max_retries": 2, "countdown": 0}

    @app.task(name="t", autoretry_for=(LookupError,), dont_autoretry_for=(KeyError,), retry_kwargs=limits)
    def t(kind: str) -> None:
        ran.append(kind)
        raise {"index": IndexError, "key": KeyError, "value": ValueError}[kind](kind)

    with rig({}, app=app) as made:
        for kind in ("index", "key", "value"):
            made.publish(message("t", kind, id=kind))
            assert repr(value(made, kind)) == repr({"index": IndexError, "key": KeyError, "value": ValueError}[kind](kind))
    assert ran == ["index"] * 3 + ["key", "value"]


def test_a_retry_keeps_what_follows_the_task(app: FastQ) -> None:
    @app.task(name="t", bind=True, default_retry_delay=0)
    def t(self: Any, x: int) -> int:
        if self.request.retries == 0:
            self.retry()
        return x + 1

    with rig({}, app=app) as made:
        made.publish(message("t", 1, id="a", options={"flow": {"chain": [node("t", id="c"), node("t", id="b")]}}))
        assert [value(made, id) for id in "abc"] == [2, 3, 4]


def test_a_retry_with_new_arguments_replaces_those_of_the_chain_too(app: FastQ) -> None:
    seen: list[Any] = []

    @app.task(name="t", bind=True)
    def t(self: Any, *args: Any) -> Any:
        seen.append((list(args), list(self.request.args)))
        if self.request.retries == 0 and args[0] == 1:
            self.retry(args=(5,), countdown=0)
        return args[0]

    @app.task(name="one")
    def one() -> int:
        return 1

    with rig({}, app=app) as made:
        made.publish(message("one", id="a", options={"flow": {"chain": [node("t", 2, id="b")]}}))
        assert value(made, "b") == 5
        assert seen == [([1, 2], [1, 2]), ([5], [5])]


# --- what follows ---


def test_a_chain_hands_each_value_on_and_its_children_can_be_followed(app: FastQ) -> None:
    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    with rig({}, app=app) as made:
        chain = [node("add", 100, id="c"), node("add", 10, id="b")]
        made.publish(message("add", 1, 1, id="a", options={"flow": {"chain": chain, "links": [node("add", 0, id="l")]}}))
        assert [value(made, id) for id in "abcl"] == [2, 12, 112, 2]
        meta = made.result("a")[5]
        assert meta is not None and meta["children"] == [[["l", None], None], [["b", None], None]]
        assert made.result("c")[5] is None


def open_chord(made: Rig, members: list[bytes], body: bytes, join: str = "j", **options: Any) -> None:
    """Send a chord, as a producer does."""
    begun = flow.begin(flow.chord(join, "default", members, body), flow.Place(1, **options))
    made.broker.publish("producer", next(_names) + 1_000, begun.publications, begun.openings)


def test_a_chord_gives_its_body_the_results_in_order_even_of_members_that_ignore_theirs(app: FastQ) -> None:
    @app.task(name="value", ignore_result=True)
    def value_of(x: int) -> int:
        return x

    @app.task(name="total", bind=True)
    def total(self: Any, values: list[int], more: int) -> Any:
        return [sum(values) + more, values, self.request.args]

    with rig({}, app=app, slots=4) as made:
        open_chord(made, [node("value", i, id=f"m{i}") for i in range(20)], node("total", 5, id="body"))
        assert value(made, "body") == [195, list(range(20)), [list(range(20)), 5]]
        assert made.backend is not None and made.backend.get(["m1"]) == [None]
        wait_for(lambda: made.backend is not None and made.backend.joined("default", "j") is None, "the end of the join")


def test_a_member_that_fails_fails_the_body_once_and_leaves_no_dead_body(app: FastQ) -> None:
    told: list[Any] = []

    @app.task(name="m")
    def m(x: int) -> int:
        if x == 1:
            raise ValueError("broken")
        return x

    @app.task(name="body", autoretry_for=(Exception,))
    def body(values: list[int]) -> None:
        raise AssertionError("must not run")

    @app.task(name="errback")
    def errback(request: Any, exc: Exception, traceback: str) -> None:
        told.append((request.id, exc))

    with rig({}, app=app) as made:
        errbacks = {"errbacks": [node("errback", id="e")]}
        open_chord(made, [node("m", i, id=f"m{i}") for i in range(3)], node("body", id="body", flow=errbacks))
        error = value(made, "body")
        assert isinstance(error, ChordError) and str(error) == "Dependency m1 raised ValueError('broken')"
        wait_for(made.settled_all)
        assert made.dead() == ["failed"] and [s.verdict for s in settlements(made, "body")] == [DONE]
        assert [(id, type(exc)) for id, exc in told] == [("body", ChordError)]


def test_a_chain_that_fails_ends_those_behind_it_and_calls_its_errbacks(app: FastQ) -> None:
    told: list[Any] = []

    @app.task(name="fail")
    def fail(x: int) -> None:
        raise ValueError(x)

    @app.task(name="old")
    def old(task_id: str) -> None:
        told.append(task_id)

    @app.task(name="new")
    def new(request: Any, exc: Exception, traceback: str, more: str) -> None:
        told.append((request.id, request.args, repr(exc), "ValueError" in traceback, more))

    @app.task(name="bound", bind=True)
    def bound(self: Any, task_id: str) -> None:
        told.append((self.request.parent_id, task_id))

    @app.task(name="immutable")
    def immutable() -> None:
        told.append("nothing")

    errbacks = [
        node("old", id="1"), node("new", "more", id="2"), node("bound", id="3"), node("immutable", id="4", immutable=True),
    ]  # fmt: skip
    with rig({}, app=app) as made:
        made.publish(message("fail", 3, id="a", options={"flow": {"chain": [node("old", id="b")], "errbacks": errbacks}}))
        assert repr(value(made, "b")) == "ValueError(3)"
        for id in "1234":
            value(made, id)
        assert told == ["a", ("a", [3], "ValueError(3)", True, "more"), ("a", "a"), "nothing"]


def test_an_expired_step_ends_its_chain_and_its_chord(app: FastQ) -> None:
    @app.task(name="t")
    def t(*args: Any) -> None:
        raise AssertionError("must not run")

    with rig({}, app=app, start=False) as made:
        body = Publication("default", message("t", id="body", options={"flow": {"joined": ["j", "default"]}}))
        late = message("t", id="a", expires_ms=1, options={"flow": {"chain": [node("t", id="b")], "join": ["j", "0", "default"]}})
        made.broker.publish("producer", 1, [Publication("default", late)], [Opening("j", 1, body)])
        made.start()
        ends = [type(value(made, id)).__name__ for id in ("a", "b", "body")]
        assert ends == ["TaskRevokedError", "TaskRevokedError", "ChordError"]


def test_an_unregistered_member_fails_its_chord(app: FastQ) -> None:
    @app.task(name="body")
    def body(values: list[int]) -> None:
        raise AssertionError("must not run")

    with rig({}, app=app) as made:
        open_chord(made, [node("nothing", id="m")], node("body", id="body"))
        assert "m raised NotRegistered" in str(value(made, "body"))


def test_a_join_that_is_gone_is_the_bodys_failure(app: FastQ) -> None:
    @app.task(name="body")
    def body(values: list[int]) -> None:
        raise AssertionError("must not run")

    with rig({}, app=app) as made:
        made.publish(message("body", id="body", options={"flow": {"joined": ["j", "default"]}}))
        assert isinstance(value(made, "body"), ChordError)


# --- ends without a result ---


def test_ignored_tasks_keep_no_result_and_what_waits_for_one_is_told(app: FastQ) -> None:
    @app.task(name="t")
    def t(*args: Any) -> None:
        raise Ignore

    with rig({}, app=app) as made:
        open_chord(made, [node("t", id="m", flow={"errbacks": [node("t", id="e")]})], node("t", id="body"))
        assert "m raised Ignore" in str(value(made, "body"))
        wait_for(made.settled_all)
        assert made.dead() == [] and made.backend is not None and made.backend.get(["m", "e"]) == [None, None]


def test_a_rejected_task_is_a_dead_letter_or_goes_back_as_redelivered(app: FastQ) -> None:
    seen: list[tuple[bool, int]] = []

    @app.task(name="t", bind=True)
    def t(self: Any) -> str:
        seen.append((self.request.delivery_info["redelivered"], self.request.retries))
        if len(seen) == 1:
            raise Reject("not now", requeue=True)
        if len(seen) == 2:
            raise Reject("never")
        return "done"

    with rig({}, app=app) as made:
        made.publish(message("t", id="x"))
        assert isinstance(error := value(made, "x"), Reject) and error.reason == "never"
        wait_for(made.settled_all)
        assert seen == [(False, 0), (True, 0)] and made.dead() == ["rejected"]


def test_expected_exceptions_are_told_quietly(app: FastQ, caplog: pytest.LogCaptureFixture) -> None:
    @app.task(name="t", throws=(KeyError,))
    def t() -> None:
        raise KeyError("known")

    with caplog.at_level(logging.INFO, "fastq.worker.trace"), rig({}, app=app) as made:
        made.publish(message("t", id="x"))
        assert isinstance(value(made, "x"), KeyError)
        wait_for(made.settled_all)
    (record,) = (r for r in caplog.records if "raised" in r.message)
    assert record.levelno == logging.INFO and record.message == "Task t[x] raised expected: KeyError('known')"


# --- hooks and signals ---


class Telling(Task[..., Any]):
    """A base whose hooks say what they were told."""

    said: list[Any]

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        self.said.append(("before_start", task_id, list(args), kwargs))

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        self.said.append(("on_success", retval))
        raise RuntimeError("a hook that fails")

    def on_failure(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        self.said.append(("on_failure", repr(exc), "ValueError" in einfo.traceback))

    def on_retry(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        self.said.append(("on_retry", repr(exc)))

    def after_return(self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        self.said.append(("after_return", status, repr(retval)))


def test_hooks_come_in_order_and_what_they_raise_after_the_end_changes_nothing(app: FastQ) -> None:
    said: list[Any] = []

    @app.task(name="t", base=Telling, said=said, bind=True)
    def t(self: Any, what: str) -> str:
        said.append(("run", what))
        if what == "fail":
            raise ValueError(what)
        if what == "retry" and self.request.retries == 0:
            self.retry(exc=KeyError(what), countdown=0)
        return what

    with rig({}, app=app) as made:
        for what in ("return", "fail", "retry"):
            made.publish(message("t", what, id=what))
            value(made, what)
            wait_for(made.settled_all)
    assert said == [
        ("before_start", "return", ["return"], {}), ("run", "return"), ("on_success", "return"),
        ("after_return", "SUCCESS", "'return'"),
        ("before_start", "fail", ["fail"], {}), ("run", "fail"), ("on_failure", "ValueError('fail')", True),
        ("after_return", "FAILURE", "ValueError('fail')"),
        ("before_start", "retry", ["retry"], {}), ("run", "retry"), ("on_retry", "KeyError('retry')"),
        ("before_start", "retry", ["retry"], {}), ("run", "retry"), ("on_success", "retry"), ("after_return", "SUCCESS", "'retry'"),
    ]  # fmt: skip


def test_signals_tell_the_course_of_a_run(app: FastQ) -> None:
    said: list[tuple[str, Any]] = []

    @app.task(name="t", bind=True)
    def t(self: Any, what: str) -> str:
        if what == "fail":
            raise ValueError(what)
        if what == "retry" and self.request.retries == 0:
            self.retry(countdown=0)
        return what

    named = {name: signal for name, signal in signals.all_signals().items() if name.startswith("task_")}

    def listen(signal: Any, sender: Any, **kwargs: Any) -> None:
        said.append((signal.name, kwargs.get("state") or kwargs.get("task_id") or kwargs.get("result")))

    for signal in named.values():
        signal.connect(listen)
    try:
        with rig({}, app=app) as made:
            for what in ("return", "fail", "retry"):
                made.publish(message("t", what, id=what))
                value(made, what)
                wait_for(made.settled_all)
            made.publish(message("other", id="other"), message("t", "late", id="late", expires_ms=1))
            value(made, "other")
            value(made, "late")
    finally:
        for signal in named.values():
            signal.disconnect(listen)
    assert said == [
        ("task_received", None), ("task_prerun", "return"), ("task_success", "return"), ("task_postrun", "SUCCESS"),
        ("task_received", None), ("task_prerun", "fail"), ("task_failure", "fail"), ("task_postrun", "FAILURE"),
        ("task_received", None), ("task_prerun", "retry"), ("task_retry", None), ("task_postrun", "RETRY"),
        ("task_received", None), ("task_prerun", "retry"), ("task_success", "retry"), ("task_postrun", "SUCCESS"),
        ("task_unknown", None), ("task_revoked", None),
    ]  # fmt: skip


# --- models, meta ---


class Person(BaseModel):
    name: str
    age: int


def test_models_are_validated_before_the_run_and_dumped_behind_it(app: FastQ) -> None:
    @app.task(name="t", pydantic=True)
    def t(person: Person, other: Person | None = None) -> Person:
        assert isinstance(person, Person) and other is None
        return person

    with rig({}, app=app) as made:
        made.publish(message("t", {"name": "Ann", "age": 7}, id="x"), message("t", {"name": "Ann"}, id="y"))
        assert value(made, "x") == {"name": "Ann", "age": 7}
        assert "ValidationError" in type(value(made, "y")).__name__


def test_extended_results_say_what_ran(app: FastQ) -> None:
    app.conf.result_extended = True

    @app.task(name="t")
    def t(x: int, fail: bool = False) -> int:
        if fail:
            raise ValueError(x)
        return x

    with rig({}, app=app) as made:
        made.publish(message("t", 1, id="x"), message("t", (2,), True, id="y"))
        value(made, "x")
        value(made, "y")
        meta = made.result("x")[5]
        assert meta == {
            "children": [], "name": "t", "args": [1], "kwargs": {}, "worker": "node", "retries": 0, "queue": "default",
            "parent_id": None, "group_id": None,
        }  # fmt: skip
        failed = made.result("y")[5]
        assert failed is not None and failed["args"][1] is True


def test_a_result_too_large_fails_a_special_run_like_a_plain_one(app: FastQ) -> None:
    app.conf.result_max_bytes = 100

    @app.task(name="t")
    def t() -> str:
        return "x" * 200

    with rig({}, app=app) as made:
        made.publish(message("t", id="x", options={"flow": {"links": [node("t", id="y")]}}))
        assert "result_max_bytes" in str(value(made, "x"))
        wait_for(made.settled_all)
        assert made.dead() == ["result-too-large"]


# --- going on as something else ---


def test_a_replacement_runs_under_the_same_id_with_all_that_was_to_follow(app: FastQ) -> None:
    seen: list[Any] = []

    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="see", bind=True)
    def see(self: Any, x: int) -> int:
        seen.append((x, self.request.replaced_task_nesting))
        return x

    @app.task(name="replaced", bind=True)
    def replaced(self: Any, kind: str) -> None:
        one = add.s(1, 1) | see.s()
        raise self.replace({"task": see.s(3), "chain": one, "group": group(add.s(i, 1) for i in range(3))}[kind])

    @app.task(name="total")
    def total(values: list[Any]) -> int:
        return sum(v if isinstance(v, int) else sum(v) for v in values)

    with rig({}, app=app) as made:
        made.publish(message("replaced", "task", id="a", options={"flow": {"chain": [node("add", 10, id="b")]}}))
        assert [value(made, id) for id in "ab"] == [3, 13] and seen == [(3, 1)]
        made.publish(message("replaced", "chain", id="c", options={"flow": {"links": [node("see", id="d")]}}))
        assert [value(made, id) for id in "cd"] == [2, 2]
        members = [node("replaced", kind, id=f"m{kind}") for kind in ("task", "chain", "group")]
        open_chord(made, members, node("total", id="body"))
        assert value(made, "body") == 3 + 2 + 6
        wait_for(made.settled_all)


def test_a_member_can_add_others_to_its_chord_if_it_succeeds(app: FastQ) -> None:
    @app.task(name="m", bind=True, default_retry_delay=0)
    def m(self: Any, x: int) -> int:
        if x < 10:
            self.add_to_chord(m.s(x + 10))
            if self.request.retries == 0:
                self.retry()
        return x

    @app.task(name="body")
    def body(values: list[int]) -> list[int]:
        return sorted(values)

    with rig({}, app=app) as made:
        open_chord(made, [node("m", 1, id="m1"), node("m", 2, id="m2")], node("body", id="body"))
        assert value(made, "body") == [1, 2, 11, 12]


def test_what_cannot_replace_a_task_is_its_failure(app: FastQ) -> None:
    @app.task(name="t", bind=True)
    def t(self: Any) -> None:
        raise self.replace(t.s(object()))

    @app.task(name="alone", bind=True)
    def alone(self: Any) -> None:
        self.add_to_chord(t.s())

    with rig({}, app=app) as made:
        made.publish(message("t", id="x"), message("alone", id="y"))
        assert "object" in str(value(made, "x"))
        assert "not a member of any chord" in str(value(made, "y"))


# --- trouble ---


def test_a_body_waits_while_the_store_of_its_join_is_away(app: FastQ, monkeypatch: pytest.MonkeyPatch) -> None:
    @app.task(name="m")
    def m() -> int:
        return 1

    @app.task(name="body", bind=True)
    def body(self: Any, values: list[int]) -> Any:
        return [values, self.request.retries]

    away: list[bool] = []
    with rig({}, app=app) as made:
        assert made.backend is not None
        joined = made.backend.joined

        def lost_once(queue: str, join: str) -> Any:
            if not away:
                away.append(True)
                raise OperationalError("away")
            return joined(queue, join)

        monkeypatch.setattr(made.backend, "joined", lost_once)
        monkeypatch.setattr("fastq.worker.followups.POSTPONED_MS", 1)
        open_chord(made, [node("m", id="m")], node("body", id="body"))
        assert value(made, "body") == [[1], 0] and away


@pytest.mark.parametrize(
    "damaged",
    [
        {"chain": [b"\xc1"]}, {"links": [7]}, {"join": ["j"]}, {"errback": [1]}, {"joined": 5}, {"args": [3]}, {"limits": 3},
        {"chain": 3},
    ],
    ids=str,
)  # fmt: skip
def test_a_damaged_flow_ends_its_task_and_nothing_else(app: FastQ, damaged: dict[str, Any]) -> None:
    @app.task(name="t")
    def t(*args: Any) -> None:
        pass

    @app.task(name="fail")
    def fail(*args: Any) -> None:
        raise ValueError

    with rig({}, app=app) as made:
        for name in ("t", "fail", "other"):
            made.publish(message(name, id=name, options={"flow": damaged}))
        made.publish(message("t", id="plain"))
        assert value(made, "plain") is None
        wait_for(made.settled_all)
        assert len(made.dead()) >= 2
