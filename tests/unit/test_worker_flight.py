"""What a fetch has leased while its process cannot read the answer: the supervisor returns it, and the process does not run it."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from fastq.worker.giveback import Watch
from tests.unit.test_worker_consumer import Blocked, Ran
from tests.unit.worker_rig import Rig, message, rig, wait_for


class Unread:
    """Let the supervisor look before the process has read the answer of a fetch that brought something."""

    def __init__(self, made: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made = made
        self.looks = 0
        #: tags that were leased unread, and are not any more
        self.returned: list[str] = []
        self.during = lambda: None
        self._call = made.trouble.call
        self._watch = Watch(made.board, made.queues, made.broker, made.consumer._exchange._flight)
        monkeypatch.setattr(made.trouble, "call", self)

    def __call__(self, name: str, do: Any) -> Any:
        answer = self._call(name, do)
        fetched = getattr(answer, "fetched", answer) if name in ("fetch", "settle") else None
        if self.looks and fetched is not None and fetched.leased:
            tags = [tag for leased in fetched.leased for tag in leased.tags]
            self._watch.glance()
            while self.looks:
                self.looks -= 1
                self._watch.look(self.made.process)
            left = {tag for tag, _ in self.made.leased()}
            self.returned += [tag for tag in tags if tag not in left]
            self.during()
        return answer


def test_what_was_returned_unread_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    block, ran = Blocked(), Ran()
    with rig({"long": block, "t": ran}, slots=2) as made:
        unread = Unread(made, monkeypatch)
        made.publish(message("long"))
        block.await_start()
        unread.looks = 2
        made.publish(*[message("t", n, id=f"t{n}") for n in range(5)])
        wait_for(lambda: ran.total == 5, "all have run")
        assert unread.returned, "the answer was returned before it was read"
        block.gate.set()
        wait_for(made.settled_all)
        assert set(ran.runs.values()) == {1}
        assert made.settler.fenced == 0, "nothing was started that had been returned"


def test_the_process_waits_for_the_end_of_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would look at its leases before the supervisor takes them."""
    block, ran = Blocked(), Ran()
    with rig({"long": block, "t": ran}, slots=2) as made:
        unread = Unread(made, monkeypatch)
        flight = made.consumer._exchange._flight
        made.publish(message("long"))
        block.await_start()
        searching = flight.search()
        unread.during = lambda: None if flight.searched else searching.__enter__()  # type: ignore[assignment]
        unread.looks = 1
        made.publish(message("t", 1))
        wait_for(lambda: flight.searched, "the search has begun")
        assert not threading.Event().wait(0.1) and not ran.total, "it has not started what may be taken away"
        searching.__exit__(None, None, None)
        wait_for(lambda: ran.total == 1, "it goes on")
        block.gate.set()
        wait_for(made.settled_all)


def test_an_undisturbed_fetch_asks_the_broker_nothing_more() -> None:
    ran = Ran()
    with rig({"t": ran}, slots=2) as made:
        made.publish(*[message("t", n) for n in range(20)])
        wait_for(made.settled_all)
        assert ran.total == 20 and "leased" not in made.trouble.calls
