"""What runs add up to: by task and by queue, exactly, in memory that outlives the process that counts."""

from __future__ import annotations

import itertools
import sys
import threading
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastq import _core
from fastq._core import (
    DEAD,
    DONE,
    OUTCOMES,
    RETRY,
    RETURN,
    RUNTIME_BOUNDS_S,
    WAIT_BOUNDS_S,
    Delivery,
    Entry,
    Registry,
    Runner,
    Settlement,
    Tally,
)

from .runs import Noted, deliver, envelope, new_board, new_tally

#: of ``envelope``
SENT_MS = 1_700_000_000_000


def outcomes(tally: Tally, name: str = "tasks.add") -> dict[str, int]:
    for row, ends, *_ in tally.task_totals():
        if row == name:
            return {outcome: n for outcome, n in zip(OUTCOMES, ends, strict=True) if n}
    return {}


def run_after(wait_ms: int, *messages: bytes, queue: str = "default") -> Tally:
    """Run messages that were fetched when the broker's clock was so much later than they were sent."""
    tally = new_tally()
    board = new_board(tally=tally)
    noted = Noted(lambda: None, board=board)
    batch = deliver(noted.registry, *messages, queue=queue)
    board.hold(batch, 0, SENT_MS + wait_ms)
    assert noted.runner.run_many(0, batch) == len(batch)
    return tally


def test_runs_are_counted_by_their_end_and_by_how_long_they_took() -> None:
    tally = new_tally()

    def work(seconds: float) -> None:
        time.sleep(seconds)
        if seconds > 0.01:
            raise ValueError(seconds)

    noted = Noted(work, board=new_board(tally=tally))
    slept = (0, 0, 0.004, 0.02)
    took = []
    for seconds in slept:
        began = time.perf_counter()
        noted.run(seconds)
        took.append(time.perf_counter() - began)
    assert outcomes(tally) == {"succeeded": 3, "failed": 1}
    ((name, _, wait_ms, runtime_ns, runtimes),) = tally.task_totals()
    assert (name, wait_ms, sum(runtimes), len(runtimes)) == ("tasks.add", 0, 4, len(RUNTIME_BOUNDS_S) + 1)
    assert runtime_ns >= 24_000_000
    for bound_s, counted in zip(RUNTIME_BOUNDS_S, itertools.accumulate(runtimes), strict=False):
        assert sum(s <= bound_s for s in took) <= counted <= sum(s <= bound_s for s in slept)


@pytest.mark.parametrize(
    "verdict, reason, outcome",
    [
        (DEAD, "failed", "failed"),
        (DEAD, "internal-error", "failed"),
        (DEAD, "rejected", "rejected"),
        (DONE, "", "failed"),
        (DONE, "terminated", "revoked"),
        (DONE, "expired", "expired"),
        (DONE, "ignored", "ignored"),
        (DONE, "replaced", "ignored"),
        (DONE, "retried", "retried"),
        (RETRY, "", "retried"),
        (RETRY, "requeued", "returned"),
        (RETRY, "postponed", "returned"),
    ],
)
def test_a_run_that_raised_is_counted_by_its_settlement(verdict: int, reason: str, outcome: str) -> None:
    tally = new_tally()

    def on_error(d: Delivery, exc: BaseException, runtime_ns: int) -> Settlement:
        return Settlement(d.queue, d.tag, d.id, verdict, reason=reason, message=b"")

    Noted(lambda: 1 / 0, board=new_board(tally=tally), on_error=on_error).run()
    assert outcomes(tally) == {outcome: 1}


def test_what_does_not_run_is_counted_without_a_run_time() -> None:
    tally = new_tally()
    registry = Registry([Entry("tasks.add", print)])
    known, unknown = deliver(registry, envelope(), envelope("tasks.nobody_knows"))
    tally.refused(known, Settlement("q", "t", "i", DONE, reason="revoked"))
    tally.refused(known, Settlement("q", "t", "i", DONE))  # it has ended before
    tally.refused(unknown, Settlement("q", "t", "i", DEAD, reason="unregistered"))
    assert outcomes(tally) == {"revoked": 1}
    assert outcomes(tally, "(unregistered)") == {"failed": 1}
    assert all(not sum(runtimes) for *_, runtimes in tally.task_totals())


def test_a_wait_is_measured_on_the_brokers_clock() -> None:
    ((queue, started, wait_ms, waits),) = run_after(20_000, envelope(), envelope(), queue="mail").queue_totals()
    assert (queue, started, sum(waits)) == ("mail", 2, 2)
    assert 40_000 <= wait_ms < 41_000
    assert waits[WAIT_BOUNDS_S.index(30.0)] == 2


def test_a_delayed_task_waits_from_when_it_is_due() -> None:
    tally = run_after(20_000, envelope(options={"eta_ms": SENT_MS + 19_500}))
    ((_, _, wait_ms, _),) = tally.queue_totals()
    assert 500 <= wait_ms < 1_500
    assert tally.task_totals()[0][2] == wait_ms


def test_a_clock_behind_the_senders_is_no_negative_wait() -> None:
    ((_, started, wait_ms, waits),) = run_after(-5_000, envelope()).queue_totals()
    assert (started, wait_ms, waits[0]) == (1, 0, 1)


@pytest.mark.parametrize(
    "message",
    [
        _core.remark(envelope(), 1),
        envelope(options={"requeued": True}),
        envelope(options={"eta_ms": "soon"}),
    ],
    ids=["delivered before", "requeued", "eta of another type"],
)
def test_a_wait_that_the_message_does_not_tell_is_left_out(message: bytes) -> None:
    ((_, started, wait_ms, waits),) = run_after(20_000, message).queue_totals()
    assert (started, wait_ms, sum(waits)) == (1, 0, 0)


def test_an_answer_that_was_read_late_shortens_no_wait() -> None:
    tally = new_tally()
    board = new_board(tally=tally)
    noted = Noted(lambda: None, board=board)
    now_ms = int(time.time() * 1000)
    message = _core.encode("i", "tasks.add", "application/x-msgpack", _core.encode_call((), {}), now_ms, None, 0, None, None)
    for read_after_ms in (0, 8_000):
        (d,) = deliver(noted.registry, message)
        board.hold([d], 0, now_ms + 3_000 - read_after_ms)
        noted.runner.run(0, d)
    ((_, started, wait_ms, _),) = tally.queue_totals()
    assert started == 2
    assert wait_ms >= 2 * 3_000 - 8_000 // 32


def test_the_successor_of_a_process_goes_on_counting() -> None:
    region = memoryview(bytearray(Tally.size(8, 4)))
    for _ in range(3):
        board = new_board(tally=Tally(region, 8, 4))
        board.clear()
        noted = Noted(lambda: None, board=board)
        (d,) = deliver(noted.registry, envelope())
        board.hold([d], 0, SENT_MS)
        noted.runner.run(0, d)
    reader = Tally(region, 8, 4)
    assert outcomes(reader) == {"succeeded": 3}
    assert [(name, started) for name, started, *_ in reader.queue_totals()] == [("default", 3)]


def test_tasks_without_a_row_of_their_own_share_the_last() -> None:
    tally = new_tally(tasks=3, queues=2)
    for n in range(5):
        tally.add(f"t{n}", "succeeded", n + 1)
    assert outcomes(tally, "t0") == {"succeeded": 1}
    assert outcomes(tally, "t1") == {"succeeded": 2}
    assert outcomes(tally, "(other)") == {"succeeded": 12}
    tally.add("t1", "failed")
    assert outcomes(tally, "t1") == {"succeeded": 2, "failed": 1}


def test_an_index_that_is_used_again_is_another_task() -> None:
    tally = new_tally()
    board = new_board(tally=tally)
    for name in ("one", "two", "one"):
        registry = Registry([Entry(name, lambda: None)])  # each has the index 0
        (d,) = deliver(registry, envelope(name))
        tally.refused(d, Settlement("q", "t", "i", DONE, reason="revoked"))
    assert (outcomes(tally, "one"), outcomes(tally, "two")) == ({"revoked": 2}, {"revoked": 1})
    assert board.tally is tally


def test_long_names_are_cut_between_characters() -> None:
    tally = new_tally()
    tally.add("ü" * 100, "succeeded")
    tally.add("\ud800", "failed")  # no name at all
    assert [row[0] for row in tally.task_totals()] == ["ü" * 52, "(other)"]


def test_a_row_that_a_killed_process_has_half_taken_is_passed_by() -> None:
    region = bytearray(Tally.size(3, 1))
    region[64] = 1
    tally = Tally(memoryview(region), 3, 1)
    tally.add("one", "succeeded")
    tally.add("one", "succeeded")
    assert outcomes(tally, "one") == {"succeeded": 2}
    assert len(tally.task_totals()) == 1


def test_counters_of_the_process_add_up() -> None:
    tally = new_tally()
    tally.count("given_back", 3)
    tally.count("given_back")
    assert (tally.counter("given_back"), tally.counter("fenced")) == (4, 0)
    with pytest.raises(ValueError, match="no counter 'lost': there are given_back, fenced"):
        tally.count("lost")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no outcome 'lost': there are succeeded, failed"):
        tally.add("one", "lost")


def test_threads_of_one_process_lose_no_count() -> None:
    tally = new_tally()
    board = new_board(8, 4_000, tally)
    noted = Noted(lambda: None, board=board, current=None)
    batches = [deliver(noted.registry, *[envelope()] * 400) for _ in range(8)]
    for batch in batches:
        board.hold(batch, 0, SENT_MS)
    before, barrier = sys.getswitchinterval(), threading.Barrier(8)

    def work(slot: int) -> None:
        barrier.wait()
        noted.runner.run_many(slot, batches[slot])

    threads = [threading.Thread(target=work, args=(slot,)) for slot in range(8)]
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    ((_, ends, _, _, runtimes),) = tally.task_totals()
    ((_, started, _, waits),) = tally.queue_totals()
    assert (ends[0], sum(runtimes), started, sum(waits)) == (3_200,) * 4


def test_sizes_are_checked() -> None:
    size = Tally.size(2, 2)
    assert size % 64 == 0
    with pytest.raises(ValueError, match="2 tasks and 2 queues need"):
        Tally(memoryview(bytearray(size - 1)), 2, 2)
    with pytest.raises(ValueError, match="multiple of 8"):
        Tally(memoryview(bytearray(size + 8))[1:], 2, 2)
    with pytest.raises(BufferError):
        Tally(memoryview(bytes(size)), 2, 2)
    for tasks, queues in ((0, 1), (1, 0), (1 << 17, 1)):
        with pytest.raises(ValueError, match="1 to 65536"):
            Tally.size(tasks, queues)


def test_a_run_needs_no_tally() -> None:
    noted = Noted(lambda: 1, board=new_board())
    assert noted.run().verdict == DONE
    assert new_board().tally is None
    assert isinstance(noted.runner, Runner)


@given(st.binary(max_size=Tally.size(2, 2)), st.lists(st.sampled_from(["a", "ü" * 60, "(other)"]), max_size=4))
def test_no_bytes_in_the_region_do_harm(found: bytes, names: list[str]) -> None:
    region = bytearray(Tally.size(2, 2))
    region[: len(found)] = found
    tally = Tally(memoryview(region), 2, 2)
    for name in names:
        tally.add(name, "succeeded", 2**62)
    board = new_board(tally=tally)
    noted: Any = Noted(lambda: None, board=board)
    batch = deliver(noted.registry, envelope(), envelope(options={"eta_ms": -(2**62)}))
    board.hold(batch, 0, 2**62)
    noted.runner.run_many(0, batch)
    for d in batch:
        tally.refused(d, Settlement("q", "t", "i", RETURN))
    tally.task_totals()
    tally.queue_totals()
