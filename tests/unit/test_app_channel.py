"""``app.connection().channel()``: how long queues are, for programs that ask so beside Celery."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastq import FastQ
from fastq._core import packb
from fastq.control.broadcasting import open_app_channel


@pytest.mark.parametrize("kind", ["redis", "sqlite", "memory"])
def test_queues_are_counted_as_exporters_do(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    urls = {"sqlite": f"sqlite:///{tmp_path}/c.db", "memory": f"memory://{tmp_path}"}
    url = urls.get(kind) or request.getfixturevalue("redis_url")
    with FastQ("counted", broker=url, set_as_current=False) as app:
        for priority in (0, 5, 9):
            app.send_task("t", queue="mail", priority=priority)
        app.send_task("t", queue="mail", countdown=1000)
        there = open_app_channel(app)
        for name, queues in (("a@h", ["mail"]), ("b@h", ["mail", "other"])):
            there.beat(name, packb({"queues": queues}), 60_000)
        there.beat("odd@h", b"\xc1", 60_000)
        there.beat("bare@h", packb({}), 60_000)
        there.close()
        with app.connection() as connection:
            channel = connection.default_channel
            assert channel is connection.default_channel and connection.channel() is not channel
            assert channel.client.llen("mail") == channel._size("mail") == 3, "what is delayed is not ready, as in Celery"
            declared = channel.queue_declare(queue="mail", passive=True)
            assert (declared.queue, declared.message_count, declared.consumer_count) == ("mail", 3, 2)
            assert channel.queue_declare("nobody") == ("nobody", 0, 0)
            other_app = FastQ("elsewhere", broker="memory://elsewhere", set_as_current=False)
            with other_app.connection(url) as elsewhere:
                assert elsewhere.default_channel.queue_declare("mail") == ("mail", 3, 2)
            with connection.channel() as other:
                assert other.queue_purge("mail") == 4 and channel.client.llen("mail") == 0
            for name, advice in (("basic_publish", "send_task"), ("basic_get", "workers fetch"), ("nothing", "queue_declare")):
                with pytest.raises(AttributeError, match=advice):
                    getattr(channel, name)
            with pytest.raises(AttributeError, match=r"no client of Redis and has no hgetall.*keys\.md"):
                _ = channel.client.hgetall
        assert connection._channels == []


def test_a_connection_is_taken_or_made() -> None:
    with FastQ("given", broker="memory://given", set_as_current=False) as app, app.connection_or_acquire() as made:
        assert made.as_uri().startswith("memory://given")
        assert app.connection_or_acquire(made) is made is app.default_connection(made)
