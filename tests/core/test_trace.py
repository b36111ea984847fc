"""The trace: every run leaves one small record for those who watch, whatever it was given and whatever it returned."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastq import _core
from fastq._core import Delivery, Entry, Registry, Runner, Settlement, Trace, unpackb

from .runs import MSGPACK, Noted, deliver, envelope, new_board, plain

#: of a record
ID, NAME, FINISHED, RUNTIME, WAITED, RETRIES, BODY, RESULT, FURTHER = range(9)


def echo(*args: Any, **kwargs: Any) -> Any:
    return [list(args), kwargs]


class Watched(Noted):
    """A runner with a trace."""

    def __init__(self, fn: Any, *, most: int = 1000, silent: frozenset[int] = frozenset(), **options: Any) -> None:
        super().__init__(fn, **options)
        self.others: list[tuple[Delivery, Settlement, BaseException, int]] = []
        self.trace = Trace(other=lambda *ended: self.others.append(ended), most=most, silent=silent)
        self.runner.trace = self.trace

    def taken(self) -> list[list[Any]]:
        _, runs, _ = self.trace.take()
        return [] if runs is None else unpackb(runs)


@given(st.lists(plain, max_size=4), st.dictionaries(st.text(max_size=10), plain, max_size=4))
def test_a_run_is_told_with_what_it_was_given_and_what_it_returned(args: list[Any], kwargs: dict[str, Any]) -> None:
    watched = Watched(echo)
    d = watched.deliver(*args, **kwargs)
    watched.runner.run(0, d)
    base_ms, runs, left = watched.trace.take()
    assert runs is not None
    (run,) = unpackb(runs)
    assert (run[ID], run[NAME], run[RETRIES], run[WAITED], left) == (d.id, "tasks.add", 0, -1, 0)
    assert base_ms > 1_600_000_000_000
    assert 0 <= run[FINISHED] < 60_000
    assert 0 <= run[RUNTIME] < 60_000_000
    body = _core.encode_call(args, kwargs)
    assert run[BODY] == (body if len(body) <= 1024 else None)
    value = _core.packb([args, kwargs])
    assert run[RESULT] == (value if len(value) <= 1024 else None)
    assert run[FURTHER] is None


def test_what_was_taken_is_told_once() -> None:
    watched = Watched(echo)
    watched.run(1)
    watched.run(2)
    assert len(watched.trace) == 2
    assert [unpackb(run[RESULT])[0] for run in watched.taken()] == [[1], [2]]
    assert (len(watched.trace), watched.taken()) == (0, [])
    watched.run(3)
    assert [unpackb(run[RESULT])[0] for run in watched.taken()] == [[3]]


def test_what_raises_goes_to_python_and_is_settled_all_the_same() -> None:
    error = ValueError("no")

    def fail() -> None:
        raise error

    watched = Watched(fail)
    settlement = watched.run()
    ((d, told, exc, elapsed_ns),) = watched.others
    assert (told, exc, d.name, watched.taken()) == (settlement, error, "tasks.add", [])
    assert elapsed_ns > 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_fault_in_telling_never_costs_a_settlement() -> None:
    def fail() -> None:
        raise ValueError

    watched = Watched(fail)

    def broken(*ended: Any) -> None:
        raise RuntimeError("telling failed")

    watched.runner.trace = Trace(other=broken)
    assert watched.run().verdict == _core.DEAD


def test_no_more_than_most_are_kept_and_the_rest_is_counted() -> None:
    watched = Watched(echo, most=2)
    for i in range(5):
        watched.run(i)
    _, runs, left = watched.trace.take()
    assert runs is not None
    assert ([unpackb(run[RESULT])[0] for run in unpackb(runs)], left) == ([[0], [1]], 3)
    watched.run(5)
    assert len(watched.taken()) == 1


def test_a_mebibyte_is_the_most_that_is_kept() -> None:
    watched = Watched(echo, most=1 << 30)
    for _ in range(2_000):
        watched.run("x" * 900)
    _, runs, left = watched.trace.take()
    assert runs is not None
    assert len(runs) < 1_100_000
    assert len(unpackb(runs)) + left == 2_000


def test_silent_tasks_are_not_told_of() -> None:
    watched = Watched(echo, silent=frozenset({0}))
    watched.run()
    assert (watched.entry.index, watched.taken()) == (0, [])

    def fail() -> None:
        raise ValueError

    watched = Watched(fail, silent=frozenset({0}))
    watched.run()
    assert watched.others == []


@pytest.mark.parametrize("hidden", ["argsrepr", "kwargsrepr"])
def test_arguments_that_the_sender_has_hidden_are_never_told(hidden: str) -> None:
    watched = Watched(echo)
    watched.runner.run(0, deliver(watched.registry, envelope(args=("secret",), options={hidden: "(***)"}))[0])
    ((*_, body, _, further),) = watched.taken()
    assert (body, further) == (None, {hidden: "(***)"})


def test_further_parts_of_a_call_are_told() -> None:
    watched = Watched(echo)
    options = {"root_id": "r", "parent_id": "p", "eta_ms": 5, "headers": {"not": "told"}}
    watched.runner.run(0, deliver(watched.registry, envelope(options=options))[0])
    message = _core.encode("id", "tasks.add", MSGPACK, _core.encode_call((), {}), 1, 2_000_000_000_000, 3, None, None)
    watched.runner.run(0, deliver(watched.registry, message)[0])
    first, second = watched.taken()
    assert first[FURTHER] == {"root_id": "r", "parent_id": "p", "eta_ms": 5}
    assert (second[FURTHER], second[RETRIES]) == ({"expires_ms": 2_000_000_000_000}, 3)


def test_a_json_body_says_that_it_is_json_and_others_are_left_out() -> None:
    watched = Watched(echo)
    for content_type in ("application/json", "application/x-python-serialize"):
        watched.runner.run(0, deliver(watched.registry, envelope(content_type=content_type, body=b"[[1], {}]"))[0])
    assert [run[BODY] for run in watched.taken()] == [[b"[[1], {}]"], None]


@pytest.mark.parametrize(
    ("value", "told"),
    [(None, b"\xc0"), ("x", b"\xa1x"), ([1], b"\x91\x01"), ("x" * 2000, None), (list(range(100)), None), ({1, 2}, None)],
)
def test_a_result_that_is_not_kept_is_told_if_it_is_small_and_plain(value: Any, told: bytes | None) -> None:
    watched = Watched(lambda: value, entry={"ignore_result": True})
    assert watched.run().result is None
    assert [run[RESULT] for run in watched.taken()] == [told]


def test_how_long_it_waited_is_by_this_machines_clock() -> None:
    board = new_board()
    watched = Watched(echo, board=board)
    d = watched.deliver()
    # received by the broker's clock, which is 5 s behind
    now_ms = watched.trace.base_ms
    watched.trace.offset_ms = 5_000
    board.hold([d], 0, now_ms - 5_000 - 250)
    assert watched.trace.waited_ms(board, d.record, now_ms) == (_core.HELD, 250, 0)
    watched.runner.run(0, d)
    ((*_, waited_ms, _, _, _, _),) = watched.taken()
    assert 250 <= waited_ms < 5_000
    board.free([d.record])
    assert watched.trace.waited_ms(board, d.record, now_ms) == (0, -1, 0)


def test_slots_of_many_threads_note_every_run_once() -> None:
    entry = Entry("tasks.add", lambda x: x)
    registry = Registry([entry])
    trace = Trace(other=print, most=1 << 30)
    out: list[Settlement] = []
    runner = Runner(emit=out.append, loads=lambda *a: ((), {}), dumps=lambda *a: ("", b""), on_error=print)  # type: ignore[arg-type]
    runner.trace = trace
    ids = [_core.new_ids(1, 200) for _ in range(4)]

    def slot(n: int) -> None:
        for id in ids[n]:
            runner.run(n, deliver(registry, envelope(id=id, args=(n,)))[0])

    threads = [threading.Thread(target=slot, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    told: list[Any] = []
    while any(thread.is_alive() for thread in threads):
        _, runs, _ = trace.take()
        told += [] if runs is None else unpackb(runs)
    _, runs, left = trace.take()
    told += [] if runs is None else unpackb(runs)
    assert (sorted(run[ID] for run in told), left) == (sorted(id for some in ids for id in some), 0)
