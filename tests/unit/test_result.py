"""Results as applications see them, over every transport."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fastq import FastQ, ResultSet, Task, _core
from fastq.exceptions import EncodeError, ImproperlyConfigured, OperationalError, RemoteError, TimeoutError
from fastq.records import Publication
from fastq.remote import RemoteTraceback
from fastq.result import allow_join_result, denied_join_result
from fastq.running import current
from fastq.transports import memory, open_inspector
from fastq.waiting import mailroom
from tests.servers import RedisServer
from tests.unit.app_worker import worker


@pytest.fixture(params=["memory", "sqlite", "redis"])
def app(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FastQ]:
    if request.param == "memory":
        url = f"memory://{request.node.name}"
    elif request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/results.db"
    else:
        server: RedisServer = request.getfixturevalue("redis_server")
        url = server.url
    with FastQ("proj", broker=url, backend=url, key_prefix=f"{time.monotonic_ns()}:", set_as_current=False) as app:
        yield app
    if request.param == "memory":
        memory.reset(request.node.name)


@pytest.fixture(autouse=True)
def no_slow_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be found by the slow poll that should have been found at once."""
    monkeypatch.setattr(mailroom, "POLL_FIRST_S", 600.0)


class CustomError(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


def tasks(app: FastQ) -> dict[str, Any]:
    @app.task(name="add")
    def add(x: int, y: int = 0) -> int:
        return x + y

    @app.task(name="fail")
    def fail(code: int) -> None:
        raise CustomError(code)

    @app.task(name="double")
    async def double(x: int) -> int:
        await asyncio.sleep(0)
        return 2 * x

    @app.task(name="request", bind=True)
    def request(self: Task[..., Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
        r = self.request
        return {
            "id": r.id,
            "args": r.args,
            "kwargs": r.kwargs,
            "retries": r.retries,
            "queue": r.delivery_info["routing_key"],
            "priority": r.delivery_info["priority"],
            "redelivered": r.delivery_info["redelivered"],
            "headers": r.headers,
            "root_id": r.root_id,
            "parent_id": r.parent_id,
            "eta": r.eta,
            "expires": r.expires,
            "called_directly": r.called_directly,
            "reply_to": r.reply_to,
            "trace": r.get("trace"),
            "group": r.group,
            "missing": r.get("no_such_thing", "none"),
        }

    @app.task(name="parent")
    def parent() -> tuple[str, str]:
        return request.delay().id, add.delay(1).id

    @app.task(name="progress", bind=True)
    def progress(self: Task[..., Any]) -> str:
        self.update_state(state="PROGRESS", meta={"done": 3})
        seen = app.AsyncResult(self.request.id or "")
        state = (seen.state, seen.info)
        return repr(state)

    @app.task(name="big")
    def big(n: int) -> bytes:
        return b"x" * n

    return {"add": add, "fail": fail, "double": double, "request": request, "parent": parent, "progress": progress, "big": big}


def test_a_result_comes_back(app: FastQ) -> None:
    t = tasks(app)
    with worker(app):
        result = t["add"].delay(2, y=3)
        assert not isinstance(result.get(timeout=20), bool)
        assert (result.get(), result.state, result.status, result.result, result.info) == (5, "SUCCESS", "SUCCESS", 5, 5)
        assert result.ready() and result.successful() and not result.failed()
        assert result.traceback is None
        assert isinstance(result.date_done, datetime)
        assert abs((datetime.now(UTC) - result.date_done).total_seconds()) < 60
        assert t["double"].delay(4).get(timeout=20) == 8
        assert t["big"].delay(100_000).get(timeout=20) == b"x" * 100_000
        elsewhere = app.AsyncResult(result.id)
        assert elsewhere.get(timeout=20) == 5 and elsewhere.ready()
        called: list[Any] = []
        assert result.get(callback=lambda id, value: called.append((id, value))) == 5
        assert called == [(result.id, 5)]


def test_before_it_has_ended_there_is_nothing(app: FastQ) -> None:
    result = tasks(app)["add"].delay(1)
    assert (result.state, result.result, result.traceback, result.date_done) == ("PENDING", None, None, None)
    assert not result.ready() and not result.successful() and not result.failed()
    with pytest.raises(TimeoutError, match=r"^The operation timed out\.$"):
        result.get(timeout=0.01)
    with pytest.raises(TimeoutError):
        result.get(timeout=0)
    with pytest.raises(TimeoutError):
        app.AsyncResult("unknown").get(timeout=0.01)
    ticks: list[int] = []
    with pytest.raises(TimeoutError):
        result.get(timeout=0.05, interval=0.01, on_interval=lambda: ticks.append(1))
    assert ticks


def test_a_failure_is_raised_again_as_its_own_type_with_its_traceback(app: FastQ) -> None:
    t = tasks(app)
    with worker(app):
        result = t["fail"].delay(7)
        with pytest.raises(CustomError, match="code 7") as caught:
            result.get(timeout=20)
        assert caught.value.code == 7
        assert isinstance(caught.value.__cause__, RemoteTraceback)
        assert "raise CustomError(code)" in str(caught.value.__cause__)
        assert "CustomError: code 7" in (result.traceback or "")
        assert result.failed() and result.ready() and not result.successful() and result.state == "FAILURE"
        assert isinstance(result.result, CustomError)
        assert isinstance(result.get(propagate=False), CustomError)
        with pytest.raises(CustomError):
            result.get()
        with pytest.raises(CustomError):
            result.maybe_throw()
        with pytest.raises(CustomError):
            app.AsyncResult(result.id).get(timeout=20)


def test_the_request_says_what_the_call_was(app: FastQ) -> None:
    t = tasks(app)
    app.conf.task_default_priority = 2
    with worker(app, "default", "other"):
        seen = (
            t["request"]
            .apply_async((1, "a"), {"k": [2]}, headers={"trace": "t1"}, queue="other", priority=5, expires=60)
            .get(timeout=20)
        )
        assert (seen["args"], seen["kwargs"], seen["queue"], seen["priority"]) == ([1, "a"], {"k": [2]}, "other", 5)
        assert (seen["headers"], seen["trace"], seen["group"], seen["missing"]) == ({"trace": "t1"}, "t1", None, "none")
        assert (seen["retries"], seen["redelivered"], seen["called_directly"], seen["parent_id"]) == (0, False, False, None)
        assert seen["root_id"] == seen["id"] and seen["reply_to"] == app.producer.name
        assert datetime.fromisoformat(seen["expires"]) > datetime.now(UTC)
        plain = t["request"].apply_async(task_id="my own id/ü")
        assert plain.id == "my own id/ü"
        assert plain.get(timeout=20)["id"] == "my own id/ü"
        assert plain.get()["priority"] == 2


def test_tasks_sent_by_tasks_know_their_parent_and_root(app: FastQ) -> None:
    t = tasks(app)
    with worker(app):
        parent = t["parent"].delay()
        child_id, _ = parent.get(timeout=20)
        child = app.AsyncResult(child_id).get(timeout=20)
        assert child["parent_id"] == parent.id and child["root_id"] == parent.id


def test_states_of_ones_own(app: FastQ) -> None:
    t = tasks(app)
    with worker(app):
        result = t["progress"].delay()
        assert result.get(timeout=20) == repr(("PROGRESS", {"done": 3}))
        t["add"].update_state(result.id, "PROGRESS", {"late": True})
        assert app.AsyncResult(result.id).state == "SUCCESS", "a final state is never replaced"
    t["add"].update_state("some id", "HALFWAY", {"a": (1, 2)})
    waiting = app.AsyncResult("some id")
    assert (waiting.state, waiting.info, waiting.ready()) == ("HALFWAY", {"a": (1, 2)}, False)
    with pytest.raises(ValueError, match="needs task_id="):
        t["add"].update_state(state="X")
    with pytest.raises(ValueError, match="needs state="):
        t["add"].update_state("some id")
    assert app.backend.get_state("some id") == "HALFWAY"
    app.backend.store_result("some id", ValueError("over"), "FAILURE")
    meta = app.backend.get_task_meta("some id")
    assert meta["status"] == "FAILURE" and isinstance(meta["result"], ValueError) and meta["date_done"]


def test_forgotten_results_are_gone(app: FastQ) -> None:
    t = tasks(app)
    with worker(app):
        result = t["add"].delay(1)
        result.get(timeout=20)
    result.forget()
    assert result.state == "PENDING" and app.AsyncResult(result.id).state == "PENDING"


def test_ignored_results_are_none_at_once_and_not_stored(app: FastQ) -> None:
    t = tasks(app)
    quiet = app.task(name="quiet", ignore_result=True)(lambda: 1)
    with worker(app):
        for result in (quiet.delay(), t["add"].apply_async((1,), ignore_result=True)):
            assert result.ignored
            assert result.get() is None and asyncio.run(result.aget()) is None
        loud = quiet.apply_async(ignore_result=False)
        assert not loud.ignored and loud.get(timeout=20) == 1
        t["add"].delay(1).get(timeout=20)
        assert app.AsyncResult(result.id).state == "PENDING"
        assert t["add"].delay_many([(1,), (2,)], ignore_result=True).get(timeout=1) == [None, None]


def test_many_tasks_are_sent_and_their_results_come_in_order(app: FastQ) -> None:
    t = tasks(app)
    with worker(app):
        before = app.producer.now_ms() and app.producer._lane().number
        results = t["add"].delay_many((i, i) for i in range(2500))
        assert app.producer._lane().number == before + 3, "a thousand a call"
        assert isinstance(results, ResultSet) and len(results) == 2500
        assert [r.id for r in results] == sorted(r.id for r in results)
        assert results.join(timeout=30) == [2 * i for i in range(2500)]
        assert results.ready() and results.successful() and not results.failed() and results.completed_count() == 2500
        assert [r.get() for r in results[10:13]] == [20, 22, 24]
        assert isinstance(results[10:13], ResultSet) and results[0].get() == 0
        mixed = ResultSet([t["add"].delay(1), t["fail"].delay(2), t["add"].delay(3)])
        with pytest.raises(CustomError):
            mixed.get(timeout=20)
        values: list[Any] = mixed.get(propagate=False)
        assert (values[0], type(values[1]), values[2]) == (1, CustomError, 3)
        assert mixed.failed() and not mixed.successful() and mixed.completed_count() == 2 and not mixed.waiting()
        results.forget()
        assert app.AsyncResult(results[5].id).state == "PENDING"
    assert t["add"].delay_many([]).get() == []
    assert repr(ResultSet([])) == "<ResultSet: 0 []>"


def test_results_come_as_they_are_completed(app: FastQ) -> None:
    t = tasks(app)
    results = t["add"].delay_many([(i,) for i in range(20)])
    with pytest.raises(TimeoutError):
        next(results.iter_completed(timeout=0.01))
    with worker(app):
        assert sorted(r.get() for r in results.iter_completed(timeout=20)) == list(range(20))
        assert [r.get() for r in results.as_completed()] == list(range(20))
        elsewhere = ResultSet([app.AsyncResult(r.id) for r in results])
        assert sorted(r.get() for r in elsewhere.iter_completed(timeout=20)) == list(range(20))

        async def work() -> list[Any]:
            many = await t["add"].adelay_many([(i,) for i in range(30)])
            found = [r.get() async for r in many.aiter_completed(timeout=20)]
            assert await many.aget(timeout=20) == list(range(30))
            return found

        assert sorted(asyncio.run(work())) == list(range(30))


def test_ten_thousand_gets_are_few_round_trips(app: FastQ, monkeypatch: pytest.MonkeyPatch) -> None:
    t = tasks(app)
    n = 3000
    with worker(app):
        results = t["add"].delay_many((i,) for i in range(n))
        last = app.AsyncResult(results[-1].id)
        last.get(timeout=30)
        reads: list[int] = []
        read = app.backend.records

        def counted(ids: Sequence[str]) -> list[bytes | None]:
            reads.append(len(ids))
            return read(ids)

        monkeypatch.setattr(app.backend.waiter, "_read", counted)
        assert [r.get(timeout=30) for r in results] == list(range(n))
        assert len(reads) <= n // 200
        reads.clear()
        again = [t["add"].delay(i) for i in range(300)]
        assert [r.get(timeout=30) for r in again] == list(range(300))
        assert len(reads) <= 2


def test_coroutines_send_and_wait_from_several_loops(app: FastQ) -> None:
    t = tasks(app)

    async def work(n: int) -> list[int]:
        results = await asyncio.gather(*(t["add"].adelay(n, i) for i in range(40)))
        return [await r.aget(timeout=20) for r in results]

    async def errors() -> None:
        with pytest.raises(TypeError):
            await t["add"].adelay()
        with pytest.raises(CustomError):
            await (await t["fail"].aapply_async((1,), countdown=0)).aget(timeout=20)
        with pytest.raises(TimeoutError):
            await app.AsyncResult("unknown").aget(timeout=0.01)
        assert await (await app.asend_task("add", (1, 2))).aget(timeout=20) == 3
        foreign = app.AsyncResult((await t["add"].adelay(5)).id)
        assert await foreign.aget(timeout=20) == 5

    with worker(app):
        for n in range(3):
            assert asyncio.run(work(n)) == [n + i for i in range(40)]
        asyncio.run(errors())


def test_sending_by_name_needs_no_code_and_takes_the_tasks_options(app: FastQ) -> None:
    t = tasks(app)
    t["add"].queue = "own"
    with worker(app, "default", "own"):
        assert app.send_task("add", [1], {"y": 5}).get(timeout=20) == 6
    app.send_task("never.heard.of", (1,), queue="elsewhere")
    inspector = open_inspector(app.broker_url, app.transport_options())
    assert inspector.depth("elsewhere")["ready"] == 1
    inspector.close()
    with pytest.raises(TypeError, match="sent by its name"):
        app.send_task(t["add"])


def test_countdown_eta_and_priority_reach_the_broker(app: FastQ) -> None:
    t = tasks(app)
    app.conf.timezone = "Asia/Tokyo"
    sent: list[Publication] = []

    class Spy:
        def publish(self, producer: str, number: int, publications: Any) -> None:
            sent.extend(publications)

        def now_ms(self) -> int:
            return int(time.time() * 1000)

        def close(self) -> None: ...

    app.producer._lane().broker = Spy()  # type: ignore[assignment]
    t["add"].apply_async((1,), countdown=1.5, priority=9)
    later = datetime(2999, 1, 1, 9)
    t["add"].apply_async((1,), eta=later)
    t["add"].apply_async((1,), eta=datetime(2000, 1, 1))
    t["add"].apply_async((1,), countdown=-3)
    assert [(p.delay_ms, p.due_ms, p.level) for p in sent] == [
        (1500, 0, 9),
        (0, int(datetime(2999, 1, 1, tzinfo=UTC).timestamp() * 1000), 0),
        (0, 0, 0),
        (0, 0, 0),
    ]
    assert (_core.peek(sent[1].message).options or {})["eta_ms"] == sent[1].due_ms
    assert _core.peek(sent[2].message).options is None
    t["add"].apply_async((1,), expires=datetime(2999, 1, 1, 9))
    assert _core.peek(sent[-1].message).expires_ms == sent[1].due_ms
    t["add"].apply_async((1,), expires=-10)
    assert 0 < _core.peek(sent[-1].message).expires_ms < time.time() * 1000


@pytest.mark.parametrize("app", ["memory"], indirect=True)
@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"priority": 10}, ValueError, "expected 0 to 9"),
        ({"priority": "high"}, TypeError, "expected a whole number"),
        ({"queue": 3}, ImproperlyConfigured, "3 is no queue; expected"),
        ({"eta": "tomorrow"}, ValueError, "expected a datetime, or one in ISO 8601"),
        ({"countdown": float("nan")}, ValueError, "expected a number of seconds"),
        ({"expires": "soon"}, ValueError, "expected a datetime, or one in ISO 8601"),
        ({"serializer": "xml"}, ImproperlyConfigured, "unknown serializer 'xml'"),
        ({"compression": "rar"}, ImproperlyConfigured, "unknown compression 'rar'"),
        ({"retry_policy": {"often": 3}}, ValueError, "unknown keys"),
        ({"task_id": "x" * 256}, EncodeError, "id"),
        ({"headers": {"a": object()}}, EncodeError, r"headers\['a'\] is of type object"),
        ({"headers": {"a": [datetime(2024, 1, 1)]}}, EncodeError, r"headers\['a'\] is of type list"),
        ({"headers": {1: 2}}, TypeError, "expected text"),
        ({"wait": 3}, TypeError, "unexpected option 'wait'"),
    ],
)
def test_options_that_cannot_be_are_refused_at_the_caller(
    app: FastQ, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        tasks(app)["add"].apply_async((1,), **options)


@pytest.mark.parametrize("app", ["memory"], indirect=True)
def test_an_argument_that_cannot_be_sent_is_named(app: FastQ) -> None:
    add = tasks(app)["add"]
    with pytest.raises(
        EncodeError,
        match=r"add: argument 'y' \(position 2\) is of type object, which msgpack cannot write: <object .*What to do: send",
    ):
        add.delay(1, object())
    with pytest.raises(EncodeError, match=r"argument 'y' is of type function"):
        add.delay(1, y=len.__class__ and (lambda: 1))
    with pytest.raises(EncodeError, match=r"argument 'x' \(position 1\)\[1\]\['k'\] is of type .*Opaque"):
        add.delay([0, {"k": Opaque()}])
    with pytest.raises(EncodeError, match="integers must fit 64 bits"):
        add.delay(2**70)
    with pytest.raises(EncodeError, match="which json cannot write"):
        add.apply_async((Opaque(),), serializer="json")
    with pytest.raises(EncodeError):
        add.delay_many([(1,), (object(),)])
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(EncodeError):
        add.delay(loop)


class Opaque:
    pass


def test_serializers_and_compression_are_chosen_per_call(app: FastQ) -> None:
    t = tasks(app)
    app.conf.accept_content = ["msgpack", "json", "pickle"]
    with worker(app):
        for options in (
            {"serializer": "json"},
            {"serializer": "pickle"},
            {"compression": "zlib"},
            {"serializer": "json", "compression": "lzma"},
        ):
            seen = t["request"].apply_async(("x" * 5000, 3), {"when": datetime(2024, 1, 1)}, **options).get(timeout=20)
            assert list(seen["args"]) == ["x" * 5000, 3] and seen["kwargs"] == {"when": datetime(2024, 1, 1)}


@pytest.mark.parametrize("app", ["memory"], indirect=True)
def test_waiting_inside_a_task_is_refused_unless_allowed(app: FastQ) -> None:
    add = tasks(app)["add"]
    result = add.delay(1)
    token = current.set(_core.peek(_core.encode("i", "n", "c", b"", 0, None, 0, None, None)))
    try:
        with pytest.raises(RuntimeError, match=r"^Never call result.get\(\) within a task!"):
            result.get(timeout=0)
        with pytest.raises(RuntimeError):
            asyncio.run(result.aget(timeout=0))
        with pytest.raises(RuntimeError):
            add.delay_many([(1,)]).get(timeout=0)
        with pytest.raises(TimeoutError):
            result.get(timeout=0, disable_sync_subtasks=False)
        with allow_join_result():
            with pytest.raises(TimeoutError):
                result.get(timeout=0)
            with denied_join_result(), pytest.raises(RuntimeError):
                result.get(timeout=0)
    finally:
        current.reset(token)


def test_disabled_results_say_what_to_do(redis_server: RedisServer) -> None:
    app = FastQ("x", broker=redis_server.url, set_as_current=False)
    app.conf.key_prefix = "disabled:"
    result = app.send_task("t")
    for look in (
        result.get,
        result.ready,
        lambda: result.state,
        lambda: result.traceback,
        result.forget,
        lambda: asyncio.run(result.aget()),
    ):
        with pytest.raises(ImproperlyConfigured, match=r"Results are disabled: no result_backend is set.*FASTQ_RESULT_BACKEND"):
            look()
    named = FastQ("x", broker="memory://", backend="disabled://", set_as_current=False)
    with pytest.raises(ImproperlyConfigured, match=r"result_backend is 'disabled://' \(a keyword of FastQ"):
        named.send_task("t").get()
    app.close()
    named.close()


def test_an_unreachable_broker_is_an_operational_error() -> None:
    app = FastQ("x", broker="redis://127.0.0.1:1/0", set_as_current=False)
    app.conf.task_publish_retry_policy = {"max_retries": 1, "interval_step": 0}
    with pytest.raises(OperationalError) as caught:
        app.send_task("t")
    assert caught.value.task_ids == (), "nothing was sent"
    with pytest.raises(OperationalError):
        app.send_task("t", retry=False)
    app.close()


def test_broker_and_backend_can_be_of_different_kinds(tmp_path: Path, redis_server: RedisServer) -> None:
    app = FastQ("x", broker=f"sqlite:///{tmp_path}/b.db", backend=redis_server.url, key_prefix="mixed:", set_as_current=False)
    t = tasks(app)
    with worker(app):
        assert t["add"].delay(1, 2).get(timeout=20) == 3
        assert t["add"].delay_many([(i,) for i in range(50)]).get(timeout=20) == list(range(50))
    app.close()


@pytest.mark.parametrize("app", ["sqlite", "redis"], indirect=True)  # a fork has a copy of the memory store of its own
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 warns of what this is about
def test_forked_children_send_and_wait_on_their_own(app: FastQ) -> None:
    t = tasks(app)
    with worker(app):
        before = t["add"].delay(1)
        assert t["add"].delay(1).get(timeout=20) == 1
        pids = []
        for n in range(3):
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    assert t["add"].delay(n, 10).get(timeout=20) == n + 10
                    assert before.get(timeout=20) == 1
                    assert t["add"].delay_many([(i, n) for i in range(20)]).get(timeout=20) == [i + n for i in range(20)]
                    status = 0
                finally:
                    os._exit(status)
            pids.append(pid)
        assert t["add"].delay(5).get(timeout=20) == 5
        for pid in pids:
            assert os.waitpid(pid, 0)[1] == 0
        assert t["add"].delay(6).get(timeout=20) == 6


def test_a_failure_of_an_unknown_class_has_a_stand_in(app: FastQ) -> None:
    content_type, body = app.serializers.dumps(
        "msgpack", {"type": "Odd", "module": "not.here", "args": [1], "text": "odd", "state": None}
    )
    from fastq.records import StoredResult

    app.backend.raw.store([StoredResult("odd", _core.encode_result("FAILURE", content_type, body, "tb", 1, None))])
    with pytest.raises(RemoteError, match="odd") as caught:
        app.AsyncResult("odd").get(timeout=5)
    assert type(caught.value).__name__ == "Odd"
