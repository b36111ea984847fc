"""Groups of results: their names as tuples, and how they are kept."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastq import FastQ
from fastq.result import AsyncResult, GroupResult, ResultSet, result_from_tuple
from fastq.transports import memory
from tests.servers import RedisServer
from tests.unit.result_rig import store


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


def nested(app: FastQ) -> GroupResult[Any]:
    first = app.AsyncResult("first")
    inner: Any = GroupResult("inner", [app.AsyncResult("x")], app=app)
    return GroupResult("g", [AsyncResult("a", app, parent=first), inner, app.AsyncResult("b")], parent=first, app=app)


def test_a_saved_group_is_restored_with_its_members_parents_and_order(app: FastQ) -> None:
    group = nested(app)
    assert GroupResult.restore("g", app=app) is None
    group.save()
    again = GroupResult.restore("g", app=app)
    assert again is not None and again == group and again.as_tuple() == group.as_tuple()
    assert app.backend.restore_group("g") == group
    meta = app.backend.get_group_meta("g")
    assert meta is not None and meta["result"] == group and meta["task_id"] == "g" and meta["date_done"]
    for id in ("a", "x", "b"):
        store(app, id, id)
    assert again.get(timeout=5) == ["a", ["x"], "b"]
    bound = GroupResult.bound(app)
    assert bound.restore("g") == group and bound("g", []).app is app and bound.__name__ == "GroupResult"
    group.delete()
    assert GroupResult.restore("g", app=app) is None and app.backend.get_group_meta("g") is None
    assert app.AsyncResult("a").get(timeout=5) == "a", "the results themselves stay"


def test_a_saved_group_is_no_result_of_a_task_and_a_result_no_group(app: FastQ) -> None:
    GroupResult("g", [app.AsyncResult("a")], app=app).save()
    assert app.AsyncResult("g").state == "PENDING" and not app.AsyncResult("g").exists()
    assert not app.AsyncResult("taskset:g").ready()
    store(app, "g", "the task's own")
    assert app.AsyncResult("g").get(timeout=5) == "the task's own"
    saved = GroupResult.restore("g", app=app)
    assert saved is not None and saved.results == [app.AsyncResult("a")]
    store(app, "taskset:odd", 1)
    assert GroupResult.restore("odd", app=app) is None


def test_saving_again_replaces(app: FastQ) -> None:
    group: GroupResult[Any] = GroupResult("g", [app.AsyncResult("a")], app=app)
    group.save()
    group.add(app.AsyncResult("b"))
    group.save()
    assert (again := GroupResult.restore("g", app=app)) is not None and len(again) == 2


@pytest.mark.parametrize("app", ["memory"], indirect=True)
def test_tuples_have_celerys_shape_and_make_the_same_results(app: FastQ) -> None:
    group = nested(app)
    assert group.as_tuple() == (
        ("g", (("first", None), None)),
        [(("a", (("first", None), None)), None), (("inner", None), [(("x", None), None)]), (("b", None), None)],
    )
    assert result_from_tuple(group.as_tuple(), app) == group
    through_json = result_from_tuple(json.loads(json.dumps(group.as_tuple())), app)
    assert through_json == group and through_json.parent.id == "first" and through_json[0].parent.id == "first"
    single = AsyncResult("c", app, parent=group)
    assert single.as_tuple() == (("c", group.as_tuple()), None)
    back = result_from_tuple(single.as_tuple(), app)
    assert back == single and isinstance(back.parent, GroupResult) and back.app is app
    assert result_from_tuple(single, app) is single and result_from_tuple("c", app) == single
    assert result_from_tuple((("c", None), None), app).parent is None and result_from_tuple(["c", None], app).id == "c"
    assert single.as_list() == ["c", "g", "a", "first", "inner", "x", "b"]
    for odd in (None, 3, (), ("a", "b", "c"), ((1, 2, 3), None)):
        with pytest.raises(ValueError, match="does not describe a result"):
            result_from_tuple(odd, app)


@pytest.mark.parametrize("app", ["memory"], indirect=True)
def test_a_group_is_true_when_it_has_an_id_or_members(app: FastQ) -> None:
    assert not GroupResult() and GroupResult("g") and GroupResult(None, [app.AsyncResult("a")])
    assert GroupResult("g", app=app).get() == [] and GroupResult("g", app=app).successful()
    with pytest.raises(ValueError, match="no id"):
        GroupResult(app=app).save()
    group: GroupResult[Any] = GroupResult("g", [app.AsyncResult("a"), app.AsyncResult("b")], app=app)
    assert repr(group) == "<GroupResult: g [a, b]>" and str(group) == "g" and group == "g"
    assert group.children == group.results and group != GroupResult("g", app=app) and group == ResultSet(group, app)
    assert group.backend is app.backend
