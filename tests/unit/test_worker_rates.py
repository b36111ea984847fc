"""Rate limits: the broker says when, the message waits there, and it pays once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from fastq import FastQ, _core
from fastq.exceptions import ImproperlyConfigured
from fastq.records import RETRY, RETURN, Settlement
from fastq.worker.rates import Rates, bucket_name, limit_name, per_second
from fastq.worker.settler import published
from tests.unit.worker_rig import message, rig, wait_for

_names = itertools.count(1)


@pytest.fixture
def app() -> Iterator[FastQ]:
    url = f"memory://rates{next(_names)}"
    made = FastQ("t", broker=url, backend=url)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("limit", "rate"),
    [("10/s", 10), ("100/m", 100 / 60), ("5/h", 5 / 3600), ("7", 7), (" 2.5 / s ", 2.5), (3, 3), (0.5, 0.5), (None, 0), ("0/s", 0)],
)
def test_a_limit_is_so_many_a_second(limit: str | float | None, rate: float) -> None:
    assert per_second(limit) == pytest.approx(rate)


@pytest.mark.parametrize("limit", ["many", "10/d", "/s", -1, True, [1]])
def test_what_is_no_limit_is_refused_with_what_one_is(limit: object) -> None:
    with pytest.raises(ImproperlyConfigured, match="10/s"):
        per_second(limit)


def test_what_is_over_the_limit_waits_in_the_broker_and_pays_once(app: FastQ) -> None:
    ran: list[int] = []

    @app.task(name="t", rate_limit="20/s")
    def t(i: int) -> None:
        ran.append(i)

    @app.task(name="free")
    def free() -> None:
        ran.append(-1)

    with rig({}, app=app, start=False, slots=4) as made:
        made.publish(*(message("t", i) for i in range(4)), message("free"))
        made.start()
        wait_for(made.settled_all)
        assert sorted(ran) == [-1, 0, 1, 2, 3] and ran.index(-1) < ran.index(3)
        moved = [s for _, batch in made.trouble.settled for s in batch if s.verdict == RETRY]
        assert len(moved) == 3 and all(s.message is not None and _core.peek(s.message).paid for s in moved)
        assert [s.delay_ms for s in moved] == sorted(s.delay_ms for s in moved)
        assert not published(moved), "what waits for its turn was not sent anew"


def test_without_an_answer_of_the_broker_they_go_back(app: FastQ) -> None:
    ran: list[int] = []

    @app.task(name="t", rate_limit=1_000)
    def t(i: int) -> None:
        ran.append(i)

    lost: list[int] = []

    def fails(number: int, name: str) -> str:
        if name == "reserve" and not lost:
            lost.append(number)
            return "request"
        return ""

    with rig({}, app=app, fails=fails) as made:
        made.publish(message("t", 1))
        wait_for(lambda: ran == [1])
        assert any(s.verdict == RETURN for _, batch in made.trouble.settled for s in batch)


@pytest.mark.parametrize("off", [True, False])
def test_the_settings_give_every_task_a_limit_or_none(app: FastQ, off: bool) -> None:
    app.conf.update(task_default_rate_limit="1/h", worker_disable_rate_limits=off)
    ran: list[int] = []

    @app.task(name="t")
    def t(i: int) -> None:
        ran.append(i)

    with rig({}, app=app) as made:
        made.publish(message("t", 1), message("t", 2))
        wait_for((lambda: len(ran) == 2) if off else (lambda: made.inspector.depth("default")["delayed"] == 1))


def test_the_older_meaning_counts_each_worker_alone(app: FastQ) -> None:
    app.conf.worker_rate_limit_scope = "worker"
    ran: list[int] = []

    @app.task(name="t", rate_limit="1/h")
    def t(i: int) -> None:
        ran.append(i)

    with rig({}, app=app) as made:
        assert made.broker.reserve("t", 1, 3_600_000_000, 1) == [0]
        made.publish(message("t", 1))
        wait_for(lambda: ran == [1])


def test_a_limit_that_was_set_by_mistake_does_not_reach_into_the_one_that_corrects_it(app: FastQ) -> None:
    @app.task(name="t", rate_limit=1_000)
    def t(i: int) -> None:
        pass

    broker = app.open_broker()
    try:
        rates = Rates(broker, {}, "w1")

        def delays(first: int) -> list[int]:
            settled: list[Settlement] = []
            entries = app.registry()
            assert rates.limits(entries)
            batch = _core.deliveries("q", [f"0:{first}:{i}" for i in range(3)], [message("t", i) for i in range(3)], entries)
            rates.sort(batch, settled.append)
            return [s.delay_ms for s in settled]

        rates.obey({"task": "t", "rate": "1/h"})
        assert delays(1)[-1] > 3_600_000
        assert not rates.changed, "nothing was given a turn before"
        rates.obey({"task": "t", "rate": "100/s"})
        assert rates.changed
        rates.recall()
        assert not rates.changed
        assert delays(2)[-1] < 1_000, "turns that were taken at the other rate do not count"
        rates.obey({"task": "t", "rate": "100/s"})
        assert not rates.changed, "it is the same"
        rates.obey({"task": "t", "rate": "1/h"})
        assert delays(3)[0] < 2 * 3_600_000, "nor do they when it goes back to it"
    finally:
        broker.close()


@pytest.mark.parametrize("scope", ["fleet", "worker"])
def test_what_a_process_makes_wait_until_it_hears_of_a_new_limit_is_limited_anew(app: FastQ, scope: str) -> None:
    """The node recalls what waits at once; a process that hears of it later has gone on giving turns under the old limit."""
    app.conf.worker_rate_limit_scope = scope
    ran: list[int] = []

    @app.task(name="t", rate_limit="1/h")
    def t(i: int) -> None:
        ran.append(i)

    with rig({}, app=app, start=False, slots=4) as made:
        made.publish(*(message("t", i) for i in range(4)))
        made.start()
        wait_for(lambda: made.inspector.depth("default")["delayed"] == 3)
        assert len(ran) == 1
        made.send({"order": {"do": "rate_limit", "task": "t", "rate": 0}})
        wait_for(lambda: sorted(ran) == [0, 1, 2, 3])
        wait_for(lambda: not any(made.inspector.depth("default").values()))


def test_turns_are_recalled_as_soon_as_the_broker_answers(app: FastQ) -> None:
    ran: list[int] = []

    @app.task(name="t", rate_limit="1/h")
    def t(i: int) -> None:
        ran.append(i)

    lost: list[str] = []

    def fails(number: int, name: str) -> str:
        if name == "recall" and len(lost) < 2:
            lost.append("request" if not lost else "reply")
            return lost[-1]
        return ""

    with rig({}, app=app, start=False, slots=4, fails=fails) as made:
        made.publish(*(message("t", i) for i in range(3)))
        made.start()
        wait_for(lambda: made.inspector.depth("default")["delayed"] == 2)
        made.send({"order": {"do": "rate_limit", "task": "t", "rate": 0}})
        wait_for(lambda: sorted(ran) == [0, 1, 2])
        assert lost == ["request", "reply"]


@pytest.mark.parametrize("name", ["t", "ü" * 300, "t\0", "a|b"])
def test_the_name_of_a_bucket_can_be_remembered_with_a_message(name: str) -> None:
    for node in ("", "w1@" + "h" * 300):
        limit = limit_name(name, node)
        bucket = bucket_name(limit, 1 / 3_600).encode()
        assert len(bucket) <= 200 and b"\0" not in bucket
        assert limit == limit_name(name, node) != limit_name(name + "x", node)
    assert bucket_name(limit, 0) == ""
