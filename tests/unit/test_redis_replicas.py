"""broker_wait_replicas: a publish is confirmed by replicas or raises; a settlement that is not is said once."""

from __future__ import annotations

import contextlib
import logging
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastq import FastQ
from fastq.exceptions import OperationalError
from fastq.records import Opening
from fastq.transports import TransportOptions
from fastq.transports.redis import RedisBroker, RedisInspector
from tests.servers import RedisServer
from tests.unit.redis_parts import LEASE_MS, asked, done, ids, publication
from tests.unit.test_redis_errors import executable
from tests.workers import eventually

__all__ = ["executable"]

OPTIONS = TransportOptions(wait_replicas=1, wait_replicas_s=0.2)

Pair = tuple[RedisServer, RedisServer]


@pytest.fixture(scope="module")
def pair(executable: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("pair")
    with contextlib.ExitStack() as stack:
        primary = stack.enter_context(RedisServer(folder / "one", "--repl-diskless-sync-delay", "0", executable=executable))
        options = ("--replicaof", "127.0.0.1", str(primary.port))
        replica = stack.enter_context(RedisServer(folder / "two", *options, executable=executable))
        with contextlib.closing(primary.client()) as client:
            client.set("x", 1)
            eventually(lambda: client.wait(1, 1000) >= 1, "the replica in step")
        yield primary, replica


@pytest.fixture
def broker(pair: Pair) -> Iterator[RedisBroker]:
    with contextlib.closing(pair[0].client()) as client:
        client.flushall()
    broker = RedisBroker(pair[0].url, OPTIONS)
    broker.renew(["default"], ["p1"], LEASE_MS)
    yield broker
    pair[1].kill(signal.SIGCONT)
    broker.close()


def test_a_confirmed_publish_is_on_the_replica(pair: Pair, broker: RedisBroker) -> None:
    opening = Opening("join", 1, publication("body"))
    broker.publish("a", 1, [publication(str(i)) for i in range(1500)], [opening])
    with contextlib.closing(pair[1].client()) as client:
        assert client.llen("fastq:{default}:ready:0") == 1500


def test_an_unconfirmed_publish_raises_is_kept_once_and_is_confirmed_by_a_repeat_only_when_it_is_true(
    pair: Pair, broker: RedisBroker
) -> None:
    broker.publish("a", 1, [publication("0")])
    pair[1].kill(signal.SIGSTOP)
    for _ in range(2):  # the second time the message is known already, on a connection that has written nothing
        with pytest.raises(OperationalError, match=r"not confirmed by 1 replicas .*: 0 answered within 0\.2 s") as caught:
            broker.publish("a", 2, [publication("1"), publication("2")])
        assert caught.value.task_ids == ("1", "2")
        assert not broker._connection.is_open
    pair[1].kill(signal.SIGCONT)
    eventually(lambda: _confirmed(broker), "the replica confirming again")
    assert ids(broker.fetch(asked(1))) == ["0", "1", "2"]


def _confirmed(broker: RedisBroker) -> bool:
    try:
        broker.publish("a", 2, [publication("1"), publication("2")])
    except OperationalError:
        return False
    return True


def test_what_was_sent_again_for_a_forgotten_script_is_confirmed_too(pair: Pair, broker: RedisBroker) -> None:
    broker.publish("a", 1, [publication("0")])
    with contextlib.closing(pair[0].client()) as client:
        client.script_flush()
        # the replica has confirmed everything so far, so the WAIT in front of what is sent again is content
        # (asking it to confirm is itself part of what it must confirm: only its own word each second says that it has all)
        eventually(lambda: _all_confirmed(client.info("replication")), "the replica in step")
    pair[1].kill(signal.SIGSTOP)
    with pytest.raises(OperationalError, match="not confirmed"):
        broker.publish("a", 2, [publication("1")])


def _all_confirmed(info: dict[str, Any]) -> bool:
    return bool(info["slave0"]["offset"] == info["master_repl_offset"])


def test_unconfirmed_settlements_are_carried_out_and_said_once(
    pair: Pair, broker: RedisBroker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="fastq.transports.redis")
    broker.publish("a", 1, [publication(str(i)) for i in range(30)])
    pair[1].kill(signal.SIGSTOP)
    number, seen = 0, 0
    started = time.monotonic()
    while seen < 30:
        number += 1
        fetched = broker.fetch(asked(number, n=1))
        seen += len(ids(fetched))
        assert broker.settle("p1", done(fetched), results=True).skipped == ()
    assert time.monotonic() - started < 5, "one wait of 0.2 s, not 30"
    replicas = broker._replicas
    assert replicas is not None and replicas.unconfirmed == 30
    assert [r.message.startswith("Settled at Redis") for r in caplog.records] == [True]
    pair[1].kill(signal.SIGCONT)

    eventually(lambda: _confirmed(broker), "the replica in step")
    replicas._rests_until = 0.0
    number += 1
    broker.settle("p1", done(broker.fetch(asked(number))), results=True)
    assert "confirmed by 1 replicas again" in caplog.text


def test_settlements_and_fetches_in_one_call_get_their_own_answers(pair: Pair, broker: RedisBroker) -> None:
    broker.publish("a", 1, [publication(str(i)) for i in range(6)])
    fetched = broker.fetch(asked(1, n=2))
    settled = broker.settle("p1", done(fetched), results=True, fetch=asked(2, n=2))
    assert (settled.skipped, ids(settled.fetched)) == ((), ["2", "3"])
    settled = broker.settle("p1", done(settled.fetched), results=True, fetch=asked(3, n=0))
    assert (settled.skipped, ids(settled.fetched)) == ((), [])
    look = RedisInspector(pair[0].url, OPTIONS)
    assert look.depth("default")["ready"] == 2
    look.close()


def test_it_is_a_setting_and_by_default_nothing_is_waited_for(tmp_path: Path) -> None:
    app = FastQ("replicas", broker="redis://h")
    assert app.open_broker()._replicas is None  # type: ignore[attr-defined]
    app.conf.update(broker_wait_replicas=2, broker_wait_replicas_timeout=0.5)
    replicas = app.open_broker()._replicas  # type: ignore[attr-defined]
    assert replicas.after_publish() == ("WAIT", 2, 500)
    app.conf.redis_socket_timeout = 0.4
    assert app.open_broker()._replicas.after_publish() == ("WAIT", 2, 200)  # type: ignore[attr-defined]
    app.close()
