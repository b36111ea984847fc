"""Which queue a task goes to."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastq.config import Settings
from fastq.exceptions import ImproperlyConfigured
from fastq.queues import Broadcast, Exchange, Queue, matches, queue_of, worker_direct
from fastq.routes import Router


def router(**keywords: Any) -> Router:
    audience = keywords.pop("audience", None)
    return Router(Settings(keywords, environ={}), audience=audience)


def queue(routes: Any, name: str, **options: Any) -> Any:
    return router(task_routes=routes).route(name, options=options)["queue"]


def test_without_routes_every_task_goes_to_the_default_queue() -> None:
    assert router().route("tasks.add") == {"queue": "default"}
    assert router(task_default_queue="main").route("tasks.add", options={"queue": None, "priority": 3}) == {
        "queue": "main",
        "priority": 3,
    }


def test_the_call_wins_over_the_route_and_that_over_the_default() -> None:
    routes = {"tasks.add": {"queue": "routed", "priority": 5, "serializer": None}}
    assert queue(routes, "tasks.add", queue="called") == "called"
    assert router(task_routes=routes).route("tasks.add", options={"queue": None}) == {"queue": "routed", "priority": 5}
    assert router(task_routes=routes).route("tasks.add", options={"priority": 1}) == {"queue": "routed", "priority": 1}
    assert router(task_routes=routes).route("tasks.other") == {"queue": "default"}


def test_a_route_is_options_or_a_name_or_a_queue() -> None:
    for route in (
        "hi",
        {"queue": "hi"},
        {"queue": Queue("hi")},
        Queue("hi"),
        SimpleNamespace(name="hi", routing_key="", exchange=None),
    ):
        assert queue({"tasks.add": route}, "tasks.add") == "hi"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("feed.tasks.import_feed", "exact"),
        ("feed.tasks.other", "feeds"),
        ("web.tasks.get", "web"),
        ("video.tasks.encode", "media"),
        ("image.tasks.scale", "media"),
        ("xfeed.tasks.other", "default"),
        ("web.tasks.get.more", "default"),
    ],
)
def test_names_globs_and_patterns_match_in_order(name: str, expected: str) -> None:
    pairs = [
        ("feed.tasks.*", {"queue": "feeds"}),
        ("feed.tasks.import_feed", "exact"),
        ("web.tasks.?et", "web"),
        (re.compile(r"(video|image)\.tasks\..*"), "media"),
        ("video.*", "never"),
    ]
    for routes in (dict(pairs), pairs, (pairs,), [dict(pairs[:2]), dict(pairs[2:])]):
        assert queue(routes, name) == expected


def test_a_glob_matches_the_whole_name() -> None:
    assert queue({"*.add": "q"}, "tasks.add") == "q"
    assert queue({"*.add": "q"}, "tasks.address") == "default"


def by_argument(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **kw: Any) -> Any:
    if name == "tasks.feed":
        return {"queue": f"feed{args[0] % 2}", "priority": kwargs.get("n", 0)}
    return "odd" if name == "tasks.odd" else None


class ByClass:
    def __call__(self, name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **kw: Any) -> Any:
        return "class" if task == "the task" and options.get("priority") == 2 else None


class OldStyle:
    def route_for_task(self, task: str, args: Any = None, kwargs: Any = None) -> Any:
        return {"queue": "old"} if task == "tasks.old" else None


def test_routers_are_asked_in_order_with_what_is_sent() -> None:
    routes = router(task_routes=(by_argument, ByClass(), OldStyle, {"tasks.*": "rest"}))
    assert routes.dynamic
    assert routes.route("tasks.feed", (3,), {"n": 7}) == {"queue": "feed1", "priority": 7}
    assert routes.route("tasks.odd")["queue"] == "odd"
    assert routes.route("tasks.x", options={"priority": 2}, task="the task")["queue"] == "class"
    assert routes.route("tasks.old")["queue"] == "old"
    assert routes.route("tasks.x")["queue"] == "rest"
    assert not router(task_routes={"a": "b"}).dynamic


def test_a_router_can_be_named() -> None:
    for routes in (f"{__name__}:by_argument", f"{__name__}.by_argument", [f"{__name__}.ByClass", f"{__name__}.by_argument"]):
        assert queue(routes, "tasks.odd") == "odd"
    with pytest.raises(ImproperlyConfigured, match="no module 'nowhere'"):
        router(task_routes="nowhere.route")


@pytest.mark.parametrize(
    ("routes", "text"),
    [
        ({"a": 3}, r"task_routes\['a'\] gives 3: expected a queue's name"),
        ({3: "a"}, "3 is no name, glob or compiled pattern"),
        ([["a", "b", "c"]], "is no list of pairs"),
        (5, "task_routes = 5 from .*: expected a mapping of task names"),
        ([5], "5 is no mapping, router function"),
    ],
)
def test_a_wrong_route_is_named_before_anything_is_sent(routes: Any, text: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=text):
        router(task_routes=routes)


def test_what_a_router_gives_is_checked() -> None:
    def wrong(name: str, args: Any, kwargs: Any, options: Any, task: Any = None) -> Any:
        return 3

    with pytest.raises(ImproperlyConfigured, match=r"wrong.* gives 3: expected a queue's name"):
        router(task_routes=wrong).route("tasks.add")


# --- queues and exchanges ---

QUEUES = (
    Queue("default", Exchange("tasks", "topic"), "task.#"),
    Queue("feed", Exchange("tasks", "topic"), "*.feed.#"),
    Queue("media", Exchange("media"), "media.video"),
    Queue("images", Exchange("media"), "media.image"),
    Queue("left", Exchange("both", "fanout")),
    Queue("right", Exchange("both", "fanout")),
)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "default"),
        ({"queue": "feed", "routing_key": "anything"}, "feed"),
        ({"exchange": "media", "routing_key": "media.image"}, "images"),
        ({"exchange": Exchange("media"), "routing_key": "media.video"}, "media"),
        ({"routing_key": "media.image"}, "images"),
        ({"exchange": "tasks", "routing_key": "task.x.y"}, "default"),
        ({"exchange": "tasks", "routing_key": "web.feed"}, "feed"),
        ({"exchange": "tasks", "routing_key": "task.feed.import"}, ["default", "feed"]),
        ({"exchange": "both"}, ["left", "right"]),
        ({"exchange": "both", "routing_key": "whatever"}, ["left", "right"]),
        ({"queue": "left"}, ["left", "right"]),
        ({"exchange": "", "routing_key": "media"}, "media"),
        ({"routing_key": "nobody.takes"}, "default"),
        ({"exchange": "made", "routing_key": "made"}, "made"),
        ({"exchange": "made"}, "made"),
    ],
)
def test_exchange_and_key_are_resolved_to_queues(options: dict[str, Any], expected: Any) -> None:
    found = router(task_queues=QUEUES).route("t", options={**options, "delivery_mode": 2, "countdown": 1})
    assert found == {("queues" if isinstance(expected, list) else "queue"): expected, "countdown": 1}


def test_the_place_of_a_call_is_not_mixed_with_that_of_a_route() -> None:
    routes = router(task_queues=QUEUES, task_routes={"t": {"queue": "feed", "priority": 4}})
    assert routes.route("t", options={"exchange": "media", "routing_key": "media.image"}) == {"queue": "images", "priority": 4}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"exchange": "medai", "routing_key": "x"}, r"'medai', which no queue is bound to \(did you mean 'media'\?\)"),
        ({"exchange": "media", "routing_key": "media.sound"}, r"none of its queues takes: media \(media.video\), images"),
        ({"queue": 3}, "no queue"),
    ],
)
def test_what_would_be_lost_is_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=text):
        router(task_queues=QUEUES).route("t", options=options)


def test_queues_may_be_a_mapping_or_names() -> None:
    routes = router(
        task_queues={
            "feed": {"exchange": "tasks", "exchange_type": "topic", "binding_key": "feed.#"},
            "plain": None,
            "limited": {"queue_arguments": {"x-max-priority": 10}, "durable": False},
        }
    )
    assert routes.route("t", options={"exchange": "tasks", "routing_key": "feed.import"})["queue"] == "feed"
    assert routes.queues["plain"].exchange == Exchange("plain") and routes.queues["plain"].routing_key == "plain"
    assert routes.queues["limited"].queue_arguments == {"x-max-priority": 10}
    assert list(router(task_queues=["a", "b"]).queues) == ["a", "b"]
    assert list(Router(Settings(environ={"FASTQ_TASK_QUEUES": "a, b"})).queues) == ["a", "b"]
    for wrong in (3, {"exchange": "x"}, object()):
        with pytest.raises(ImproperlyConfigured, match=r"task_queues: .* is no queue"):
            router(task_queues=[wrong])
    with pytest.raises(ImproperlyConfigured, match="two queues named 'a'"):
        router(task_queues=["a", Queue("a", Exchange("other"))])


def test_a_queue_with_a_key_alone_is_bound_to_the_default_exchange() -> None:
    routes = router(
        task_default_exchange="tasks",
        task_default_exchange_type="topic",
        task_default_routing_key="task.default",
        task_queues=(Queue("default", routing_key="task.#"), Queue("feed", routing_key="feed.#")),
    )
    assert routes.route("t", options={"routing_key": "feed.import"})["queue"] == "feed"
    assert routes.route("t", options={"routing_key": "task.web.get"})["queue"] == "default"
    assert routes.queues["feed"].exchange == Exchange("tasks", "topic")


class KombuExchange:
    name, type = "tasks", "topic"


class KombuQueue:
    name, exchange, routing_key = "feed", KombuExchange(), "feed.#"
    queue_arguments, expires, max_priority = None, 5, 9


def test_queues_of_kombu_are_understood() -> None:
    read = router(task_queues=[KombuQueue(), "default"]).queues["feed"]
    assert read == Queue("feed", Exchange("tasks", "topic"), "feed.#")
    assert (read.expires, read.max_priority) == (5, 9)


def test_missing_queues_are_made_unless_that_is_off() -> None:
    assert router().route("t", options={"queue": "new"})["queue"] == "new"
    strict = router(task_queues=["default", "mail"], task_create_missing_queues=False)
    assert strict.route("t", options={"queue": "mail"})["queue"] == "mail"
    with pytest.raises(ImproperlyConfigured, match=r"no queue 'mial' \(did you mean 'mail'\?\): t is sent to it"):
        strict.route("t", options={"queue": "mial"})
    with pytest.raises(ImproperlyConfigured, match=r"no queue 'mial'"):
        strict.consumed(["mial"])
    with pytest.raises(ImproperlyConfigured, match=r"no queue 'default'"):
        router(task_queues=["mail"], task_create_missing_queues=False).route("t")


# --- what a worker consumes ---


def names(routes: Router, *args: Any, **kwargs: Any) -> list[str]:
    return [one.name for one in routes.consumed(*args, **kwargs)]


def test_a_worker_takes_from_the_queues_it_is_told_or_all_that_are_named() -> None:
    assert names(router()) == ["default"]
    assert names(router(task_default_queue="main")) == ["main"]
    named = router(task_queues=["a", "b", "c"])
    assert names(named) == ["a", "b", "c"]
    assert names(named, ["c", "new", "c"]) == ["c", "new"]
    assert names(named, (), ["b"]) == ["a", "c"]
    assert names(named, ["a", "b"], ["b", "z"]) == ["a"]
    with pytest.raises(ImproperlyConfigured, match="no queue is left"):
        named.consumed((), ["a", "b", "c"])
    assert named.consumed(["new"])[0].exchange == Exchange("new")


def test_a_worker_can_have_a_queue_of_its_own() -> None:
    routes = router(worker_direct=True, task_create_missing_queues=False)
    assert names(routes, node="w1@host") == ["default", "w1@host.dq"]
    assert routes.route("t", options={"queue": worker_direct("w1@host")})["queue"] == "w1@host.dq"
    assert routes.route("t", options={"queue": "w1@host.dq"})["queue"] == "w1@host.dq"
    assert names(router(), node="w1@host") == ["default"]
    assert worker_direct(Queue("x")) == Queue("x")


def test_each_node_gets_a_copy_of_a_broadcast() -> None:
    nodes: list[str] = ["w1@a", "w2@b"]
    routes = router(
        task_queues=["default", Broadcast("news")], task_routes={"reload": {"queue": "news", "exchange": "news"}},
        audience=lambda name: nodes,
    )  # fmt: skip
    assert routes.dynamic, "who listens may be another set at the next call"
    assert routes.route("reload") == {"queues": ["news.w1@a", "news.w2@b"]}
    nodes.clear()
    assert routes.route("reload") == {"queues": []}
    assert [one.taken_by("w1@a")[-1] for one in routes.consumed(node="w1@a")] == ["default", "news.w1@a"]
    nodes.append("w1@a")
    assert routes.route("reload") == {"queue": "news.w1@a"}
    assert routes.queues["news"].exchange == Exchange("news", "fanout")
    with pytest.raises(ImproperlyConfigured, match="the broker cannot tell which nodes listen"):
        router(task_queues=[Broadcast("news")]).route("t", options={"queue": "news"})


# --- keys ---


@pytest.mark.parametrize(
    ("pattern", "key", "expected"),
    [
        ("a.b", "a.b", True),
        ("a.*", "a.b", True),
        ("a.*", "a", False),
        ("a.*", "a.b.c", False),
        ("a.#", "a", True),
        ("a.#", "a.b.c", True),
        ("#", "a.b", True),
        ("#.c", "a.b.c", True),
        ("#.c", "a.b.d", False),
        ("*.b.#", "a.b", True),
        ("#.b.#", "x.y.b.z", True),
        ("a.#.*.d", "a.d", False),
        ("a.#.*.d", "a.b.d", True),
        ("a+b", "aab", False),
    ],
)
def test_topic_keys(pattern: str, key: str, expected: bool) -> None:
    assert matches("topic", pattern, key) is expected


@given(st.lists(st.sampled_from(["a", "b", "*", "#"]), min_size=1, max_size=6), st.lists(st.sampled_from(["a", "b"]), min_size=1))
def test_topic_keys_match_as_the_regular_expression_does(pattern: list[str], words: list[str]) -> None:
    # each word followed by a dot, so that # may be nothing at all
    expression = "".join({"*": r"[^.]+\.", "#": r"(?:[^.]+\.)*"}.get(part, re.escape(part) + r"\.") for part in pattern)
    assert matches("topic", ".".join(pattern), ".".join(words)) == bool(re.fullmatch(expression, ".".join(words) + "."))


def test_a_pattern_of_many_hashes_is_quick() -> None:
    assert not matches("topic", "#." * 50 + "end", "a." * 200 + "b")


def test_an_exchange_has_a_known_type() -> None:
    with pytest.raises(ImproperlyConfigured, match="expected direct, topic, fanout"):
        Exchange("x", "headers")
    with pytest.raises(TypeError, match="expected the queue's name"):
        Queue("")
    assert repr(Queue("a", "x", "k")) == "<Queue a exchange=x(direct) key=k>" and repr(Queue("a")) == "<Queue a>"
    assert str(queue_of({"name": "a"}, "here")) == "a"
