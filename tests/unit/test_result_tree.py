"""What hangs together: parents, children, what a task has sent, and what a record says beside its value."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from fastq import FastQ
from fastq.exceptions import IncompleteStream
from fastq.result import AsyncResult, GroupResult
from fastq.result_tree import DependencyGraph, GraphFormatter
from fastq.transports import memory
from tests.unit.result_rig import store


@pytest.fixture
def app(request: pytest.FixtureRequest) -> Iterator[FastQ]:
    with FastQ("proj", broker=f"memory://{request.node.name}", set_as_current=False) as app:
        yield app
    memory.reset(request.node.name)


def family(app: FastQ) -> AsyncResult[Any]:
    """Store a root with two children, of which one is a group, and a grandchild."""
    store(app, "root", 0, meta={"children": [[["a", None], None], [["g", None], [[["b", None], None], [["c", None], None]]]]})
    store(app, "a", 1, meta={"children": [[["d", ["root", None]], None]]})
    for value, id in ((2, "b"), (3, "c"), (4, "d")):
        store(app, id, value)
    return app.AsyncResult("root")


def test_children_are_the_results_of_what_the_task_has_sent(app: FastQ) -> None:
    root = family(app)
    children = root.children
    assert children is not None and [child.id for child in children] == ["a", "g"]
    assert isinstance(children[1], GroupResult) and children[1].get(timeout=5) == [2, 3]
    assert children[0].children == [app.AsyncResult("d")]
    assert app.AsyncResult("b").children is None and app.AsyncResult("unknown").children is None
    assert app.backend.get_children("root") == children


def test_collect_gives_everything_below_the_nearest_first(app: FastQ) -> None:
    root = family(app)
    assert [(node.id, value) for node, value in root.collect(timeout=5)] == [
        ("root", 0), ("a", 1), ("g", [2, 3]), ("d", 4), ("b", 2), ("c", 3),
    ]  # fmt: skip
    assert [(parent and parent.id, node.id) for parent, node in root.iterdeps()] == [
        (None, "root"), ("root", "a"), ("root", "g"), ("a", "d"), ("g", "b"), ("g", "c"),
    ]  # fmt: skip
    assert root.get_leaf() == 3


def test_a_walk_ends_at_what_has_not_ended_unless_that_is_asked_for(app: FastQ) -> None:
    store(app, "root", 0, meta={"children": [[["late", None], None]]})
    root = app.AsyncResult("root")
    with pytest.raises(IncompleteStream, match="late"):
        list(root.iterdeps())
    assert [node.id for _, node in root.iterdeps(intermediate=True)] == ["root", "late"]


def test_the_graph_holds_every_result_once(app: FastQ) -> None:
    graph = family(app).graph
    assert [node.id for node in graph] == ["root", "a", "g", "d", "b", "c"]
    assert len(graph) == 6 and app.AsyncResult("d") in graph
    assert [child.id for child in graph[app.AsyncResult("root")]] == ["a", "g"]
    assert [node.id for node in graph.edges()] == ["root", "a", "g"]
    order = [node.id for node in graph.topsort()]
    assert all(order.index(child.id) < order.index(node.id) for node, children in graph.items() for child in children)
    assert graph.valency_of(app.AsyncResult("root")) == 5
    out = io.StringIO()
    graph.to_dot(out)
    assert '"root" -> "g"' in out.getvalue() and '"d" [label="d SUCCESS"' in out.getvalue() and 'style="bold"' in out.getvalue()
    assert "root(a, g)" in repr(graph)


def test_a_graph_may_have_cycles_and_odd_names() -> None:
    graph = DependencyGraph(GraphFormatter(name="odd"))
    graph.add_edge('a"b', "c\\d")
    graph.add_edge("c\\d", 'a"b')
    graph.add_edge("c\\d", 'a"b')
    assert graph["c\\d"] == ['a"b'] and graph.valency_of('a"b') == 2 and len(graph.topsort()) == 2
    out = io.StringIO()
    graph.to_dot(out)
    assert '"a\\"b" -> "c\\\\d"' in out.getvalue()


def test_the_parent_is_kept_and_forgotten_with_the_result(app: FastQ) -> None:
    app.set_current()
    store(app, "p", 1)
    store(app, "a", 2)
    result: AsyncResult[int] = AsyncResult("a", app, parent=app.AsyncResult("p"))
    assert result.parent is not None and result.parent.get(timeout=5) == 1
    for again in (copy.copy(result), pickle.loads(pickle.dumps(result))):
        assert again == result and again.parent == result.parent
    late = app.AsyncResult("late")
    assert late.parent is None
    late.parent = result
    assert late.as_list() == ["late", "a", "p"]
    result.forget()
    assert not app.AsyncResult("a").exists() and not app.AsyncResult("p").exists()


def test_result_extended_says_what_the_task_was(app: FastQ) -> None:
    meta = {"name": "add", "args": [1, 2], "kwargs": {"k": 3}, "worker": "w@h", "retries": 1, "queue": "q", "parent_id": "p"}
    store(app, "a", 5, meta=meta)
    result = app.AsyncResult("a")
    assert (result.name, result.args, result.kwargs, result.worker, result.retries, result.queue) == (
        "add", [1, 2], {"k": 3}, "w@h", 1, "q",
    )  # fmt: skip
    found = app.backend.get_task_meta("a")
    assert found["result"] == 5 and found["name"] == "add" and found["parent_id"] == "p" and found["children"] == []
    store(app, "b", 5)
    plain = app.AsyncResult("b")
    assert (plain.name, plain.args, plain.kwargs, plain.worker, plain.retries, plain.queue) == (None,) * 6
    assert set(app.backend.get_task_meta("b")) == {"status", "result", "traceback", "date_done", "children", "task_id"}
