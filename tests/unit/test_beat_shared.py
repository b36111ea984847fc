"""The shared schedule on a clock that stands still until it is moved: what is taken in, sent, handed over."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from fastq import FastQ, _core, signals
from fastq.beat.making import tick_id
from fastq.beat.shared import GATHER_MS, SharedScheduler
from fastq.exceptions import ImproperlyConfigured, OperationalError, ScheduleNotFound
from fastq.schedules import BaseSchedule, crontab, schedule
from fastq.transports import TransportOptions, memory, open_inspector

START_S = 1_800_000_000.0

_numbers = itertools.count()


class Site:
    """A store of its own with a clock that is moved, applications on it, and their beats."""

    def __init__(self) -> None:
        self.name = f"beat-{next(_numbers)}"
        self.store = memory.store(self.name)
        self.store.clock = lambda: START_S
        self.opened: list[SharedScheduler] = []

    def app(self, entries: dict[str, Any] | None = None, **settings: Any) -> FastQ:
        app = FastQ("site", broker=f"memory://{self.name}", set_as_current=False, **settings)

        @app.task(name="tick")
        def tick(*args: object, **kwargs: object) -> None: ...

        app.conf.beat_schedule = entries or {}
        return app

    def beat(self, app: FastQ) -> SharedScheduler:
        self.opened.append(SharedScheduler(app))
        return self.opened[-1]

    def sent(self, queue: str = "celery") -> list[Any]:
        """Return the messages sent since the last look."""
        inspector = open_inspector(f"memory://{self.name}", TransportOptions())
        found = [_core.peek(message) for message in inspector.peek(queue, 10_000)]
        inspector.purge(queue)
        return found

    def pass_s(self, *beats: SharedScheduler, seconds: float) -> list[Any]:
        self.store.advance(round(seconds * 1000))
        for beat in beats:
            beat._ask_at = 0.0
            while beat.tick() <= 0:
                pass
        return self.sent(self.queue)

    queue = "celery"


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    site.queue = str(site.app().conf.task_default_queue)
    yield site
    for beat in site.opened:
        beat.close()
    memory.reset(site.name)


EVERY = {"every": {"task": "tick", "schedule": 10.0, "args": (1,), "kwargs": {"b": 2}}}


def names(messages: list[Any]) -> list[str]:
    return [message.options["headers"]["periodic_task_name"] for message in messages]


# --- ticks ---


def test_a_tick_is_a_call_of_its_task(site: Site) -> None:
    app = site.app({"every": {**EVERY["every"], "options": {"queue": "q2", "priority": 4, "expires": 60, "headers": {"x": 1}}}})
    beat = site.beat(app)
    beat.tick()
    site.pass_s(beat, seconds=10)
    (message,) = site.sent("q2")
    assert message.name == "tick"
    assert message.options["headers"] == {"x": 1, "celery_beat_task": True, "periodic_task_name": "every"}
    assert message.options["priority"] == 4
    assert message.expires_ms == round((START_S + 70) * 1000)


def test_every_beat_gives_a_tick_the_same_id_that_begins_with_its_due_time() -> None:
    one = tick_id("seed", "entry", 1_800_000_000_123)
    assert one == tick_id("seed", "entry", 1_800_000_000_123)
    assert int(one.replace("-", "")[:12], 16) == 1_800_000_000_123
    assert (one[14], one[19] in "89ab", len(one)) == ("7", True, 36)
    others = {tick_id("seed", "entry", 1_800_000_000_124), tick_id("seed", "other", 1_800_000_000_123), tick_id("s", "entry", 1)}
    assert one not in others


def test_ticks_are_sent_when_they_are_due_and_not_before(site: Site) -> None:
    beat = site.beat(site.app(EVERY))
    beat.tick()
    assert site.pass_s(beat, seconds=9.9) == []
    assert names(site.pass_s(beat, seconds=0.1)) == ["every"]
    assert names(site.pass_s(beat, seconds=10)) == ["every"]


def test_a_lone_tick_is_in_time_and_others_wait_for_company_no_longer_than_said(site: Site) -> None:
    app = site.app({f"e{ms}": {"task": "tick", "schedule": 10 + ms / 1000} for ms in (0, 12, 35, 41, 100)})
    beat = site.beat(app)
    beat.tick()
    fired: dict[str, int] = {}
    for at_ms in range(9_990, 10_150):
        site.store.clock = lambda: START_S + at_ms / 1000  # noqa: B023
        if beat._rest_s() <= 0:
            beat.tick()
            fired.update(dict.fromkeys(names(site.sent(site.queue)), at_ms - 10_000))
    assert fired == {"e0": 0, "e12": 12 + GATHER_MS, "e35": 12 + GATHER_MS, "e41": 12 + GATHER_MS, "e100": 100}


def test_a_tick_of_an_entry_that_was_edited_is_sent_and_said_once(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fastq.beat")
    app = site.app({"every": {"task": "tick", "schedule": 3.0}})
    beat = site.beat(app)
    beat.tick()
    for n in range(3):
        app.schedules.change("every", args=(n,))
        beat._look = True
        beat.tick()
    assert names(site.pass_s(beat, seconds=3)) == ["every"]
    assert caplog.text.count("Sending due task") == 1
    assert len(beat._due._near + beat._due._far) == 1


def test_a_tick_that_was_made_before_its_time_is_made_again_if_its_entry_is_edited_or_it_gets_late(site: Site) -> None:
    app = site.app({f"e{ms}": {"task": "tick", "schedule": 10 + ms / 1000, "args": (1,)} for ms in (0, 200, 300, 400)})
    beat = site.beat(app)
    beat.tick()
    site.pass_s(beat, seconds=10)
    assert [entry.ahead is not None for _, entry in sorted(beat._due._entries.items())] == [False, True, True, True]
    (in_time,) = site.pass_s(beat, seconds=0.201)
    assert in_time.enqueued_ms == round((START_S + 10.2) * 1000)
    app.schedules.change("e300", args=(2,))
    beat._look = True
    (edited,) = site.pass_s(beat, seconds=0.101)
    assert edited.id == tick_id(beat._seed, "e300", round((START_S + 10.3) * 1000))
    assert _core.unpackb(edited.body)[0] == [2]
    (late,) = site.pass_s(beat, seconds=1)
    assert late.enqueued_ms == round((START_S + 11.302) * 1000)
    assert late.id == tick_id(beat._seed, "e400", round((START_S + 10.4) * 1000))


def test_two_beats_send_each_tick_once_even_if_both_believe_to_lead(site: Site) -> None:
    app = site.app(EVERY)
    first, second = site.beat(app), site.beat(app)
    first.tick()
    second.tick()
    assert (first.leads, second.leads) == (True, False)
    second._take_over()
    second.leads = True
    site.store.advance(10_000)
    first._fire_due()
    second._fire_due()
    assert len(site.sent(site.queue)) == 1
    site.store.advance(10_000)
    second._fire_due()
    first._fire_due()
    assert len(site.sent(site.queue)) == 1


def test_an_entry_that_cannot_be_sent_does_not_hold_the_others_up(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    def route(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **more: Any) -> Any:
        if name == "bad":
            raise RuntimeError("no way")

    app = site.app({"bad": {"task": "bad", "schedule": 10.0}, **EVERY}, task_routes=(route,))
    beat = site.beat(app)
    beat.tick()
    assert names(site.pass_s(beat, seconds=10)) == ["every"]
    assert "'bad' cannot be sent: RuntimeError: no way" in caplog.text
    assert app.schedules.get("bad").runs == 0
    assert names(site.pass_s(beat, seconds=10)) == ["every"]


def test_signals_of_publishing_are_sent_for_ticks(site: Site) -> None:
    told: list[str] = []

    def before(sender: str, headers: dict[str, Any], **more: Any) -> None:
        headers["added"] = "here"

    def after(sender: str, headers: dict[str, Any], **more: Any) -> None:
        told.append(f"{sender} {headers['id']}")

    signals.before_task_publish.connect(before)
    signals.after_task_publish.connect(after)
    beat = site.beat(site.app(EVERY))
    beat.tick()
    (message,) = site.pass_s(beat, seconds=10)
    assert message.options["headers"]["added"] == "here"
    assert told == [f"tick {message.id}"]


def test_messages_and_definitions_are_signed_where_a_key_is_set(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    app = site.app(EVERY, security_key="a secret of sixteen characters")
    beat = site.beat(app)
    beat.tick()
    site.store.advance(10_000)
    beat.tick()
    inspector = open_inspector(f"memory://{site.name}", TransportOptions())
    (message,) = inspector.peek(site.queue, 10)
    assert app.signer is not None
    app.signer.check(message)
    # what somebody without the key writes is not sent
    forger = site.app()
    forger.schedules.add("forged", "tick", 1)
    site.pass_s(beat, seconds=10)
    assert "'forged' cannot be used: the periodic entry is not signed" in caplog.text
    assert app.schedules.get("forged").state == "broken"


# --- who leads ---


def test_the_lead_is_handed_over_at_once_and_nothing_is_sent_twice(site: Site) -> None:
    app = site.app(EVERY)
    first, second = site.beat(app), site.beat(app)
    first.tick()
    second.tick()
    assert names(site.pass_s(first, second, seconds=10)) == ["every"]
    first.close()
    second._ask_at = 0.0
    second.tick()
    assert second.leads
    assert names(site.pass_s(second, seconds=10)) == ["every"]


def test_a_lease_that_ends_lets_another_beat_send_what_was_missed(site: Site) -> None:
    app = site.app({"all": {"task": "tick", "schedule": 1.0, "missed": "all"}, "once": {"task": "tick", "schedule": 1.0}})
    first, second = site.beat(app), site.beat(app)
    first.tick()
    second.tick()
    sent = site.pass_s(second, seconds=6)
    assert second.leads
    assert sorted(names(sent)) == ["all"] * 6 + ["once"]


def test_a_broker_that_is_away_is_asked_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    beat = site.beat(site.app(EVERY))
    beat.tick()
    monkeypatch.setattr(beat._timetable, "fire", _away)
    site.store.advance(10_000)
    with pytest.raises(OperationalError):
        beat.tick()
    monkeypatch.undo()
    beat._lost(OperationalError("away"))
    assert names(site.pass_s(beat, seconds=0)) == ["every"]


def _away(*args: object) -> list[bool]:
    raise OperationalError("away")


# --- what the application says ---


def test_the_application_adds_changes_and_removes_its_entries_when_a_beat_takes_over(site: Site) -> None:
    beat = site.beat(site.app(EVERY))
    beat.tick()
    site.pass_s(beat, seconds=10)
    beat.close()
    newer = site.app({"every": {"task": "tick", "schedule": 10.0, "args": (9,)}, "new": {"task": "tick", "schedule": 60}})
    second = site.beat(newer)
    second.tick()
    entry = newer.schedules.get("every")
    assert (entry.args, entry.runs) == ((9,), 1)
    assert entry.next_run_at is not None
    assert entry.next_run_at.timestamp() == START_S + 20
    assert newer.schedules.get("new").state == "waiting"
    second.close()
    site.beat(site.app({})).tick()
    assert newer.schedules.get("new").state == "new"
    assert site.app({}).schedules.list() == []


def test_entries_of_the_api_stay_when_the_application_goes_on(site: Site) -> None:
    app = site.app(EVERY)
    app.schedules.add("mine", app.tasks["tick"], 60, (1,))
    site.beat(app).tick()
    assert [(entry.name, entry.origin) for entry in app.schedules.list()] == [("every", "app"), ("mine", "api")]


def test_a_change_by_the_api_wins_until_the_code_says_something_else(site: Site) -> None:
    app = site.app(EVERY)
    beat = site.beat(app)
    beat.tick()
    app.schedules.change("every", schedule=30)
    app.schedules.pause("every")
    beat.close()
    again = site.beat(app)
    again.tick()
    entry = app.schedules.get("every")
    assert (entry.schedule, entry.paused) == (schedule(30), True)
    again.close()
    newer = site.app({"every": {"task": "tick", "schedule": 20.0}})
    site.beat(newer).tick()
    entry = newer.schedules.get("every")
    assert (entry.schedule, entry.paused) == (schedule(20), False)


def test_a_store_that_lost_everything_is_filled_again(site: Site) -> None:
    app = site.app(EVERY)
    beat = site.beat(app)
    beat.tick()
    shared: Any = site.store.timetables["site"]
    shared.plans.clear()
    shared.leader = ""
    assert names(site.pass_s(beat, seconds=1)) == []
    assert names(site.pass_s(beat, seconds=10)) == ["every"]


def test_a_wrong_entry_is_said_and_the_others_are_taken_in(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    app = site.app({"wrong": {"task": "tick", "shedule": 3}, "none": {"schedule": 3}, "missing": {"task": "tick"}, **EVERY})
    beat = site.beat(app)
    beat.tick()
    assert "beat_schedule['wrong'] has an unknown key 'shedule'" in caplog.text
    assert "beat_schedule['none']['task'] = None: expected the name of a task" in caplog.text
    assert names(site.pass_s(beat, seconds=10)) == ["every"]
    assert app.schedules.get("wrong").state == "broken"


class Odd(BaseSchedule):
    """A schedule of one's own."""

    def next_after(self, moment: Any) -> Any:
        return schedule(7).next_after(moment)


def test_a_schedule_of_ones_own_is_taken_from_the_application(site: Site) -> None:
    beat = site.beat(site.app({"odd": {"task": "tick", "schedule": Odd()}}))
    beat.tick()
    assert names(site.pass_s(beat, seconds=7)) == ["odd"]


# --- the API ---


def test_entries_are_added_changed_and_removed_while_a_beat_runs(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fastq.beat")
    app = site.app()
    beat = site.beat(app)
    beat.tick()
    entry = app.schedules.add("mine", "tick", 10, (1,), {"b": 2}, queue=site.queue, missed="all")
    assert (entry.task, entry.args, entry.missed, entry.state, entry.origin) == ("tick", (1,), "all", "waiting", "api")
    assert names(site.pass_s(beat, seconds=10)) == ["mine"]
    assert "Scheduler: Sending due task mine (tick)" in caplog.text
    changed = app.schedules.change("mine", schedule=crontab(minute="*/5", tz="Europe/Paris"), args=(2,), queue=None, priority=3)
    assert (changed.args, changed.kwargs, changed.options, changed.runs) == ((2,), {"b": 2}, {"priority": 3}, 1)
    assert names(site.pass_s(beat, seconds=10)) == []
    app.schedules.pause("mine")
    assert names(site.pass_s(beat, seconds=600)) == []
    resumed = app.schedules.resume("mine")
    assert resumed.next_run_at is not None
    assert resumed.next_run_at.timestamp() > START_S + 620
    assert names(site.pass_s(beat, seconds=300)) == ["mine"]
    app.schedules.remove("mine")
    assert names(site.pass_s(beat, seconds=600)) == []
    assert app.schedules.list() == []


def test_an_entry_is_sent_at_once_paused_or_not(site: Site) -> None:
    app = site.app(EVERY)
    app.schedules.pause("every")
    result = app.schedules.run_now("every")
    (message,) = site.sent(site.queue)
    assert message.id == result.id
    assert names([message]) == ["every"]
    assert app.schedules.get("every").runs == 0


def test_what_is_asked_wrongly_is_said(site: Site) -> None:
    app = site.app(EVERY)
    with pytest.raises(ScheduleNotFound, match="Did you mean 'every'"):
        app.schedules.get("evry")
    with pytest.raises(ScheduleNotFound):
        app.schedules.pause("nothing like it")
    with pytest.raises(ScheduleNotFound):
        app.schedules.remove("nothing like it")
    with pytest.raises(ValueError, match="comes from the application's code"):
        app.schedules.remove("every")
    with pytest.raises(ValueError, match="already"):
        app.schedules.add("every", "tick", 1)
    with pytest.raises(TypeError, match="unexpected option 'queeu'"):
        app.schedules.add("x", "tick", 1, queeu="q")
    with pytest.raises(ImproperlyConfigured, match="missed='often'"):
        app.schedules.add("x", "tick", 1, missed="often")  # type: ignore[arg-type]
    with pytest.raises(ImproperlyConfigured, match="task_id"):
        app.schedules.add("x", "tick", 1, task_id="same")
    with pytest.raises((TypeError, ValueError)):
        app.schedules.add("x", "tick", 0)
    assert app.schedules.list()[0].state == "new"
    assert app.schedules.leader() == ""


def test_arguments_that_a_task_does_not_take_are_refused(site: Site) -> None:
    app = site.app()

    @app.task(name="strict")
    def strict(n: int) -> None: ...

    with pytest.raises(TypeError, match="missing a required argument"):
        app.schedules.add("x", strict, 1)


def test_an_entry_serves_json(site: Site) -> None:
    said = site.app(EVERY).schedules.get("every").as_dict()
    assert said["schedule"] == {"type": "interval", "every_s": 10.0}
    assert (said["state"], said["origin"], said["args"]) == ("new", "app", [1])
