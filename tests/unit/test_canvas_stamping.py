"""Stamps: what a visitor is asked, and what travels."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from fastq import FastQ, _core
from fastq.canvas import Signature, StampingVisitor, chain, chord, group
from fastq.canvas.builtins import register
from tests.canvas_machine import Machine


@pytest.fixture
def app() -> Iterator[FastQ]:
    with FastQ("proj", broker=f"memory://{uuid.uuid4()}", set_as_current=False) as app:
        register(app)
        app.task(name="do")(lambda *args: list(args))
        yield app


def do(app: FastQ, *args: Any) -> Signature[Any]:
    return Signature(app.tasks["do"], args)


def headers(message: bytes) -> dict[str, Any]:
    return dict((_core.peek(message).options or {})["headers"])


def test_stamps_are_headers_that_are_listed(app: FastQ) -> None:
    run = Machine(app)
    sig = do(app, 1).set(headers={"own": 1})
    assert sig.stamp(customer="a", trace=7) is sig
    sig.apply_async()
    assert headers(run.messages[0]) == {
        "own": 1, "customer": "a", "trace": 7, "stamped_headers": ["customer", "trace"], "stamps": {"customer": "a", "trace": 7},
    }  # fmt: skip


def test_every_task_of_a_canvas_is_stamped_those_linked_to_it_too(app: FastQ) -> None:
    run = Machine(app)
    sig = chain(do(app), group(do(app), chord([do(app)], do(app))), do(app))
    sig.link(do(app))
    sig.stamp(customer="a")
    sig.apply_async()
    run.run()
    stamped = [headers(m)["stamps"] for m in run.messages if _core.peek(m).name == "do"]
    assert stamped == [{"customer": "a"}] * 6


class Recording(StampingVisitor):
    def __init__(self) -> None:
        self.visits: list[str] = []

    def on_signature(self, sig: Signature[Any], **headers: Any) -> dict[str, Any]:
        self.visits.append(f"signature {sig.args[0] if sig.args else ''}")
        return {"on_signature": True}

    def on_group_start(self, group: Any, **headers: Any) -> dict[str, Any]:
        self.visits.append("group start")
        return {"on_group": len(group.tasks)}

    def on_group_end(self, group: Any, **headers: Any) -> None:
        self.visits.append("group end")

    def on_chain_start(self, chain: Any, **headers: Any) -> dict[str, Any]:
        self.visits.append("chain start")
        return {}

    def on_chain_end(self, chain: Any, **headers: Any) -> None:
        self.visits.append("chain end")

    def on_chord_header_start(self, sig: Any, **headers: Any) -> dict[str, Any]:
        self.visits.append("header start")
        return super().on_chord_header_start(sig, **headers)

    def on_chord_header_end(self, sig: Any, **headers: Any) -> None:
        self.visits.append("header end")

    def on_chord_body(self, sig: Any, **headers: Any) -> dict[str, Any]:
        self.visits.append("body")
        return {"on_body": True}

    def on_callback(self, callback: Signature[Any], **headers: Any) -> dict[str, Any]:
        self.visits.append("callback")
        return {"on_callback": True}

    def on_errback(self, errback: Signature[Any], **headers: Any) -> dict[str, Any]:
        self.visits.append("errback")
        return {"on_errback": True}


def test_a_visitor_is_asked_part_by_part(app: FastQ) -> None:
    first = do(app, "first")
    first.link(do(app, "linked"))
    first.link_error(do(app, "told"))
    sig = chain(first, chord([do(app, "member")], do(app, "last")))
    visitor = Recording()
    sig.stamp(visitor, given=1)
    assert visitor.visits == [
        "chain start", "callback", "signature linked", "errback", "signature told", "signature first",
        "header start", "group start", "signature member", "header end", "body", "signature last", "chain end",
    ]  # fmt: skip
    assert sorted(first.options["stamped_headers"]) == ["given", "on_signature"]
    assert sorted(first.options["link"][0].options["stamped_headers"]) == ["given", "on_callback", "on_signature"]
    member, last = sig.tasks[1].tasks[0], sig.tasks[1].body
    assert member.options["on_group"] == 1 and last.options["on_body"] is True and "on_body" not in member.options


def test_a_stamp_that_is_there_is_replaced_or_becomes_a_list(app: FastQ) -> None:
    sig = do(app)
    sig.stamp(key=1)
    sig.stamp(key=2)
    assert sig.options["key"] == 2 and sig.options["stamped_headers"] == ["key"]
    sig.stamp(append_stamps=True, key=3)
    assert sig.options["key"] == [3, 2]


def test_a_visitor_says_which_of_its_keys_are_stamps(app: FastQ) -> None:
    class Both(StampingVisitor):
        def on_signature(self, sig: Signature[Any], **headers: Any) -> dict[str, Any]:
            return {"header": 1, "stamp": 2, "stamped_headers": ["stamp"]}

    run = Machine(app)
    sig = do(app)
    sig.stamp(Both())
    sig.apply_async()
    assert headers(run.messages[0]) == {"header": 1, "stamp": 2, "stamped_headers": ["stamp"], "stamps": {"stamp": 2}}


def test_options_given_when_it_is_sent_do_not_replace_stamps(app: FastQ) -> None:
    sig = do(app)
    sig.stamp(key=1)
    assert sig.clone(key=2).options["key"] == 1
