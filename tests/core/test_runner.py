"""The run loop: every delivery that is run ends in exactly one settlement, whatever the task does."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastq import _core
from fastq._core import BatchWindow, Delivery, Entry, Registry, Runner, Settlement
from fastq.exceptions import DecodeError, EncodeError, EnvelopeError, ImproperlyConfigured, NotRegistered, ResultTooLarge
from fastq.serialization import default, ext_hook

from .runs import MSGPACK, Noted, deliver, envelope, new_board, plain


def add(x: int, y: int = 10) -> int:
    return x + y


def echo(*args: Any, **kwargs: Any) -> Any:
    return [list(args), kwargs]


def fails(exc: BaseException) -> Callable[..., Any]:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise exc

    return fail


# --- success


def test_a_run_gives_a_settlement_with_the_result_record() -> None:
    noted = Noted(add)
    noted.runner.now_ms = 1_234
    (d,) = deliver(noted.registry, envelope(args=(1,), kwargs={"y": 2}, inbox="me"))
    assert noted.runner.run(0, d)
    (s,) = noted.out
    assert (s.queue, s.tag, s.id, s.verdict, s.inbox, s.record) == (d.queue, d.tag, d.id, _core.DONE, "me", -1)
    assert s.result == msgpack.packb(["SUCCESS", MSGPACK, b"\x03", None, 1_234, None])
    assert (s.message, s.detail, s.reason, s.level, s.delay_ms) == (None, None, "", 0, 0)


@given(st.lists(plain, max_size=4), st.dictionaries(st.text(max_size=10), plain, max_size=4))
def test_plain_arguments_and_results_pass_through_unchanged(args: list[Any], kwargs: dict[str, Any]) -> None:
    noted = Noted(echo)
    state, content_type, body, traceback, done_ms, meta = noted.result(*args, **kwargs)
    assert (state, content_type, traceback, meta) == ("SUCCESS", MSGPACK, None, None)
    assert _core.unpackb(body) == [args, kwargs]
    assert done_ms > 1_600_000_000_000  # never told the time: the wall clock


@pytest.mark.parametrize("size", [0, 1, 200, 253, 254, 255, 256, 400, 600, 65_530, 65_536, 200_000])
def test_results_of_every_size_are_written(size: int) -> None:
    noted = Noted(lambda: b"x" * size)
    assert _core.unpackb(noted.result()[2]) == b"x" * size


def test_arguments_arrive_as_a_tuple_and_a_dict() -> None:
    seen: list[Any] = []
    noted = Noted(lambda *args, **kwargs: seen.append((args, kwargs)))
    noted.run(*range(20), **{f"k{i}": i for i in range(20)})
    assert seen == [(tuple(range(20)), {f"k{i}": i for i in range(20)})]


def test_many_run_in_order() -> None:
    ran: list[int] = []
    noted = Noted(ran.append)
    batch = deliver(noted.registry, *[envelope(args=(i,)) for i in range(5)])
    assert noted.runner.run_many(0, batch) == 5
    assert ran == list(range(5))
    assert [s.tag for s in noted.out] == [d.tag for d in batch]


@pytest.mark.parametrize(
    "value", [(1, 2), [1, (2,)], {"a": {"b": ()}}, {1, 2}, 2**64, "\ud800", object, {(1, 2): 3}, [[[[(1,)]]]]]
)
def test_what_is_not_plain_goes_through_dumps(value: Any) -> None:
    dumped: list[tuple[Entry, object]] = []

    def dumps(entry: Entry, value: object) -> tuple[str, bytes]:
        dumped.append((entry, value))
        return "text/x", b"dumped"

    noted = Noted(lambda: value, dumps=dumps)
    assert noted.result()[1:3] == ("text/x", b"dumped")
    assert dumped == [(noted.entry, value)]


def test_without_native_everything_goes_through_dumps() -> None:
    assert Noted(lambda: 5, native=False).result()[1:3] == ("text/repr", b"5")


def test_the_hooks_of_the_serializer_keep_tuples_both_ways() -> None:
    noted = Noted(
        lambda x: (x, [x]),
        loads=lambda content_type, body: _core.unpackb(body, ext_hook),
        dumps=lambda entry, value: (MSGPACK, _core.packb(value, default)),
    )
    (d,) = deliver(noted.registry, envelope(body=_core.encode_call(((1, (2,)),), {}, default)))
    noted.runner.run(0, d)
    record = noted.out[0].result
    assert record is not None
    assert _core.unpackb(_core.decode_result(record)[2], ext_hook) == ((1, (2,)), [(1, (2,))])


@pytest.mark.parametrize(("entry", "options"), [({"ignore_result": True}, None), ({}, {"ignore_result": True})])
def test_an_ignored_result_is_not_encoded(entry: dict[str, Any], options: dict[str, Any] | None) -> None:
    noted = Noted(lambda: object(), entry=entry, dumps=fails(AssertionError("asked to write an ignored result")))
    (d,) = deliver(noted.registry, envelope(options=options))
    noted.runner.run(0, d)
    assert (noted.out[0].verdict, noted.out[0].result) == (_core.DONE, None)


def test_without_a_store_nothing_is_encoded() -> None:
    noted = Noted(lambda: object(), stores=False, dumps=fails(AssertionError("asked to write what nobody stores")))
    assert noted.run().result is None


def test_a_call_may_want_a_result_that_its_task_ignores() -> None:
    noted = Noted(lambda: 5, entry={"ignore_result": True})
    (d,) = deliver(noted.registry, envelope(options={"ignore_result": False}))
    noted.runner.run(0, d)
    assert noted.out[0].result is not None


# --- bodies


def test_other_content_types_go_through_loads() -> None:
    asked: list[tuple[str, bytes]] = []

    def loads(content_type: str, body: bytes) -> tuple[list[int], dict[str, int]]:
        asked.append((content_type, body))
        return [1], {"y": 2}

    noted = Noted(add, loads=loads)
    (d,) = deliver(noted.registry, envelope(content_type="application/json", body=b"[[1],{}]"))
    noted.runner.run(0, d)
    assert asked == [("application/json", b"[[1],{}]")]
    assert noted.out[0].verdict == _core.DONE


def test_a_body_with_extension_types_goes_through_loads_as_a_whole() -> None:
    body = msgpack.packb([[msgpack.ExtType(5, b"x"), 1], {"k": 2}])
    asked: list[tuple[str, bytes]] = []

    def loads(content_type: str, body: bytes) -> tuple[tuple[str], dict[str, int]]:
        asked.append((content_type, body))
        return ("a",), {}

    noted = Noted(echo, loads=loads)
    (d,) = deliver(noted.registry, envelope(body=body))
    noted.runner.run(0, d)
    assert asked == [(MSGPACK, body)]
    assert noted.errors == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc0",
        b"\x92\x90",
        b"\x92\x90\x90",
        b"\x92\x80\x80",
        b"\x91\x90\x80",
        b"\x93\x90\x80\xc0",
        b"\x92\x90\x80\xc0",
        b"\x92\x90\x81\x01\x01",
        b"\x92\xdd\xff\xff\xff\xff\x80",
        b"\x92\x91\xa1\xff\x80",
        msgpack.packb([[], {b"k": 1}]),
    ],
)
def test_a_bad_body_is_an_error_of_that_delivery(body: bytes) -> None:
    noted = Noted(echo)
    (d,) = deliver(noted.registry, envelope(body=body))
    assert noted.runner.run(0, d)
    assert isinstance(noted.error, DecodeError)
    assert noted.runner.begin(0, d) is None
    assert len(noted.out) == len(noted.errors) == 2


@given(st.binary(max_size=60))
def test_arbitrary_bodies_end_in_one_settlement(body: bytes) -> None:
    for raw in (body, b"\x92" + body, b"\x92\x91" + body + b"\x80"):
        noted = Noted(echo)
        noted.runner.run(0, deliver(noted.registry, envelope(body=raw))[0])
        assert len(noted.out) == 1


@pytest.mark.parametrize("loaded", [None, 5, (), ([],), (5, {}), ([], 5), ([], {5: 1}), ([], {}, 1)])
def test_what_loads_gives_must_be_a_call(loaded: Any) -> None:
    noted = Noted(echo, loads=lambda content_type, body: loaded)
    noted.runner.run(0, deliver(noted.registry, envelope(content_type="x/y"))[0])
    assert isinstance(noted.error, DecodeError)


def test_deliveries_that_the_gate_should_have_stopped_end_in_on_error() -> None:
    noted = Noted(echo)
    unknown, broken = deliver(noted.registry, envelope("tasks.other"), b"rubbish")
    assert noted.runner.run_many(0, [unknown, broken]) == 2
    assert isinstance(noted.errors[0][1], NotRegistered)
    assert isinstance(noted.errors[1][1], EnvelopeError)
    assert [s.tag for s in noted.out] == ["0:1:0", "0:1:1"]


# --- failures


class Exit(BaseException):
    """Stands for GreenletExit and its like."""


EXITS = [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError(), GeneratorExit(), Exit()]


@pytest.mark.parametrize("exc", [ValueError("v"), *EXITS])
@pytest.mark.parametrize("where", ["fn", "loads", "dumps", "prepare", "conclude"])
def test_whatever_is_raised_goes_to_on_error_and_nothing_leaves_the_runner(exc: BaseException, where: str) -> None:
    fail = fails(exc)
    options: dict[str, Any] = {} if where == "fn" else {where: fail, "special": where in ("prepare", "conclude")}
    noted = Noted(fail if where == "fn" else object, native=False, **options)
    (d,) = deliver(noted.registry, envelope(content_type="application/json"))
    assert noted.runner.run(0, d)
    assert noted.errors[0][0] is d
    assert noted.error is exc
    assert noted.errors[0][2] >= 0
    assert [s.verdict for s in noted.out] == [_core.DEAD]
    assert noted.runner.run_many(0, [d, d]) == 2
    assert len(noted.out) == len(noted.errors) == 3


def test_a_tasks_traceback_begins_in_the_task() -> None:
    def task() -> None:
        raise ValueError

    noted = Noted(task)
    noted.run()
    traceback = noted.error.__traceback__
    assert traceback is not None
    assert traceback.tb_frame.f_code.co_name == "task"


def test_wrong_arguments_are_the_tasks_error() -> None:
    noted = Noted(add)
    noted.run(1, 2, 3)
    assert isinstance(noted.error, TypeError)


def test_a_result_over_the_limit_says_size_limit_and_setting() -> None:
    noted = Noted(lambda n: b"x" * n, result_max_bytes=100)
    assert noted.run(98).verdict == _core.DONE
    noted.run(99)
    assert isinstance(noted.error, ResultTooLarge)
    for word in ("101", "100", "result_max_bytes", "tasks.add"):
        assert word in str(noted.error)
    dumped = Noted(lambda: (1,), dumps=lambda entry, value: ("t", b"x" * 101), result_max_bytes=100)
    dumped.run()
    assert isinstance(dumped.error, ResultTooLarge)


@pytest.mark.parametrize("answer", [None, 5, ("t", "text"), ("t",), (b"t", b"b")])
def test_what_dumps_gives_must_be_type_and_bytes(answer: Any) -> None:
    noted = Noted(lambda: (1,), dumps=lambda entry, value: answer)
    noted.run()
    assert isinstance(noted.error, TypeError | ValueError)


def test_a_failing_on_error_makes_a_dead_letter_and_tells_who_waits() -> None:
    def on_error(d: Delivery, exc: BaseException, runtime_ns: int) -> Settlement:
        raise RuntimeError("broken \ud800 handler")

    noted = Noted(fails(ValueError("first")), on_error=on_error)
    (d,) = deliver(noted.registry, envelope(inbox="me"))
    noted.runner.run(0, d)
    (s,) = noted.out
    assert (s.verdict, s.reason, s.inbox, s.tag, s.id) == (_core.DEAD, "internal-error", "me", d.tag, d.id)
    assert s.detail is not None
    detail = _core.unpackb(s.detail)
    assert detail["name"] == "tasks.add"
    assert "RuntimeError: broken \\ud800 handler" in detail["error"]
    assert "ValueError: first" in detail["error"]
    assert "on_error" in detail["traceback"]
    assert s.result is not None
    state, content_type, body, traceback, _done_ms, meta = _core.decode_result(s.result)
    assert (state, content_type, meta) == ("FAILURE", MSGPACK, None)
    assert _core.unpackb(body)["module"] == "fastq.exceptions"
    assert traceback == detail["traceback"]


@pytest.mark.parametrize("exc", [SystemExit(1), Exit()])
def test_exits_from_on_error_are_no_exception(exc: BaseException) -> None:
    noted = Noted(fails(ValueError()), on_error=fails(exc))
    assert noted.run().reason == "internal-error"


def test_an_on_error_that_gives_no_settlement_makes_a_dead_letter() -> None:
    s = Noted(fails(ValueError()), on_error=lambda d, exc, ns: None).run()
    assert (s.verdict, s.reason) == (_core.DEAD, "internal-error")
    ignored = Noted(fails(ValueError()), on_error=lambda d, exc, ns: None, entry={"ignore_result": True}).run()
    assert ignored.result is None


def test_exceptions_whose_text_fails_are_reported_too() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise ValueError("no text")

    s = Noted(fails(Mute()), on_error=fails(Mute())).run()
    assert s.reason == "internal-error"
    assert s.detail is not None
    assert "Mute" in _core.unpackb(s.detail)["error"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_failing_listener_does_not_fail_the_task() -> None:
    noted = Noted(add, on_success=fails(ValueError("listener")))
    assert noted.run(1).verdict == _core.DONE
    assert noted.errors == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_failing_emit_does_not_end_the_slot() -> None:
    noted = Noted(add, emit=fails(ValueError("emit")))
    assert noted.runner.run_many(0, [noted.deliver(1), noted.deliver(2)]) == 2


# --- hooks, context, board, window


def test_a_listener_sees_the_delivery_and_the_value() -> None:
    seen: list[Any] = []
    noted = Noted(add, on_success=lambda d, value, ns: seen.append((d.id, value, ns > 0)))
    d = noted.deliver(1)
    noted.runner.run(0, d)
    assert seen == [(d.id, 11, True)]


def settled(d: Delivery, value: object, runtime_ns: int) -> Settlement:
    assert runtime_ns >= 0
    return Settlement(d.queue, d.tag, d.id, _core.DONE, result=repr(value).encode())


@pytest.mark.parametrize("why", ["runner", "entry", "flow"])
@pytest.mark.parametrize("halves", [False, True])
def test_a_special_run_is_prepared_and_concluded_in_python(why: str, halves: bool) -> None:
    seen: list[Any] = []
    noted = Noted(
        lambda *args, **kwargs: (args, kwargs),
        entry={"special": why == "entry"},
        special=why == "runner",
        prepare=lambda d, args, kwargs: seen.append((d.id, args, kwargs)) or ((*args, 2), {**kwargs, "b": 3}),
        conclude=settled,
        on_success=fails(AssertionError("conclude comes instead")),
    )
    (d,) = deliver(noted.registry, envelope(args=(1,), kwargs={"a": 1}, options={"flow": {}} if why == "flow" else None))
    if halves:
        call = noted.runner.begin(0, d)
        assert call is not None
        noted.runner.finish(0, call, (call.args, call.kwargs), None)
    else:
        noted.runner.run(0, d)
    assert seen == [(d.id, (1,), {"a": 1})]
    assert noted.out[-1].result == b"((1, 2), {'a': 1, 'b': 3})"
    assert noted.errors == []


def test_prepare_may_leave_the_arguments_as_they_are() -> None:
    noted = Noted(add, special=True, prepare=lambda d, args, kwargs: None)
    assert noted.result(1)[0] == "SUCCESS"


def test_an_ordinary_run_asks_neither_hook() -> None:
    fail = fails(AssertionError("not asked"))
    noted = Noted(add, prepare=fail, conclude=fail)
    assert noted.result(1)[0] == "SUCCESS"
    assert noted.errors == []


def test_a_task_that_has_sent_others_is_concluded_in_python() -> None:
    def task() -> None:
        d = noted.current.get()
        assert d is not None
        assert d.children is None
        d.children = ["child"]

    noted = Noted(task, prepare=fails(AssertionError("not asked")), conclude=settled)
    assert noted.run().result == b"None"


def test_a_flow_that_is_no_map_makes_the_message_undecodable() -> None:
    (d,) = deliver(Noted(add).registry, envelope(options={"flow": 1}))
    assert "flow" in d.error
    assert d.id


def test_the_current_delivery_is_set_while_it_runs_and_only_then() -> None:
    seen: list[Delivery | None] = []
    noted = Noted(lambda: seen.append(noted.current.get()))
    batch = [noted.deliver(), noted.deliver()]
    noted.runner.run_many(0, batch)
    assert seen[0] is batch[0]
    assert seen[1] is batch[1]
    assert noted.current.get() is None
    outer = noted.deliver()
    token = noted.current.set(outer)
    noted.runner.run(0, batch[0])
    assert noted.current.get() is outer
    noted.current.reset(token)


def test_a_task_may_change_the_context_variable_itself() -> None:
    noted = Noted(lambda: noted.current.set(None) and None)
    noted.run()
    assert noted.current.get() is None


def test_only_a_context_variable_will_do() -> None:
    with pytest.raises(TypeError, match="ContextVar"):
        Noted(add, current=5)


def test_runs_are_shown_on_the_board() -> None:
    board = new_board(slots=2)
    shown: list[Any] = []

    def show(fail: bool) -> None:
        shown.append((board.active(), board.held()))
        if fail:
            raise ValueError

    noted = Noted(show, board=board)
    batch = [noted.deliver(False), noted.deliver(True)]
    board.hold(batch, 0, 5)
    assert noted.runner.run_many(1, batch) == 2
    ((slot, task_id, name, started_ms),), records = shown[0]
    assert (slot, task_id, name) == (1, batch[0].id, "tasks.add")
    assert started_ms > 1_600_000_000_000
    assert [r[3] for r in records] == [_core.STARTED, _core.HELD]
    assert [r[3] for r in board.held()] == [_core.FINISHED, _core.FINISHED]
    assert board.active() == []
    assert (board.counter("started"), board.counter("done"), board.counter("failed"), board.counter("held")) == (2, 1, 1, 0)
    assert [s.record for s in noted.out] == [d.record for d in batch]


def test_a_lost_claim_is_skipped() -> None:
    board = new_board()
    noted = Noted(add, board=board)
    batch = [noted.deliver(i) for i in range(3)]
    board.hold(batch, 0, 0)
    assert board.give_back(batch[1].record)
    assert noted.runner.run_many(0, batch) == 2
    assert len(noted.out) == 2
    assert not noted.runner.run(0, batch[1])
    assert noted.runner.begin(0, batch[1]) is None
    assert len(noted.out) == 2
    assert noted.current.get() is None


def test_a_slot_that_the_board_does_not_have_runs_all_the_same() -> None:
    noted = Noted(add, board=new_board(slots=1))
    assert noted.runner.run(7, noted.deliver(1))


def test_run_times_are_noted_by_entry() -> None:
    window = BatchWindow()
    noted = Noted(add, window=window)
    noted.run(1)
    assert window.mean_ns(noted.entry.index) > 0
    failing = Noted(fails(ValueError()), window=window)
    failing.run()
    assert window.mean_ns(failing.entry.index) > 0


# --- coroutine functions


async def add_later(x: int, y: int = 10) -> int:
    await asyncio.sleep(0)
    return x + y


def test_coroutine_functions_are_run_by_call_async() -> None:
    asked: list[Any] = []

    def call_async(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        asked.append((fn, args, kwargs))
        return asyncio.run(fn(*args, **kwargs))

    noted = Noted(add_later, entry={"is_async": True}, call_async=call_async)
    assert _core.unpackb(noted.result(1, y=2)[2]) == 3
    assert _core.unpackb(noted.result(1)[2]) == 11
    assert asked == [(add_later, (1,), {"y": 2}), (add_later, (1,), {})]


def test_a_coroutine_function_without_call_async_is_an_error() -> None:
    noted = Noted(add_later, entry={"is_async": True})
    noted.run(1)
    assert isinstance(noted.error, ImproperlyConfigured)


def test_begin_and_finish_are_the_halves_of_a_run() -> None:
    board = new_board()
    noted = Noted(add_later, entry={"is_async": True}, board=board, window=BatchWindow())

    async def main() -> None:
        d = noted.deliver(1, y=2)
        board.hold([d], 0, 0)
        call = noted.runner.begin(0, d)
        assert call is not None
        assert (call.delivery, call.args, call.kwargs) == (d, (1,), {"y": 2})
        assert noted.current.get() is d
        assert len(board.active()) == 1
        value = await d.entry.fn(*call.args, **call.kwargs)  # type: ignore[union-attr]
        noted.runner.finish(0, call, value, None)
        assert noted.current.get() is None
        assert board.active() == []
        with pytest.raises(ValueError, match="finished before"):
            noted.runner.finish(0, call, value, None)
        failing = noted.runner.begin(1, noted.deliver(1))
        assert failing is not None
        noted.runner.finish(1, failing, None, asyncio.CancelledError())

    asyncio.run(main())
    record = noted.out[0].result
    assert record is not None
    assert _core.unpackb(_core.decode_result(record)[2]) == 3
    assert isinstance(noted.error, asyncio.CancelledError)
    assert len(noted.out) == 2
    assert [r[3] for r in board.held()] == [_core.FINISHED]


def test_a_run_may_finish_in_another_context_than_it_began_in() -> None:
    noted = Noted(add)
    call = noted.runner.begin(0, noted.deliver(1))
    assert call is not None
    contextvars.Context().run(noted.runner.finish, 0, call, 5, None)
    assert len(noted.out) == 1
    noted.current.set(None)


def test_begin_reports_what_it_cannot_load_or_start() -> None:
    noted = Noted(add, prepare=fails(SystemExit(1)), special=True)
    assert noted.runner.begin(0, noted.deliver(1)) is None
    assert isinstance(noted.error, SystemExit)
    assert len(noted.out) == 1
    assert noted.current.get() is None


def test_every_keyword_of_the_interface_is_taken() -> None:
    """stubtest cannot see the signature of a compiled ``__new__``."""
    current: ContextVar[Delivery | None] = ContextVar("current")
    runner = Runner(
        emit=print,
        loads=lambda content_type, body: ((), {}),
        dumps=lambda entry, value: ("", b""),
        on_error=lambda d, exc, ns: Settlement(d.queue, d.tag, d.id, _core.DEAD),
        prepare=None,
        conclude=None,
        special=False,
        on_success=None,
        current=current,
        board=new_board(),
        window=BatchWindow(target_ms=5.0, limit=10),
        native=True,
        stores=True,
        result_max_bytes=0,
        call_async=None,
    )
    runner.now_ms = 5
    assert runner.now_ms == 5
    assert len(Registry(entries=[Entry(name="a", fn=print, task=None, is_async=False)])) == 1


def test_only_encode_errors_of_dumps_reach_on_error_as_such() -> None:
    noted = Noted(lambda: object(), dumps=lambda entry, value: (MSGPACK, _core.packb(value)))
    noted.run()
    assert isinstance(noted.error, EncodeError)
