"""Settling in batches: a call is repeated as it was, results go to a foreign store first, what is lost is counted once."""

from __future__ import annotations

from typing import Any

import pytest

from fastq import _core
from fastq.exceptions import Fenced, OperationalError
from fastq.records import DONE, Fetch, Fetched, Settled, Settlement, StoredResult
from fastq.worker.settler import MAX_BATCH, MAX_BATCH_BYTES, MAX_UNSETTLED, MAX_UNSETTLED_BYTES, Settler
from tests.unit.worker_rig import message, rig, wait_for


class Notes:
    """A broker and a backend in one list of calls; each call does what ``trouble`` says next."""

    url = "notes://"

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.trouble: list[Exception | None] = []
        self.skipped: tuple[str, ...] = ()

    def _next(self) -> None:
        if self.trouble and (error := self.trouble.pop(0)) is not None:
            raise error

    def settle(self, process: str, settlements: Any, *, results: bool, fetch: Fetch | None = None) -> Settled:
        self.calls.append(("settle", (process, [s.tag for s in settlements], results, fetch)))
        self._next()
        return Settled(self.skipped, Fetched((), 5) if fetch else None)

    def fetch(self, fetch: Fetch) -> Fetched:
        self.calls.append(("fetch", fetch))
        self._next()
        return Fetched((), 5)

    def store(self, results: list[StoredResult], *, final: bool = True) -> None:
        self.calls.append(("store", [r.id for r in results]))
        self._next()

    def shares(self, broker: object) -> bool:
        return False


def outcome(n: int, result: bytes | None = b"r") -> Settlement:
    return Settlement("q", f"0:1:{n}", f"id{n}", DONE, result=result)


def fetch(number: int = 1) -> Fetch:
    return Fetch("p", number, ("q",), 10)


def settler(notes: Notes, backend: Any = None) -> Settler:
    return Settler(notes, backend)  # type: ignore[arg-type]


def test_outcomes_are_taken_oldest_first_in_bounded_batches() -> None:
    made = settler(Notes())
    for n in range(MAX_BATCH + 5):
        made.emit(outcome(n))
    batch = made.take()
    assert len(batch) == MAX_BATCH and batch[0].id == "id0" and made.waiting == 5
    made.put_back(batch[3:])
    assert made.take()[0].id == "id3"


def test_a_call_without_an_answer_is_repeated_as_it_was() -> None:
    notes = Notes()
    made = settler(notes)
    notes.trouble = [OperationalError("lost")] * 2
    with pytest.raises(OperationalError):
        made.turn("p", [outcome(1)], fetch(4))
    assert len(made) == 1
    made.emit(outcome(2))
    with pytest.raises(OperationalError):
        made.repeat()
    turn = made.repeat()
    assert len(notes.calls) == 3 and notes.calls[0] == notes.calls[1] == notes.calls[2]
    assert turn.fetched is not None and [s.id for s in turn.settled] == ["id1"] and not turn.fenced
    assert not made.unanswered
    assert len(made) == 1


def test_results_are_stored_in_a_foreign_store_first_and_only_once() -> None:
    notes = Notes()
    made = settler(notes, notes)
    notes.trouble = [OperationalError("no store"), None, OperationalError("no broker")]
    with pytest.raises(OperationalError):
        made.turn("p", [outcome(1), outcome(2, None)], None)
    assert [name for name, _ in notes.calls] == ["store"]
    with pytest.raises(OperationalError):
        made.repeat()
    made.repeat()
    assert [name for name, _ in notes.calls] == ["store", "store", "settle", "settle"]
    assert notes.calls[0][1] == ["id1"] and notes.calls[-1][1][2] is False


def test_a_fenced_fetch_has_settled_what_came_with_it() -> None:
    notes = Notes()
    made = settler(notes)
    fenced = Fenced("away")
    fenced.skipped = ("1",)
    notes.trouble = [fenced]
    turn = made.turn("p", [outcome(1)], fetch())
    assert turn.fenced and [s.id for s in turn.settled] == ["id1"] and not made.unanswered
    assert made.fenced == 1, "what changed nothing is counted"


def test_what_changed_nothing_is_counted_unless_it_may_be_a_repeat(caplog: pytest.LogCaptureFixture) -> None:
    notes = Notes()
    made = settler(notes)
    notes.skipped = ("0:1:1",)
    made.turn("p", [outcome(1)], None)
    assert made.fenced == 1 and "1 outcome(s) of p changed nothing" in caplog.text
    notes.trouble = [OperationalError("lost")]
    with pytest.raises(OperationalError):
        made.turn("p", [outcome(1)], None)
    made.repeat()
    assert made.fenced == 1


def test_outcomes_are_bounded_and_what_is_left_is_told(caplog: pytest.LogCaptureFixture) -> None:
    made = settler(Notes())
    made.close()
    assert caplog.text == ""
    for n in range(MAX_UNSETTLED):
        assert not made.full
        made.emit(outcome(n))
    assert made.full
    made.close()
    assert f"{MAX_UNSETTLED} outcome(s) could not be settled" in caplog.text


@pytest.mark.parametrize("how", ["request", "reply"])
def test_results_of_another_store_are_there_when_the_task_is_settled(how: str) -> None:
    def fails(number: int, name: str) -> str:
        return how if name == "settle" and number % 3 == 1 else ""

    with rig({"t": lambda n: n * 2}, url="memory://settler-a", backend_url="memory://settler-b", fails=fails) as made:
        made.publish(*[message("t", n, id=f"x{n}") for n in range(20)])
        wait_for(made.settled_all)
        assert made.backend is not None
        records = made.backend.get([f"x{n}" for n in range(20)])
        assert [_core.unpackb(_core.decode_result(r)[2]) for r in records if r is not None] == [n * 2 for n in range(20)]
        assert made.trouble.store.results == {}


def test_without_a_backend_nothing_is_stored() -> None:
    with rig({"t": lambda: 1}, backend_url=None) as made:
        made.publish(message("t", id="x"))
        wait_for(made.settled_all)
        assert made.trouble.store.results == {}


def test_a_call_takes_bounded_bytes_of_results() -> None:
    """One call is packed at once, so a hundred large results are several calls."""
    settling = settler(Notes())
    large = b"x" * (MAX_BATCH_BYTES // 8)
    for n in range(100):
        settling.emit(outcome(n, large))
    taken = []
    while settling.waiting:
        taken.append(settling.take())
    assert [s.tag for batch in taken for s in batch] == [f"0:1:{n}" for n in range(100)]
    assert [len(batch) for batch in taken] == [8] * 12 + [4]


def test_large_results_fill_it_long_before_their_number_does() -> None:
    settling = settler(Notes())
    large = b"x" * (1024 * 1024)
    n = 0
    while not settling.full:
        settling.emit(outcome(n, large))
        n += 1
        assert n < 100
    assert n == MAX_UNSETTLED_BYTES // len(large)


def test_an_unanswered_call_counts_towards_the_bytes() -> None:
    notes = Notes()
    notes.trouble = [OperationalError("away")]
    settling = settler(notes)
    for n in range(64):
        settling.emit(outcome(n, b"x" * (1024 * 1024)))
    assert settling.full
    with pytest.raises(OperationalError):
        settling.turn("p", settling.take(), None)
    assert settling.full
    settling.repeat()
    assert not settling.full
