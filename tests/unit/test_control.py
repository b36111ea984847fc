"""What ``app.control`` and ``revoke()`` of results promise, on the transport in memory."""

from __future__ import annotations

import itertools
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from fastq import FastQ, chain, chord, group
from fastq.control import Control
from fastq.control.revoking import signal_name
from fastq.exceptions import ChordError, TaskRevokedError
from fastq.records import DONE, Fetch, Settlement
from fastq.result import EagerResult, GroupResult, ResultSet
from fastq.stamps import stamp_names
from fastq.testing import start_worker
from fastq.transports import memory, open_inspector

_numbers = itertools.count(1)
DEADLINE_S = 20.0


@pytest.fixture
def name() -> Iterator[str]:
    name = f"control{next(_numbers)}"
    yield name
    memory.reset(name)
    memory.reset(f"{name}results")


def make(name: str, **settings: Any) -> FastQ:
    app = FastQ("control", broker=f"memory://{name}", set_as_current=False, **settings)

    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="total")
    def total(values: list[int]) -> int:
        return sum(values)

    return app


@pytest.fixture
def app(name: str) -> Iterator[FastQ]:
    with make(name) as app:
        yield app


def depth(app: FastQ, queue: str = "default") -> int:
    inspector = open_inspector(app.broker_url, app.transport_options())
    found = inspector.depth(queue)
    inspector.close()
    return found["ready"] + found["delayed"]


@pytest.mark.parametrize("options", [{}, {"countdown": 3_600}, {"priority": 5}, {"queue": "elsewhere"}])
def test_a_task_that_has_not_started_reads_revoked_at_once(app: FastQ, options: dict[str, Any]) -> None:
    result = app.tasks["add"].apply_async((1, 2), **options)
    other = app.tasks["add"].apply_async((1, 2), **options)
    result.revoke()
    assert result.state == "REVOKED"
    with pytest.raises(TaskRevokedError, match="revoked"):
        result.get(timeout=DEADLINE_S)
    assert other.state == "PENDING"
    assert depth(app, options.get("queue", "default")) == 1


def test_whoever_waits_hears_of_it(app: FastQ) -> None:
    result = app.tasks["add"].delay(1, 2)
    raised: list[BaseException] = []
    waits = threading.Event()

    def wait() -> None:
        waits.set()
        try:
            result.get(timeout=DEADLINE_S)
        except BaseException as exc:
            raised.append(exc)

    thread = threading.Thread(target=wait)
    thread.start()
    assert waits.wait(DEADLINE_S)
    app.AsyncResult(result.id).revoke()
    thread.join(DEADLINE_S)
    assert [type(exc) for exc in raised] == [TaskRevokedError]


def test_many_are_revoked_in_one_go(app: FastQ) -> None:
    results = app.tasks["add"].delay_many([(i, i) for i in range(5)])
    results[:2].revoke()
    app.control.revoke([results[2].id, results[2].id])
    GroupResult("g", [results[3]], app=app).revoke()
    assert [result.state for result in results] == ["REVOKED"] * 4 + ["PENDING"]
    inner: Any = ResultSet([results[4]], app)
    nested = ResultSet([inner], app)
    nested.revoke()
    assert results[4].state == "REVOKED"


def test_revoking_nothing_does_nothing(app: FastQ) -> None:
    app.control.revoke([])
    ResultSet([], app).revoke()


def test_an_eager_result_in_a_set_is_told_so(app: FastQ) -> None:
    eager: EagerResult[int] = app.tasks["add"].apply((1, 2))
    ResultSet([eager], app).revoke()
    assert eager.state == "REVOKED"


def test_a_task_that_a_worker_has_keeps_its_state(app: FastQ) -> None:
    result = app.tasks["add"].delay(1, 2)
    broker = app.open_broker()
    broker.renew(["default"], ["p"], 15_000)
    (leased,) = broker.fetch(Fetch("p", 1, ("default",), 1)).leased
    result.revoke()
    assert result.state == "PENDING"
    broker.settle("p", [Settlement("default", leased.tags[0], result.id, DONE)], results=True)
    app.backend.store_result(result.id, 3, "SUCCESS")
    assert result.get(timeout=DEADLINE_S) == 3


@pytest.mark.parametrize("state", ["SUCCESS", "FAILURE", "STARTED", "PROGRESS"])
def test_a_state_that_says_more_is_kept(app: FastQ, state: str) -> None:
    app.backend.store_result("x", {"done": 1} if state != "FAILURE" else ValueError("no"), state)
    app.control.revoke("x")
    assert app.AsyncResult("x").state == state


def test_what_was_never_sent_is_revoked_and_discarded_when_it_comes(app: FastQ) -> None:
    app.AsyncResult("later").revoke()
    assert app.AsyncResult("later").state == "REVOKED"
    with start_worker(app):
        app.tasks["add"].apply_async((1, 2), task_id="later")
        assert app.tasks["add"].delay(2, 2).get(timeout=DEADLINE_S) == 4
        with pytest.raises(TaskRevokedError):
            app.AsyncResult("later").get(timeout=DEADLINE_S)


def test_the_rest_of_a_chain_ends_with_it(app: FastQ) -> None:
    add = app.tasks["add"]
    last: Any = chain(add.s(1, 1), add.s(2), add.s(3)).apply_async()
    last.parent.parent.revoke()
    assert [last.state, last.parent.state, last.parent.parent.state] == ["REVOKED"] * 3


def test_a_later_part_of_a_chain_can_be_revoked_before_it_is_sent(app: FastQ) -> None:
    add = app.tasks["add"]
    last: Any = chain(add.s(1, 1), add.s(2), add.s(3)).apply_async()
    last.revoke()
    assert last.state == "REVOKED"
    with start_worker(app):
        assert last.parent.get(timeout=DEADLINE_S) == 4
        assert add.delay(2, 2).get(timeout=DEADLINE_S) == 4
    assert last.state == "REVOKED"


def test_a_revoked_member_of_a_chord_fails_its_body(app: FastQ) -> None:
    add = app.tasks["add"]
    body: Any = chord([add.s(1, 1), add.s(2, 2)])(app.tasks["total"].s())
    body.parent[1].revoke()
    with start_worker(app), pytest.raises(ChordError, match="revoked"):
        body.get(timeout=DEADLINE_S, follow_parents=False)


def test_a_group_is_revoked_whole(app: FastQ) -> None:
    result: Any = group(app.tasks["add"].s(i, i) for i in range(3)).apply_async()
    result.revoke()
    assert [member.state for member in result] == ["REVOKED"] * 3
    assert depth(app) == 0


def test_results_on_another_server_are_stored_there(name: str) -> None:
    with make(name, backend=f"memory://{name}results") as app:
        add = app.tasks["add"]
        last: Any = chain(add.s(1, 1), add.s(2)).apply_async()
        last.parent.revoke()
        assert [last.parent.state, last.state] == ["REVOKED"] * 2
        assert not memory.store(name).results


def test_without_a_result_backend_it_is_kept_from_running_all_the_same(name: str) -> None:
    with make(name, backend="disabled://") as app:
        result = app.tasks["add"].delay(1, 2)
        result.revoke()
        app.control.revoke("unknown")
        assert depth(app) == 0


def test_a_revocation_is_remembered_as_long_as_the_setting_says(name: str) -> None:
    with make(name) as app:
        app.conf.worker_revoke_expires = 60
        app.control.revoke("x")
        store = memory.store(name)
        broker = app.open_broker()
        assert broker.revoked()[1] == ["x"]
        store.advance(61_000)
        broker.renew(["default"], [], 15_000)
        assert broker.revoked() == (0, [])


def test_what_waits_is_terminated_without_a_worker_and_nobody_answers(app: FastQ) -> None:
    result, other = app.tasks["add"].delay(1, 2), app.tasks["add"].delay(1, 2)
    result.terminate()
    assert app.control.revoke(other.id, terminate=True, signal=9, reply=True, timeout=0.1) == []
    assert (result.state, other.state) == ("REVOKED", "REVOKED")
    assert app.control.revoke([], reply=True) == []
    broker = app.open_broker()
    assert broker.terminated()[1] == {result.id: "SIGTERM", other.id: "SIGKILL"}


@pytest.mark.parametrize(
    ("given", "name"), [("SIGTERM", "SIGTERM"), ("kill", "SIGKILL"), (10, "SIGUSR1"), (signal.SIGINT, "SIGINT")]
)
def test_a_signal_has_a_name_or_a_number(given: str | int, name: str) -> None:
    assert signal_name(given) == name


@pytest.mark.parametrize("given", ["SIGNOTHING", "", 12345])
def test_what_is_no_signal_is_refused_before_anything_is_revoked(app: FastQ, given: Any) -> None:
    result = app.tasks["add"].delay(1, 2)
    with pytest.raises(ValueError, match="is no signal of this system"):
        app.control.terminate(result.id, signal=given)
    assert result.state == "PENDING"


def test_what_waits_with_a_stamp_is_revoked_and_what_comes_later_is_discarded(app: FastQ) -> None:
    def sent(customer: str, **options: Any) -> Any:
        signature = app.tasks["add"].s(1, 2).set(**options)
        signature.stamp(customer=customer)
        return signature.delay()

    acme, late, other = sent("acme"), sent("acme", countdown=60), sent("other")
    app.control.revoke_by_stamped_headers({"customer": {"acme", "nobody"}})
    assert [result.state for result in (acme, late, other)] == ["REVOKED", "REVOKED", "PENDING"]
    broker = app.open_broker()
    assert set(stamp_names("customer", ["acme", "nobody"])) <= set(broker.revoked()[1])
    with pytest.raises(TypeError, match="headers must be stamps"):
        app.control.revoke_by_stamped_headers([("customer", "acme")])  # type: ignore[arg-type]


def test_names_that_are_paused_are_told_until_they_are_resumed(app: FastQ) -> None:
    control = app.control
    assert set(control.pause_queue("q", "r", "q").queues) == {"q", "r"}
    assert set(control.pause_task("add").tasks) == {"add"}
    assert set(control.paused().queues) == {"q", "r"}
    control.resume_queue("q", "r")
    assert not control.resume_task("add").number
    for method in (control.pause_queue, control.pause_task, control.resume_queue, control.resume_task):
        with pytest.raises(TypeError, match="needs a name"):
            method()
        with pytest.raises(TypeError, match="takes names"):
            method(["a", "b"])  # type: ignore[arg-type]


def test_what_celery_takes_to_reach_workers_is_accepted(app: FastQ) -> None:
    result = app.tasks["add"].delay(1, 2)
    app.control.revoke(result.id, ["worker@host"], signal="SIGKILL", timeout=1, connection=None)
    result.revoke(None, wait=True, timeout=1)
    assert result.state == "REVOKED"


@pytest.mark.parametrize(
    ("given", "error"), [(3, TypeError), ([3], TypeError), ("", ValueError), ("x" * 256, ValueError), (["ok", ""], ValueError)]
)
def test_what_is_no_task_id_is_refused(app: FastQ, given: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        app.control.revoke(given)


def test_an_unknown_option_is_refused(app: FastQ) -> None:
    with pytest.raises(TypeError, match="terminated"):
        app.control.revoke("x", terminated=True)


def test_purge_empties_the_queues_of_the_application(app: FastQ) -> None:
    app.tasks["add"].delay_many([(1, 1)] * 3)
    app.tasks["add"].apply_async((1, 1), countdown=60)
    app.tasks["add"].apply_async((1, 1), queue="elsewhere")
    assert app.control.purge() == 4
    assert app.control.discard_all() == 0
    assert (depth(app), depth(app, "elsewhere")) == (0, 1)


def test_there_is_one_control_of_an_application(app: FastQ) -> None:
    assert app.control is app.control
    assert isinstance(app.control, Control) and app.control.app is app
    assert repr(app.control) == "<Control of control>"
