"""A broker that signs: whatever is sent through it, by producers, workers and supervisors, carries a good signature."""

from __future__ import annotations

import secrets
from typing import Any

import pytest

from fastq import FastQ, _core
from fastq.exceptions import SecurityError
from fastq.records import RETRY, Effects, Fetch, Opening, Publication, Settlement
from fastq.security import make_signer
from fastq.testing import start_worker
from fastq.transports import TransportOptions, open_backend, open_broker, open_inspector
from fastq.transports.base import Broker

SECRET = "a secret of the whole team"
signer = make_signer(SECRET)
assert signer is not None
OPTIONS = TransportOptions()


def message(id: str) -> bytes:
    return _core.encode(id, "task", "application/x-msgpack", b"\x92\x90\x80", 0, None, 0, None, None)


@pytest.fixture
def url() -> str:
    return f"memory://signed-{secrets.token_hex(4)}"


@pytest.fixture
def broker(url: str) -> Broker:
    broker = open_broker(url, OPTIONS, signer)
    broker.renew(["q"], ["p"], 15_000)
    return broker


def taken(broker: Broker, number: int) -> list[tuple[str, bytes]]:
    fetched = broker.fetch(Fetch("p", number, ("q",), 10))
    return [pair for leased in fetched.leased for pair in zip(leased.tags, leased.messages, strict=True)]


def test_what_is_published_is_signed(broker: Broker) -> None:
    broker.publish("producer", 1, [Publication("q", message("a")), Publication("q", message("b"), delay_ms=0)])
    for _, found in taken(broker, 1):
        assert signer is not None
        signer.check(found)
        assert _core.peek(found).id in "ab"


def test_retries_follow_ups_and_bodies_are_signed(broker: Broker) -> None:
    assert signer is not None
    broker.publish("producer", 1, [Publication("q", message("a"))])
    ((tag, _),) = taken(broker, 1)
    effects = Effects(
        publications=[Publication("q", message("follow-up"))],
        openings=[Opening("join", 1, Publication("q", message("body")))],
    )
    retry = _core.remark(message("a"), 0, True)
    broker.settle("p", [Settlement("q", tag, "a", RETRY, message=retry, effects=effects)], results=True)
    found = dict((_core.peek(data).id, data) for _, data in taken(broker, 2))
    assert set(found) == {"a", "follow-up"}
    for data in found.values():
        signer.check(data)
    assert _core.peek(found["a"]).paid


def test_a_result_store_sees_that_it_is_the_same_store(broker: Broker, url: str) -> None:
    assert open_backend(url, OPTIONS).shares(broker)


@pytest.fixture
def signed(url: str) -> FastQ:
    app = FastQ("signed", broker=url, security_key=SECRET, set_as_current=False)

    @app.task(name="signed.add")
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="signed.again", bind=True)
    def again(self: Any) -> int:
        if not self.request.retries:
            raise self.retry(countdown=0)
        return int(self.request.retries)

    return app


def test_signed_applications_talk_to_each_other(signed: FastQ) -> None:
    with start_worker(signed):
        add = signed.tasks["signed.add"]
        assert add.delay(1, 2).get(timeout=20) == 3
        assert (add.s(1, 2) | add.s(3)).delay().get(timeout=20) == 6
        assert signed.tasks["signed.again"].delay().get(timeout=20) == 1


def test_a_worker_with_a_key_refuses_what_is_not_signed_or_by_another_key(signed: FastQ, url: str) -> None:
    stranger = FastQ("stranger", broker=url, set_as_current=False)
    forger = FastQ("forger", broker=url, security_key="another secret, of somebody else", set_as_current=False)
    with start_worker(signed):
        stranger.send_task("signed.add", (1, 2))
        forger.send_task("signed.add", (1, 2))
        assert signed.tasks["signed.add"].delay(3, 4).get(timeout=20) == 7
    dead = open_inspector(url, OPTIONS).dead("default")
    assert [letter.reason for letter in dead] == ["bad-signature", "bad-signature"]
    assert {"not signed" in str(letter.detail["error"]) for letter in dead} == {True, False}
    for letter in dead:
        with pytest.raises(SecurityError):
            assert signer is not None
            signer.check(letter.message)
