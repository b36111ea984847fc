"""``app.dead_letters``: which are meant, what is in them, what putting one back means."""

from __future__ import annotations

import itertools
import re
import secrets
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fastq import FastQ, _core, flow
from fastq.dead import REASONS, DeadLetters, Letter
from fastq.dead import letters as letters_module
from fastq.exceptions import AmbiguousDeadLetter, DeadLetterNotFound
from fastq.records import DEAD, ENDS, Effects, Fetch, Publication, Settlement, StoredResult
from fastq.security import make_signer
from fastq.transports import open_backend
from fastq.transports.memory.stores import store
from fastq.worker.failures import dead_detail

HOUR_MS = 3_600_000
MSGPACK = "application/x-msgpack"


@pytest.fixture
def app() -> Iterator[FastQ]:
    with FastQ("proj", broker=f"memory://dead-{secrets.token_hex(4)}", set_as_current=False) as app:
        yield app


@pytest.fixture
def dead(app: FastQ) -> DeadLetters:
    return app.dead_letters


@pytest.fixture
def bury(app: FastQ) -> Iterator[Callable[..., None]]:
    """Make dead letters, one after the other."""
    broker = app.open_broker()
    numbers = itertools.count(1)

    def bury(
        id: str = "id",
        name: str = "proj.task",
        *,
        queue: str = "default",
        reason: str = "failed",
        args: Any = (),
        body: bytes | None = None,
        content_type: str = MSGPACK,
        expires_ms: int | None = None,
        retries: int = 0,
        deliveries: int = 0,
        options: dict[str, Any] | None = None,
        message: bytes | None = None,
        effects: Effects | None = None,
        **detail: Any,
    ) -> None:
        if message is None:
            body = app.serializers.dumps("msgpack", [list(args), {}])[1] if body is None else body
            message = _core.encode(id, name, content_type, body, 1_700_000_000_000, expires_ms, retries, "inbox", options)
        number = next(numbers)
        process = f"p{number}"
        broker.renew([queue], [process], 15_000)
        broker.publish("producer", number, [Publication(queue, _core.remark(message, deliveries))])
        ((leased,),) = (broker.fetch(Fetch(process, 1, (queue,), 1)).leased,)
        settled = Settlement(queue, leased.tags[0], id, DEAD, reason=reason, detail=_core.packb(detail), effects=effects)
        assert broker.settle(process, [settled], results=True).skipped == ()

    yield bury
    broker.close()


def ids(letters: Any) -> list[str]:
    return [letter.id for letter in letters]


def waiting(app: FastQ, queue: str = "default") -> list[_core.Delivery]:
    here = store(app.broker_url.partition("://")[2]).queue(queue)
    return [_core.peek(message) for level in reversed(here.ready) for message in level]


def store_states(app: FastQ, **states: str) -> None:
    backend = open_backend(app.backend_url, app.transport_options())
    backend.store([StoredResult(id, _core.encode_result(state, MSGPACK, b"\xc0", None, 1, None)) for id, state in states.items()])


# --- which ---


def test_a_list_says_what_is_known_of_each_newest_first(app: FastQ, dead: DeadLetters, bury: Any) -> None:
    bury("a", "proj.first", error="ValueError: one\nsecond line", retries=2, deliveries=1)
    store(app.broker_url.partition("://")[2]).advance(1)
    bury("b", queue="mail", reason="unregistered")
    b, a = dead.list()
    assert (a.id, a.name, a.queue, a.reason, a.error, a.retries, a.deliveries) == (
        "a", "proj.first", "default", "failed", "ValueError: one", 2, 1,
    )  # fmt: skip
    assert abs(datetime.now(UTC) - a.died_at) < timedelta(minutes=1)
    assert (b.id, b.queue, b.error) == ("b", "mail", "")
    assert ids(dead.list(limit=1)) == ["b"] and ids(dead.list(offset=1)) == ["a"]
    assert a.as_dict()["task"] == "proj.first"


@pytest.mark.parametrize(
    ("filter", "expected"),
    [
        ({}, "dcba"),
        ({"queue": "mail"}, "d"),
        ({"queue": ("mail", "default")}, "dcba"),
        ({"queue": "no such"}, ""),
        ({"task": "shop.*"}, "dba"),
        ({"task": "*.Charge"}, ""),
        ({"task": "shop.char?e"}, "ba"),
        ({"reason": "worker-lost"}, "c"),
        ({"reason": ["worker-lost", "rejected"]}, "dc"),
        ({"text": "ZERO"}, "a"),
        ({"text": "berta"}, "b"),
        ({"text": "shop"}, "dba"),
        ({"text": "frame of b"}, "b"),
        ({"task": "shop.*", "reason": "failed", "text": "zero"}, "a"),
    ],
)
def test_a_filter_lets_pass_what_it_says(dead: DeadLetters, bury: Any, filter: Any, expected: str) -> None:
    bury("a", "shop.charge", error="division by zero")
    bury("b", "shop.charge", args=["Berta"], error="other", traceback="frame of b")
    bury("c", "other.task", reason="worker-lost")
    bury("d", "shop.mail", queue="mail", reason="rejected")
    # letters of several queues that died in one millisecond have no order
    assert sorted(ids(dead.list(**filter))) == sorted(expected)
    assert dead.count(**filter) == len(expected)


def test_times_are_those_of_the_brokers_clock(app: FastQ, dead: DeadLetters, bury: Any) -> None:
    clock = store(app.broker_url.partition("://")[2])
    bury("old")
    middle = datetime.fromtimestamp(clock.now_ms() / 1000 + 1800, UTC)
    clock.advance(HOUR_MS)
    bury("new")
    assert ids(dead.list(since=middle)) == ["new"] and ids(dead.list(until=middle.timestamp())) == ["old"]
    assert ids(dead.list(older_than=1800)) == ["old"] and ids(dead.list(newer_than=timedelta(minutes=30))) == ["new"]
    assert ids(dead.list(older_than=1800, newer_than=1200)) == []
    assert ids(dead.list(since=middle.astimezone().replace(tzinfo=None))) == ["new"]


@pytest.mark.parametrize(
    ("filter", "said"),
    [
        ({"reason": "faild"}, "'faild' is no reason of a dead letter. Did you mean 'failed'"),
        ({"older_than": -1}, "older_than is -1 s: expected how long ago"),
    ],
)
def test_a_filter_that_means_nothing_is_refused(dead: DeadLetters, filter: Any, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        dead.list(**filter)
    with pytest.raises(TypeError):
        dead.list(colour="red")  # type: ignore[call-arg]


def test_no_call_reads_more_than_a_page_at_once(dead: DeadLetters, bury: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(letters_module, "PAGE", 3)
    asked = []
    from fastq.transports.memory.inspector import MemoryInspector

    read = MemoryInspector.dead

    def counted(self: Any, queue: str, **how: Any) -> Any:
        asked.append(how["limit"])
        return read(self, queue, **how)

    monkeypatch.setattr(MemoryInspector, "dead", counted)
    for i in range(10):
        bury(f"task-{i}", error="x" if i % 2 else "y")
    assert dead.count(text="x") == 5
    assert len(dead.list(limit=None)) == 10
    assert ids(dead.find(["task-0"])[0]) == ["task-0"]
    assert dead.retry(text="y").number == 5
    assert set(asked) == {3}


def test_an_id_is_whole_or_a_beginning_or_the_letters_own_key(dead: DeadLetters, bury: Any) -> None:
    bury("abcd-1")
    bury("abcd-1-more")
    bury("wxyz-2")
    key = dead.show("wxyz-2").letter.key
    for id in ("wxyz-2", "wxyz", key):
        assert ids(dead.find(id)[0]) == ["wxyz-2"]
    # a whole id is itself, whatever begins with it
    assert ids(dead.find("abcd-1")[0]) == ["abcd-1"]
    found, missing = dead.find(["wxy", "nobody", "wxyz", key])
    assert (ids(found), missing) == (["wxyz-2"], ["wxy", "nobody"])
    with pytest.raises(AmbiguousDeadLetter, match=r"more than one id begins with 'abcd'; give more of it:\n.*abcd-1"):
        dead.retry("abcd")
    with pytest.raises(DeadLetterNotFound, match="no dead letter has the id 'nobody'"):
        dead.show("nobody")
    assert dead.count() == 3


def test_letters_of_one_task_are_told_apart_by_their_keys(app: FastQ, dead: DeadLetters, bury: Any) -> None:
    bury("twin", retries=1)
    bury("twin", retries=2)
    with pytest.raises(AmbiguousDeadLetter, match="task twin has died more than once") as told:
        dead.retry("twin")
    newer, older = dead.list()
    assert older.key in str(told.value) and newer.key in str(told.value)
    assert dead.retry(older.key).number == 1
    assert [d.retries for d in waiting(app)] == [1]
    assert dead.show("twin").letter.key == newer.key


@pytest.mark.parametrize("ids", [[1], b"x", [None]])
def test_an_id_is_text(dead: DeadLetters, ids: Any) -> None:
    with pytest.raises(TypeError, match="the id of a dead letter is text"):
        dead.retry(ids)


@pytest.mark.parametrize("verb", ["retry", "delete"])
def test_everything_is_only_meant_if_it_is_said(dead: DeadLetters, bury: Any, verb: str) -> None:
    bury("a")
    with pytest.raises(ValueError, match="of which dead letters"):
        getattr(dead, verb)()
    assert dead.count() == 1
    assert getattr(dead, verb)(everything=True).number == 1
    assert getattr(dead, verb)([]).number == 0


def test_what_is_not_there_is_said_and_the_rest_is_done(dead: DeadLetters, bury: Any) -> None:
    bury("here")
    assert dead.delete(["here", "gone"])[:2] == (1, ("gone",))


def test_a_limit_takes_the_newest(app: FastQ, dead: DeadLetters, bury: Any) -> None:
    for id in "abcde":
        bury(id)
    assert dead.retry(everything=True, limit=2).number == 2
    assert [d.id for d in waiting(app)] == ["d", "e"]
    assert dead.delete(task="*", everything=True, limit=1).number == 1
    assert ids(dead.list()) == ["b", "a"]
    assert dead.purge(reason="rejected") == 0 and dead.purge() == 2 and dead.count() == 0


# --- what is in them ---


def test_show_tells_what_is_in_a_letter(dead: DeadLetters, bury: Any) -> None:
    leaf = flow.leaf("next", "n", "default", 0, MSGPACK, b"\x92\x90\x80")
    options = {"headers": {"tenant": "x"}, "root_id": "root", "flow": {"chain": [leaf], "join": ["j", "0", "default"]}}
    bury("a", args=[1, {2, 3}], retries=1, deliveries=2, options=options, expires_ms=1_700_000_001_000,
         error="ValueError: long", traceback="Traceback ...", node="w1@host")  # fmt: skip
    opened = dead.show("a")
    assert (opened.args, opened.kwargs, opened.unread) == ([1, {2, 3}], {}, "")
    assert opened.headers == {"tenant": "x"} and opened.root_id == "root" and opened.traceback == "Traceback ..."
    assert opened.expires_at == datetime.fromtimestamp(1_700_000_001, UTC)
    assert opened.follows == ["1 step of a chain", "it was a member of the chord j"]
    assert [event.what for event in opened.history] == [
        "sent", "tried again once", "its process died 2 times", "became a dead letter on w1@host: failed",
    ]  # fmt: skip
    assert opened.history[0].at == datetime.fromtimestamp(1_700_000_000, UTC)
    assert opened.as_dict()["headers"] == {"tenant": "x"}


def test_arguments_that_a_task_before_has_left_stand_in_front(dead: DeadLetters, bury: Any) -> None:
    bury("a", args=[2], options={"flow": {"args": [[MSGPACK, b"\x01"]]}})
    assert dead.show("a").args == [1, 2]


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ({"content_type": "application/x-python-serialize", "body": b"cos\nabort\n(tR."}, "refusing to deserialize"),
        ({"content_type": "application/nonsense", "body": b"x"}, "refusing to deserialize"),
        ({"body": b"\xc1"}, ""),
        ({"body": b"\x01"}, "the body is not"),
        ({"message": b"no message at all"}, "the message cannot be read"),
    ],
)
def test_arguments_that_cannot_be_read_are_not_shown_and_it_is_said_why(dead: DeadLetters, bury: Any, what: Any, said: str) -> None:
    bury("a", **what, reason="undecodable")
    (letter,) = dead.list()
    opened = dead.show(letter.key)
    assert opened.args is None and opened.kwargs is None and opened.unread
    assert said in opened.unread
    assert opened.size > 0
    assert dead.count(text="whatever") == 0


def test_pickle_of_an_untrusted_message_is_never_read(dead: DeadLetters, app: FastQ, bury: Any) -> None:
    app.conf.update(accept_content=["msgpack", "pickle"])
    bury("a", content_type="application/x-python-serialize", body=b"cos\nabort\n(tR.", reason="bad-signature")
    assert "its signature is not good" in dead.show("a").unread


def test_an_error_cannot_steer_the_terminal(dead: DeadLetters, bury: Any) -> None:
    bury("a", error="x\x1b[2Jy" + "z" * 1000)
    (letter,) = dead.list()
    assert letter.error.startswith("x [2Jyzzz") and letter.error.endswith("…") and len(letter.error) <= 300


# --- putting back ---


def test_a_retried_letter_is_as_it_was_but_for_what_was_charged(app: FastQ, dead: DeadLetters, bury: Any) -> None:
    options = {"headers": {"a": 1}}
    bury("a", args=[1], retries=3, deliveries=2, options=options, expires_ms=9_999_999_999_999)
    message = dead.list()[0].record.message
    assert dead.retry("a") == (1, (), ())
    (d,) = waiting(app)
    assert d.message == message[2:] and d.deliveries == 0 and d.retries == 3


def test_a_time_that_is_over_is_lifted(app: FastQ, dead: DeadLetters, bury: Any) -> None:
    bury("a", args=[1], expires_ms=1_700_000_000_001, options={"headers": {"a": 1}}, retries=2)
    dead.retry("a")
    (d,) = waiting(app)
    assert (d.expires_ms, d.retries, d.inbox, d.options, d.enqueued_ms) == (0, 2, "inbox", {"headers": {"a": 1}}, 1_700_000_000_000)
    assert app.serializers.loads(d.content_type, d.body) == [[1], {}]


def test_retries_can_be_counted_anew(app: FastQ, dead: DeadLetters, bury: Any) -> None:
    bury("a", retries=3, expires_ms=9_999_999_999_999)
    dead.retry("a", reset_retries=True)
    assert [(d.retries, d.expires_ms) for d in waiting(app)] == [(0, 9_999_999_999_999)]


def test_a_changed_message_that_was_signed_is_signed_anew(app: FastQ, dead: DeadLetters, bury: Any) -> None:
    signer = make_signer("a secret of the whole team")
    assert signer is not None
    plain = _core.encode("a", "n", MSGPACK, b"\x92\x90\x80", 0, 1_700_000_000_000, 0, None, None)
    bury("a", message=signer.sign(plain))
    ((letter, why),) = dead.retry("a").left
    assert letter.id == "a" and "can sign it anew" in why and dead.count() == 1
    app.conf.update(security_key="a secret of the whole team")
    assert dead.retry("a").number == 1
    (d,) = waiting(app)
    signer.check(d.message)
    assert d.expires_ms == 0


def test_another_queue_can_be_named(app: FastQ, dead: DeadLetters, bury: Any) -> None:
    bury("a")
    with pytest.raises(ValueError, match="the name of a queue"):
        dead.retry("a", to="")
    dead.retry("a", to="repair")
    assert [d.id for d in waiting(app, "repair")] == ["a"] and waiting(app) == []


def test_the_failure_goes_with_the_letter_and_those_behind_it_in_the_chain(app: FastQ, dead: DeadLetters, bury: Any) -> None:
    chain = [flow.leaf(id, "n", "default", 0, MSGPACK, b"\x92\x90\x80") for id in ("last", "second")]
    bury("a", options={"flow": {"chain": chain}})
    bury("b")
    store_states(app, a="FAILURE", second="FAILURE", last="FAILURE", b="FAILURE", other="FAILURE")
    dead.retry("a")
    states = {id: app.AsyncResult(id).state for id in ("a", "second", "last", "b", "other")}
    assert states == {"a": "PENDING", "second": "PENDING", "last": "PENDING", "b": "FAILURE", "other": "FAILURE"}


def test_failures_that_are_kept_elsewhere_go_too(bury: Any, app: FastQ) -> None:
    with FastQ("other", broker=app.broker_url, backend=f"memory://{secrets.token_hex(4)}", set_as_current=False) as apart:
        store_states(apart, a="FAILURE", b="SUCCESS")
        bury("a")
        bury("b")
        assert apart.dead_letters.retry(["a", "b"]).number == 2
        assert apart.AsyncResult("a").state == "PENDING" and apart.AsyncResult("b").state == "SUCCESS"


def test_a_message_that_is_not_believed_forgets_no_result(app: FastQ, dead: DeadLetters, bury: Any) -> None:
    bury("victim", reason="bad-signature")
    store_states(app, victim="FAILURE")
    dead.retry("victim")
    assert app.AsyncResult("victim").state == "FAILURE"


def test_what_cannot_be_read_goes_back_as_it_is(app: FastQ, dead: DeadLetters, bury: Any) -> None:
    bury("", message=b"no message at all", reason="undecodable", error="not an envelope")
    (letter,) = dead.list(reason="undecodable")
    assert (letter.id, letter.name, letter.error) == ("", "", "not an envelope")
    assert dead.retry(letter.key).number == 1
    assert [bytes(m) for m in store(app.broker_url.partition("://")[2]).queue("default").ready[0]] == [b"no message at all"]


def test_letters_that_die_again_at_once_are_not_put_back_twice(app: FastQ, dead: DeadLetters, bury: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(letters_module, "PAGE", 2)
    for i in range(6):
        bury(f"a{i}")
    from fastq.transports.memory.inspector import MemoryInspector

    put_back = MemoryInspector.retry_dead
    n = itertools.count()

    def and_die(self: Any, *args: Any, **how: Any) -> int:
        assert next(n) < 10, "it goes round"
        moved = put_back(self, *args, **how)
        for _ in range(moved):
            bury("again")
        return moved

    monkeypatch.setattr(MemoryInspector, "retry_dead", and_die)
    assert dead.retry(everything=True).number == 6


# --- what workers say ---


def test_a_long_error_or_traceback_is_kept_at_both_ends() -> None:
    d = _core.peek(_core.encode("a", "n", MSGPACK, b"\x92\x90\x80", 0, None, 0, None, None))
    detail = _core.unpackb(dead_detail(d, "first" + "x" * 10**6 + "last", "begin" + "y" * 10**6 + "\ud800end", "node"))
    assert detail["error"].startswith("firstx") and detail["error"].endswith("xlast") and len(detail["error"]) < 4_200
    assert detail["traceback"].startswith("beginy") and detail["traceback"].endswith("y\\ud800end")
    assert len(detail["traceback"]) < 16_500 and "characters left out" in detail["traceback"]
    assert "traceback" not in _core.unpackb(dead_detail(d, "short"))


def test_every_reason_that_the_code_gives_is_known() -> None:
    root = Path(_core.__file__).parent
    given = set()
    for path in [*root.rglob("*.py"), root / "_core_runner.pxi"]:
        text = path.read_text(encoding="utf-8")
        given.update(re.findall(r"\breason ?= ?\"([a-z-]+)\"", text))
        if path.name in ("failures.py", "timeouts.py"):
            given.update(re.findall(r"^(?!STARTED)[A-Z_]+ = \"([a-z-]+)\"$", text, re.MULTILINE))
    assert {"failed", "worker-lost", "internal-error", "time-limit", "rejected"} <= given
    assert given - ENDS <= set(REASONS)
    page = (root.parent / "docs" / "dead-letters.md").read_text(encoding="utf-8")
    assert [reason for reason in REASONS if f"| `{reason}` |" not in page] == []


def test_repr_names_the_letter(dead: DeadLetters, bury: Any) -> None:
    bury("a")
    (letter,) = dead.list()
    assert isinstance(letter, Letter)
    assert re.fullmatch(r"<Letter default/\d+: proj.task\[a\] failed>", repr(letter))
    assert repr(dead) == "<DeadLetters of proj>"
