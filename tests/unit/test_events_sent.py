"""What workers tell as task-sent: the messages that the end of a task sends."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from fastq import FastQ, chain
from fastq.exceptions import Reject
from fastq.records import DONE, RETRY, Effects, Publication, Settlement
from fastq.testing import start_worker
from fastq.worker.settler import published


@pytest.mark.parametrize("wanted", [True, False])
def test_what_follows_a_task_and_its_retries_are_told_where_that_is_asked_for(wanted: bool) -> None:
    url = f"memory://events-sent-{wanted}"
    with FastQ("follow", broker=url, backend=url, set_as_current=False, task_send_sent_event=wanted) as app:

        @app.task
        def add(x: int, y: int) -> int:
            return x + y

        @app.task
        def fail() -> None:
            raise KeyError("no")

        @app.task
        def sorry(id: str) -> str:
            return id

        @app.task(bind=True)
        def again(self: Any) -> int:
            if self.request.retries < 2:
                raise self.retry(countdown=0)
            return 1

        @app.task(bind=True)
        def back(self: Any) -> None:
            raise Reject("not now", requeue=self.request.delivery_info["redelivered"] is False)

        seen: list[dict[str, Any]] = []
        receiver = app.events.Receiver(handlers={"*": seen.append})
        reader = threading.Thread(target=lambda: receiver.capture(limit=None, timeout=None))
        reader.start()
        channel = app.events.open_channel()
        while not channel.listened():
            time.sleep(0.01)
        with start_worker(app):
            second = chain(add.s(1, 2), add.s(3)).delay()
            linked = add.s(4)
            first = add.apply_async((1, 1), link=linked)
            failed = fail.apply_async(link_error=sorry.s())
            retried = again.delay()
            back.delay()
            assert second.get(timeout=30) == 6 and retried.get(timeout=30) == 1
            first.get(timeout=30)
            failed.get(timeout=30, propagate=False)
            if wanted:
                deadline = time.monotonic() + 30
                while len([one for one in seen if one["type"] == "task-sent"]) < 10 and time.monotonic() < deadline:
                    time.sleep(0.01)
        app.events.outbox.flush()
        receiver.should_stop = True
        reader.join(30)
        sent = [one for one in seen if one["type"] == "task-sent"]
        if not wanted:
            assert sent == []
            return
        told = sorted((one["name"].rpartition(".")[2], one["retries"], one["args"]) for one in sent)
        id = failed.id
        assert told == sorted(
            [
                ("add", 0, "(1, 2)"), ("add", 0, "(3,)"), ("add", 0, "(1, 1)"), ("add", 0, "(4,)"), ("fail", 0, "()"),
                ("sorry", 0, "()"), ("again", 0, "()"), ("again", 1, "()"), ("again", 2, "()"), ("back", 0, "()"),
            ]
        ), "each once; what is given back is not sent"  # fmt: skip
        (following,) = [one for one in sent if one["uuid"] == second.id]
        assert following["parent_id"] == second.parent.id and following["queue"] == following["routing_key"]
        (told_of,) = [one for one in sent if one["name"].endswith("sorry")]
        assert told_of["parent_id"] == id


def test_what_changed_nothing_has_sent_nothing() -> None:
    publication = Publication("q", b"m")
    follows = Settlement("q", "0:1:1", "a", DONE, effects=Effects(publications=[publication]))
    again = Settlement("q", "0:1:2", "b", RETRY, message=b"n", level=1, delay_ms=5)
    back = Settlement("q", "0:1:3", "c", RETRY, message=b"o", reason="requeued")
    assert published([follows, again, back]) == [publication, Publication("q", b"n", 1, 5)]
    assert published([follows, again, back], ("0:1:1", "0:1:2")) == []
