"""The laws of workflows that users of Celery rely on, each through a real worker, on Redis and on SQLite."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastq import AsyncResult, GroupResult, chain, chord, group, signature
from fastq.exceptions import ChordError, TaskRevokedError
from tests.canvas_site import Site, deploy
from tests.servers import RedisServer
from tests.workers import eventually

TASKS = '''

import threading

from fastq import chain, group


@app.task(name="add")
def add(x, y=0):
    return x + y


@app.task(name="total")
def total(numbers):
    note("total", [len(numbers)])
    return sum(numbers)


@app.task(name="mark")
def mark(*args):
    note("mark", args)
    return args[-1]


@app.task(name="broken")
def broken(*args):
    note("broken", args[-1:])
    raise ValueError("broken")


@app.task(name="told_new")
def told_new(request, exc, traceback):
    note("told_new", [request.id, type(exc).__name__])


@app.task(name="told_old")
def told_old(task_id):
    note("told_old", [task_id])


@app.task(name="becomes", bind=True)
def becomes(self, *args):
    raise self.replace(signature(args[-1], app=app))


@app.task(name="grows", bind=True)
def grows(self, n):
    if n:
        self.add_to_chord(grows.s(n - 1))
    return n


@app.task(name="where", bind=True)
def where(self, *args):
    note("where", [self.request.delivery_info["priority"]])
    return self.request.id


@app.task(name="sends", bind=True)
def sends(self, n):
    for i in range(n):
        add.delay(i, i)
    return n


@app.task(name="family", bind=True)
def family(self, *args):
    r = self.request
    return [r.root_id, r.parent_id, r.id]
'''


@pytest.fixture(scope="module", params=["redis", "sqlite"])
def site(request: pytest.FixtureRequest, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One worker for all laws; it takes from two queues."""
    directory = tmp_path_factory.mktemp(request.param)
    url = f"sqlite:///{directory / 'fastq.db'}"
    if request.param == "redis":
        with redis_server.client() as client:
            client.flushall()
        url = redis_server.url
    arguments = ("-P", "prefork", "-c", "2", "-l", "INFO", "-Q", "default,other")
    with deploy(directory, url, more=TASKS) as site, site.worker(*arguments).wait_ready():
        yield site


def ran(site: Site, name: str, args: list[Any] | None = None) -> list[list[Any]]:
    """Return the arguments of every run of a task; ``args``: only of those with these."""
    return [run.args for run in site.runs() if run.name == name and args in (None, run.args)]


def await_runs(site: Site, name: str, args: list[Any], n: int = 1) -> None:
    """Wait for runs of a task; AssertionError if, once the broker is empty, there are not exactly ``n``."""
    eventually(lambda: len(ran(site, name, args)) >= n, f"{n} runs of {name}{args}")
    site.wait_idle()
    assert len(ran(site, name, args)) == n


_numbers = itertools.count(1)


def unique(prefix: str) -> str:
    """Return an argument by which the runs of one test are told from those of others."""
    return f"{prefix}-{next(_numbers)}"


Make = Callable[[Any], Any]

#: what is sent and what it gives; ``t`` is the application module
VALUES: dict[str, tuple[Make, Any]] = {
    "a chain hands each result on": (lambda t: t.add.s(1, 1) | t.add.s(10) | t.add.s(100), 112),
    "an immutable step gets nothing": (lambda t: t.add.s(1, 1) | t.add.si(5, 5) | t.add.s(1), 11),
    "a group in a chain is joined by what follows": (
        lambda t: chain(t.add.s(1, 1), group(t.add.s(10), t.add.s(20)), t.total.s()), 34,
    ),
    "a group before a task is a chord": (lambda t: group(t.add.s(i, i) for i in range(10)) | t.total.s(), 90),
    "a group after a group gets the list": (
        lambda t: group(t.add.s(1, 1), t.add.s(2, 2)) | group(t.total.s(), t.total.s()), [6, 6],
    ),
    "three groups in a row": (
        lambda t: group(t.add.s(1), t.add.s(2)) | group(t.total.s(), t.total.s()) | group(t.total.s(), t.total.s()),
        [6, 6],
    ),
    "a group at the end of a chain is a list": (lambda t: t.add.s(1, 1) | group(t.add.s(1), t.add.s(2)), [3, 4]),
    "a group of one in a chain is its task": (lambda t: chain(group(t.add.s(1, 1)), t.add.s(1)), 3),
    "a chord of one gives a list": (lambda t: chord([t.add.s(1, 1)], t.total.s()), 2),
    "a chord of none calls its body": (lambda t: chord([], t.total.s()), 0),
    "a chord has a chain as its body": (lambda t: chord([t.add.s(1, 1), t.add.s(2, 2)], t.total.s() | t.add.s(1)), 7),
    "a chord has a group as its body": (lambda t: chord([t.add.s(1), t.add.s(2)], group(t.total.s(), t.total.s())), [3, 3]),
    "a chord with a task behind it": (lambda t: chord([t.add.s(1), t.add.s(2)], t.total.s()) | t.add.s(10), 13),
    "a chord behind a task gets its result in each member": (
        lambda t: t.add.s(1, 1) | chord([t.add.s(10), t.add.s(20)], t.total.s()), 34,
    ),
    "chains in a group": (lambda t: group(t.add.s(1) | t.add.s(1), t.add.s(2) | t.add.s(2)), [2, 4]),
    "groups in a group are taken apart": (lambda t: group(group(t.add.s(1), t.add.s(2)), t.add.s(3)), [1, 2, 3]),
    "a chain that ends in a group is one member": (
        lambda t: chord([t.add.s(1) | group(t.add.s(1), t.add.s(2)), t.add.s(7)], signature("fastq.accumulate")), [[2, 3], 7],
    ),
    "chord in chain in group in chord": (
        lambda t: chord(
            [group(t.add.s(1) | chord([t.add.s(1), t.add.s(2)], t.total.s()) | t.add.s(100), t.add.s(1000)), t.add.s(10_000)],
            t.total.s(),
        ),
        11_105,
    ),
    "a map calls one after the other": (lambda t: t.add.map([1, 2, 3]), [1, 2, 3]),
    "a starmap spreads its items": (lambda t: t.add.starmap([(1, 1), (2, 2)]), [2, 4]),
    "chunks are a list of lists": (lambda t: t.add.chunks([(i, i) for i in range(5)], 2), [[0, 2], [4, 6], [8]]),
    "chunks before a task are its header": (
        lambda t: t.add.chunks([(1, 1), (2, 2)], 1).group() | signature("fastq.accumulate"), [[2], [4]],
    ),
    "a map in a chain gets nothing": (lambda t: t.add.s(1, 1) | t.add.map([5, 6]) | t.total.s(), 11),
    "a task becomes another": (lambda t: t.becomes.s(t.add.s(1, 1)), 2),
    "a task becomes a chain": (lambda t: t.becomes.s(t.add.s(1, 1) | t.add.s(10)), 12),
    "a task becomes a group, and that a list": (lambda t: t.becomes.s(group(t.add.s(1), t.add.s(2))), [1, 2]),
    "a task becomes a chain that ends in a group": (lambda t: t.becomes.s(t.add.s(1) | group(t.add.s(1), t.add.s(2))), [2, 3]),
    "a task becomes a chord whose body is a group": (
        lambda t: t.becomes.s(chord([t.add.s(1), t.add.s(2)], group(t.total.s(), t.total.s()))), [3, 3],
    ),
    "what a step of a chain becomes is followed by the rest": (
        lambda t: t.add.s(1, 1) | t.becomes.s(group(t.add.s(1), t.add.s(2))) | t.total.s() | t.add.s(10), 13,
    ),
    "what a member of a chord becomes is its member": (
        lambda t: chord([t.becomes.s(chord([t.add.s(1), t.add.s(2)], t.total.s())), t.add.s(10)], t.total.s()), 13,
    ),
    "what the body of a chord becomes is its result": (lambda t: chord([t.add.s(1)], t.becomes.s(t.add.s(5, 5))), 10),
    "a member adds members to its chord": (lambda t: chord([t.grows.s(3), t.add.s(100)], t.total.s()), 106),
    "maps are members of a chord": (
        lambda t: group(t.add.map([1, 2]), t.add.map([3])) | signature("fastq.accumulate"), [[1, 2], [3]],
    ),
}


@pytest.mark.parametrize("law", VALUES)
def test_a_canvas_gives_its_value(law: str, site: Site) -> None:
    make, value = VALUES[law]
    assert make(site.module).apply_async().get(timeout=30) == value


@pytest.mark.parametrize("law", VALUES)
def test_a_canvas_from_json_gives_the_same(law: str, site: Site) -> None:
    make, value = VALUES[law]
    again = signature(json.loads(json.dumps(make(site.module))), app=site.app)
    assert again.apply_async().get(timeout=30) == value


def test_chords_nest_four_deep(site: Site) -> None:
    t = site.module
    sig = chord([t.add.s(1), t.add.s(2)], t.total.s())
    for _ in range(3):
        sig = chord([sig, sig.clone(), t.add.s(1)], t.total.s())
    assert sig.apply_async().get(timeout=30) == 31


def test_a_chord_of_a_thousand(site: Site) -> None:
    t = site.module
    result = chord((t.add.s(i, 1) for i in range(1000)), t.total.s())()
    assert result.get(timeout=60) == sum(range(1001))
    assert len(result.parent) == 1000 and result.parent.successful()
    site.wait_idle()
    assert len(ran(site, "total", [1000])) == 1


def test_partial_arguments_go_to_what_runs_first(site: Site) -> None:
    t = site.module
    assert (t.add.s(1) | t.add.s(1)).delay(10).get(timeout=30) == 12
    assert group(t.add.s(1), t.add.s(2)).delay(10).get(timeout=30) == [11, 12]
    assert chord([t.add.s(1), t.add.s(2)], t.total.s()).delay(10).get(timeout=30) == 23


def test_ids_are_known_before_anything_is_sent(site: Site) -> None:
    t = site.module
    last = t.family.s()
    sig = chain(t.add.s(1, 1), group(t.add.s(1), t.add.s(2)), last)
    frozen = sig.freeze()
    ids = [frozen.id, *(r.id for r in frozen.parent.results), frozen.parent.parent.id]
    result = sig.apply_async()
    assert [result.id, *(r.id for r in result.parent.results), result.parent.parent.id] == ids
    root, _, own = result.get(timeout=30)
    assert (root, own) == (ids[-1], ids[0])
    assert [AsyncResult(id, app=site.app).get(timeout=30) for id in ids[1:]] == [3, 4, 2]


# --- failures ---


def test_a_failing_step_stops_the_chain_and_marks_what_was_to_come(site: Site) -> None:
    t, name = site.module, unique("stop")
    result = chain(t.add.s(1, 1), t.broken.s(name), t.mark.s(name), t.mark.s(name)).on_error(t.told_new.s()).apply_async()
    for step in (result, result.parent, result.parent.parent):
        with pytest.raises(ValueError, match="broken"):
            step.get(timeout=30)
        assert step.state == "FAILURE"
    assert result.parent.parent.parent.get(timeout=30) == 2
    await_runs(site, "told_new", [result.parent.parent.id, "ValueError"])
    assert not ran(site, "mark", [2, name]) and len(ran(site, "broken", [name])) == 1


def test_a_failing_member_fails_the_body_and_its_errbacks_are_called_once(site: Site) -> None:
    t, name = site.module, unique("header")
    body = t.mark.s(name).on_error(t.told_new.s()).on_error(t.told_old.s())
    result = chord([t.add.s(1, 1), t.broken.s(name), t.broken.s(name)], body)()
    with pytest.raises(ChordError, match=r"Dependency \S+ raised ValueError\('broken'\)"):
        result.get(timeout=30, follow_parents=False)
    await_runs(site, "told_new", [result.id, "ChordError"])
    await_runs(site, "told_old", [result.id])
    assert result.parent.results[0].get(timeout=30) == 2, "the others keep their results"
    assert [r.state for r in result.parent.results] == ["SUCCESS", "FAILURE", "FAILURE"]
    assert not ran(site, "mark", [[2], name])


def test_a_failing_body_calls_its_errbacks_once(site: Site) -> None:
    t, name = site.module, unique("body")
    result = chord([t.add.s(1, 1)], t.broken.s(name).on_error(t.told_new.s()).on_error(t.told_old.s()))()
    with pytest.raises(ValueError, match="broken"):
        result.get(timeout=30)
    await_runs(site, "told_new", [result.id, "ValueError"])
    await_runs(site, "told_old", [result.id])


def test_an_inner_chord_that_fails_fails_the_outer_one(site: Site) -> None:
    t, name = site.module, unique("inner")
    inner = chord([t.broken.s(name), t.add.s(1)], t.total.s())
    result = chord([inner, t.add.s(1)], t.total.s().on_error(t.told_old.s()))()
    with pytest.raises(ChordError, match=r"raised ChordError\("):
        result.get(timeout=30, follow_parents=False)
    await_runs(site, "told_old", [result.id])


def test_a_chain_behind_a_failed_chord_ends_the_same(site: Site) -> None:
    t, name = site.module, unique("behind")
    result = chain(group(t.broken.s(name), t.add.s(1)), t.total.s(), t.add.s(1), t.mark.s(name)).apply_async()
    for step in (result, result.parent, result.parent.parent):
        with pytest.raises(ChordError):
            step.get(timeout=30, follow_parents=False)


def test_members_that_expired_fail_the_body(site: Site) -> None:
    t = site.module
    result = chord([t.add.s(1), t.add.s(2).set(expires=0.001, countdown=0.1)], t.total.s())()
    with pytest.raises(ChordError, match="TaskRevokedError"):
        result.get(timeout=30, follow_parents=False)


# --- links ---

COMPOSITES: dict[str, tuple[Make, Any]] = {
    "task": (lambda t: t.add.s(1, 1), 2),
    "chain": (lambda t: t.add.s(1, 1) | t.add.s(1), 3),
    "chain that ends in a group": (lambda t: t.add.s(1, 1) | group(t.add.s(1), t.add.s(2)), [3, 4]),
    "chord": (lambda t: chord([t.add.s(1), t.add.s(2)], t.total.s()), 3),
    "chord whose body is a chain": (lambda t: chord([t.add.s(1), t.add.s(2)], t.total.s() | t.add.s(1)), 4),
    "map": (lambda t: t.add.map([1, 2]), [1, 2]),
    "what becomes a chord": (lambda t: t.becomes.s(chord([t.add.s(1), t.add.s(2)], t.total.s())), 3),
    "what becomes a group": (lambda t: t.becomes.s(group(t.add.s(1), t.add.s(2))), [1, 2]),
}


@pytest.mark.parametrize("kind", COMPOSITES)
def test_what_is_linked_is_called_once_with_the_result(kind: str, site: Site) -> None:
    make, value = COMPOSITES[kind]
    t, name = site.module, unique("link")
    sig = make(t)
    sig.link(t.mark.s(name))
    sig.apply_async()
    await_runs(site, "mark", [value, name])


@pytest.mark.parametrize("kind", COMPOSITES)
def test_what_is_linked_when_sending_is_called_once_with_the_result(kind: str, site: Site) -> None:
    make, value = COMPOSITES[kind]
    name = unique("option")
    make(site.module).apply_async(link=site.module.mark.s(name))
    await_runs(site, "mark", [value, name])


def test_what_is_linked_to_a_group_is_called_once_after_all_of_it(site: Site) -> None:
    t, name = site.module, unique("group")
    sig = group(t.add.s(1), t.mark.s(name + "a"), t.mark.s(name + "b"))
    sig.link(t.mark.s(name))
    assert sig.apply_async().get(timeout=30) == [1, name + "a", name + "b"]
    await_runs(site, "mark", [name])
    order = [run.args[-1] for run in site.runs() if run.name == "mark" and str(run.args[-1]).startswith(name)]
    assert order[-1] == name


def test_a_workflow_is_linked_to_a_task(site: Site) -> None:
    t, name = site.module, unique("workflow")
    t.add.apply_async((1, 1), link=chord([t.add.s(10), t.add.s(20)], t.total.s() | t.mark.s(name)))
    await_runs(site, "mark", [34, name])


# --- options ---


def test_each_step_has_its_own_queue_and_priority(site: Site) -> None:
    t, name = site.module, unique("queue")
    first, last = t.where.s(name).set(queue="other", priority=7), t.where.s(name).set(priority=3)
    ids = chord([first, t.where.s(name)], t.where.s().set(queue="other", priority=5))()
    body = ids.get(timeout=30)
    linked = chain(t.where.s(name), t.where.s().set(queue="other", priority=9, link=last))()
    linked.get(timeout=30)
    eventually(lambda: any(run.args == [3] for run in site.runs() if run.name == "where"), "the callback")
    seen = {run.id: (run.queue, run.args[0]) for run in site.runs() if run.name == "where"}
    assert [seen[r.id] for r in ids.parent.results] == [("other", 7), ("default", 0)]
    assert seen[body] == ("other", 5) and seen[linked.id] == ("other", 9)
    assert ("default", 3) in seen.values()


def test_a_countdown_counts_from_the_end_of_the_step_before(site: Site) -> None:
    t = site.module
    began = time.monotonic()
    assert chain(t.add.s(1, 1), t.add.s(1).set(countdown=0.3), t.add.s(1)).apply_async().get(timeout=30) == 4
    assert time.monotonic() - began >= 0.3


def test_a_later_step_that_expires_is_revoked_and_what_follows_ends_the_same(site: Site) -> None:
    t, name = site.module, unique("expires")
    result = chain(t.add.s(1, 1), t.mark.s(name).set(countdown=0.1, expires=0.01), t.add.s(1)).apply_async()
    for step in (result, result.parent):
        with pytest.raises(TaskRevokedError):
            step.get(timeout=30)
        assert step.state == "REVOKED"
    assert not ran(site, "mark", [2, name])


def test_parents_and_roots_are_told(site: Site) -> None:
    t = site.module
    result = chain(t.family.s(), t.family.s(), t.family.s()).apply_async()
    assert result.get(timeout=30) == [result.parent.parent.id, result.parent.id, result.id]


# --- results ---


def test_a_group_result_is_saved_and_restored(site: Site) -> None:
    t = site.module
    result = group(t.add.s(1), t.add.s(2)).apply_async()
    result.save()
    again = GroupResult.restore(result.id, app=site.app)
    assert again is not None and again.id == result.id and again.get(timeout=30) == [1, 2]
    again.delete()
    assert GroupResult.restore(result.id, app=site.app) is None


def test_children_lead_through_a_workflow(site: Site) -> None:
    t = site.module
    result = t.add.apply_async((1, 1), link=[t.add.s(10) | t.add.s(100), group(t.add.s(1), t.add.s(2))])
    result.get(timeout=30)
    site.wait_idle()
    assert sorted(value for node, value in result.collect() if not isinstance(node, GroupResult)) == [2, 3, 4, 12, 112]


def test_children_are_what_a_task_has_sent(site: Site) -> None:
    result = site.module.sends.delay(3)
    assert result.get(timeout=30) == 3
    again = AsyncResult(result.id, app=site.app)
    assert sorted(child.get(timeout=30) for child in again.children) == [0, 2, 4]


# --- results elsewhere ---


@pytest.mark.parametrize("backend", ["none", "sqlite", "other database"])
@pytest.mark.parametrize("broker", ["redis", "sqlite"])
def test_a_workflow_needs_no_results_where_the_broker_is(broker: str, backend: str, redis_url: str, tmp_path: Path) -> None:
    url = redis_url if broker == "redis" else f"sqlite:///{tmp_path / 'broker.db'}"
    where = {"none": "", "sqlite": f"sqlite:///{tmp_path / 'results.db'}", "other database": redis_url.replace("/0", "/2")}[backend]
    with (
        deploy(tmp_path, url, where, more=TASKS) as site,
        site.worker("-P", "threads", "-c", "4", "-l", "INFO").wait_ready() as worker,
    ):
        t = site.module
        header = [t.add.s(i, 1) | t.add.s(1) for i in range(20)]
        last = t.total.s().set(link=t.mark.s("end"))
        result = chain(group(header), t.total.s(), group(t.add.s(1), t.add.s(2)), last).apply_async()
        await_runs(site, "mark", [463, "end"])
        assert [run.args for run in site.runs() if run.name == "total"] == [[20], [2]]
        failing = chord([t.add.s(1), t.broken.s("x")], t.total.s().on_error(t.told_new.s()))()
        await_runs(site, "told_new", [failing.id, "ChordError"])
        if backend != "none":
            assert result.get(timeout=30) == 463
            with pytest.raises(ChordError):
                failing.get(timeout=30, follow_parents=False)
        assert worker.terminate() == 0, worker.log


@pytest.mark.parametrize("broker", ["redis", "sqlite"])
def test_extended_results_tell_each_step_apart(broker: str, redis_url: str, tmp_path: Path) -> None:
    url = redis_url if broker == "redis" else f"sqlite:///{tmp_path / 'broker.db'}"
    more = TASKS + "\n\napp.conf.result_extended = True\n"
    with deploy(tmp_path, url, more=more) as site, site.worker("-P", "threads", "-c", "2", "-l", "INFO").wait_ready():
        t = site.module
        result = chain(group(t.add.s(1), t.add.s(2, y=5)), t.total.s(), t.add.s(1).set(queue="default")).apply_async()
        assert result.get(timeout=30) == 9
        chord_body = result.parent
        assert [(r.name, list(r.args), r.kwargs) for r in chord_body.parent.results] == [("add", [1], {}), ("add", [2], {"y": 5})]
        assert (chord_body.name, list(chord_body.args), chord_body.queue) == ("total", [[1, 7]], "default")
        assert (result.name, list(result.args), result.retries) == ("add", [8, 1], 0)
        assert result.worker
