"""Results: kept, replaced, forgotten, expired, and told to whoever waits."""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from fastq import _core
from fastq.exceptions import OperationalError
from fastq.records import StoredResult
from fastq.transports import Inbox, TransportOptions, open_broker
from tests.contract.conftest import DEADLINE_S, Transport, Worker, record, until

Publish = Callable[..., None]


def read(inbox: Inbox, n: int) -> list[tuple[str, bytes | None]]:
    """Read until n results have come."""
    got: list[tuple[str, bytes | None]] = []
    deadline = time.monotonic() + DEADLINE_S
    while len(got) < n and time.monotonic() < deadline:
        got += inbox.read(deadline - time.monotonic())
    return got


def test_what_is_stored_is_read(transport: Transport) -> None:
    backend = transport.backend()
    backend.store([StoredResult("a", record(size=1)), StoredResult("b", record(size=2))])
    assert transport.backend().get(["b", "missing", "a", "b"]) == [record(size=2), None, record(size=1), record(size=2)]
    assert backend.get([]) == []


def test_storing_nothing_is_harmless(transport: Transport) -> None:
    backend = transport.backend()
    backend.store([])
    backend.forget([])


def test_a_later_result_replaces_an_earlier_one(transport: Transport) -> None:
    backend = transport.backend()
    backend.store([StoredResult("a", record("FAILURE"))])
    backend.store([StoredResult("a", record("SUCCESS"))])
    assert backend.get(["a"]) == [record("SUCCESS")]


@pytest.mark.parametrize("state", ["SUCCESS", "FAILURE", "REVOKED"])
def test_progress_never_replaces_an_end(transport: Transport, state: str) -> None:
    backend = transport.backend()
    backend.store([StoredResult("a", record(state))])
    backend.store([StoredResult("a", record("PROGRESS")), StoredResult("b", record("STARTED"))], final=False)
    assert backend.get(["a", "b"]) == [record(state), record("STARTED")]


@pytest.mark.parametrize("state", ["STARTED", "RETRY", "PROGRESS", "SUCCESSFUL", "A_CUSTOM_STATE_WITH_A_VERY_LONG_NAME_INDEED"])
def test_progress_replaces_progress(transport: Transport, state: str) -> None:
    backend = transport.backend()
    backend.store([StoredResult("a", record(state))], final=False)
    backend.store([StoredResult("a", record("NEXT"))], final=False)
    assert backend.get(["a"]) == [record("NEXT")]
    backend.store([StoredResult("a", record("SUCCESS"))])
    assert backend.get(["a"]) == [record("SUCCESS")]


def test_progress_never_replaces_what_settling_stored(publish: Publish, worker: Worker, transport: Transport) -> None:
    backend = transport.backend()
    id = _core.new_id(1_700_000_000_000)
    publish(id)
    (one,) = worker.fetch()
    backend.store([StoredResult(id, record("STARTED"))], final=False)
    worker.settle(one.settled(result=record("SUCCESS")))
    backend.store([StoredResult(id, record("PROGRESS"))], final=False)
    assert backend.get([id]) == [record("SUCCESS")]


def test_forgotten_results_are_gone(transport: Transport) -> None:
    backend = transport.backend()
    backend.store([StoredResult(id, record()) for id in ("a", "b", "c")])
    backend.forget(["a", "c", "missing"])
    assert backend.get(["a", "b", "c"]) == [None, record(), None]


def test_results_expire(transport: Transport) -> None:
    backend = transport.backend(result_expires_s=1)
    ids = ["short", _core.new_id(int(time.time() * 1000))]
    transport.backend(result_expires_s=None).store([StoredResult("kept", record())])
    backend.store([StoredResult(id, record()) for id in ids])
    assert backend.get(ids) == [record(), record()]
    until(lambda: backend.get(ids) == [None, None], "the expiry")
    assert backend.get(["kept"]) == [record()]


@pytest.mark.parametrize("kind", ["uuid7", "text"])
def test_ten_thousand_results_are_read_in_order(transport: Transport, kind: str) -> None:
    backend = transport.backend()
    n = 10_000 if kind == "uuid7" else 2_000
    ids = _core.new_ids(int(time.time() * 1000), n) if kind == "uuid7" else [f"id {i}" for i in range(n)]
    backend.store([StoredResult(id, id.encode()) for id in ids])
    assert backend.get(ids[::-1]) == [id.encode() for id in ids[::-1]]
    backend.forget(ids[: n // 2])
    assert backend.get([ids[0], ids[n // 2]]) == [None, ids[n // 2].encode()]


@pytest.mark.parametrize(
    "id", ["x", "ü" * 100, "a b", "*", "{a}", "%s", "é\u0000ñ", "1", "'", "018c0000-0000-7000-8000-00000000000"]
)
def test_an_id_may_be_any_text(transport: Transport, id: str) -> None:
    backend = transport.backend()
    backend.store([StoredResult(id, record(), "inbox")])
    assert backend.get([id, id + "x"]) == [record(), None]
    backend.forget([id])
    assert backend.get([id]) == [None]


def test_threads_may_share_a_backend(transport: Transport) -> None:
    backend = transport.backend()

    def work(thread: int) -> None:
        for i in range(20):
            id = f"{thread}.{i}"
            backend.store([StoredResult(id, id.encode())])
            assert backend.get([id, f"{thread}.{i + 1}"]) == [id.encode(), None]
            if i % 2:
                backend.forget([id])

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    assert backend.get(["3.18", "3.19"]) == [b"3.18", None]


# --- inboxes ---


def test_a_stored_result_comes_to_its_inbox(transport: Transport) -> None:
    inbox = transport.inbox(transport.backend(), "mine")
    other = transport.inbox(transport.backend(), "other")
    transport.backend().store([StoredResult("a", record(), "mine"), StoredResult("b", record(), "")])
    assert read(inbox, 1) == [("a", record())]
    assert inbox.read(0) == []
    assert other.read(0.02) == []


def test_a_settled_result_comes_to_its_inbox(publish: Publish, worker: Worker, transport: Transport) -> None:
    inbox = transport.inbox(transport.backend(), "mine")
    publish("a", "b")
    a, b = worker.fetch()
    worker.settle(a.settled(result=record(), inbox="mine"), b.settled(inbox="mine"))
    assert read(inbox, 1) == [("a", record())]
    assert inbox.read(0.02) == [], "without a result there is nothing to tell"


def test_progress_comes_to_its_inbox_too(transport: Transport) -> None:
    inbox = transport.inbox(transport.backend(), "mine")
    transport.backend().store([StoredResult("a", record("PROGRESS"), "mine")], final=False)
    assert read(inbox, 1) == [("a", record("PROGRESS"))]


def test_large_results_are_announced_and_read_from_the_backend(publish: Publish, worker: Worker, transport: Transport) -> None:
    backend = transport.backend()
    inbox = transport.inbox(backend, "mine")
    publish("small", "large")
    small, large = worker.fetch()
    worker.settle(
        small.settled(result=record(size=1_000), inbox="mine"),
        large.settled(result=record(size=500_000), inbox="mine"),
    )
    assert dict(read(inbox, 2)) == {"small": record(size=1_000), "large": None}
    assert backend.get(["large"]) == [record(size=500_000)]


def test_a_batch_reaches_several_inboxes(publish: Publish, worker: Worker, transport: Transport) -> None:
    inboxes = [transport.inbox(transport.backend(), f"inbox {i}") for i in range(3)]
    publish(*(str(i) for i in range(9)))
    worker.settle(*(one.settled(result=record(), inbox=f"inbox {int(one.id) % 3}") for one in worker.fetch()))
    for i, inbox in enumerate(inboxes):
        assert sorted(read(inbox, 3)) == [(str(i + 3 * k), record()) for k in range(3)]


def test_nobody_listening_is_fine(publish: Publish, worker: Worker, transport: Transport) -> None:
    publish("a")
    (a,) = worker.fetch()
    worker.settle(a.settled(result=record(), inbox="nobody"))
    assert transport.backend().get(["a"]) == [record()]


def test_many_results_in_one_batch_all_come(publish: Publish, worker: Worker, transport: Transport) -> None:
    inbox = transport.inbox(transport.backend(), "mine")
    names = [f"{i:04}" for i in range(1_000)]
    publish(*names)
    worker.settle(*(one.settled(result=record(size=60), inbox="mine") for one in worker.fetch(1_000)))
    assert sorted(id for id, _ in read(inbox, 1_000)) == names


def test_results_that_nobody_reads_for_a_while_are_not_lost(transport: Transport) -> None:
    backend = transport.backend()
    inbox = transport.inbox(backend, "mine")
    names = [f"{i:04}" for i in range(300)]
    for id in names:
        backend.store([StoredResult(id, record(), "mine")])
    assert sorted(id for id, _ in read(inbox, 300)) == names


def test_a_waiting_reader_is_woken(transport: Transport) -> None:
    backend = transport.backend()
    inbox = transport.inbox(backend, "mine")
    got: list[tuple[str, bytes | None]] = []
    reader = threading.Thread(target=lambda: got.extend(inbox.read(DEADLINE_S)))
    reader.start()
    backend.store([StoredResult("a", record(), "mine")])
    reader.join(DEADLINE_S)
    assert got == [("a", record())]


def test_an_inbox_can_be_selected_on(transport: Transport) -> None:
    inbox = transport.inbox(transport.backend(), "mine")
    assert select.select([inbox.fileno()], [], [], 0)[0] == []
    transport.backend().store([StoredResult("a", record(), "mine")])
    assert select.select([inbox.fileno()], [], [], DEADLINE_S)[0]
    assert read(inbox, 1) == [("a", record())]


def test_reading_gives_up_at_the_timeout(transport: Transport) -> None:
    inbox = transport.inbox(transport.backend(), "mine")
    started = time.monotonic()
    assert inbox.read(0.05) == []
    assert 0.045 <= time.monotonic() - started < DEADLINE_S
    assert inbox.read(0) == []


def test_an_inbox_opened_again_goes_on(transport: Transport) -> None:
    inbox = transport.inbox(transport.backend(), "mine")
    inbox.open()
    transport.backend().store([StoredResult("a", record(), "mine")])
    assert read(inbox, 1) == [("a", record())]


def test_a_closed_inbox_says_so(transport: Transport) -> None:
    inbox = transport.inbox(transport.backend(), "mine")
    inbox.close()
    with pytest.raises(OperationalError):
        inbox.read(0)
    inbox.close()


def test_a_backend_knows_its_own_broker(transport: Transport) -> None:
    assert transport.backend().shares(transport.broker())
    stranger = open_broker("memory://a store of its own", TransportOptions())
    assert not transport.backend().shares(stranger)
    stranger.close()
