"""A node recalls turns under a limit that has changed: step by step, in all its queues, and as soon as the broker answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from fastq.exceptions import OperationalError
from fastq.worker.loop import Loop
from fastq.worker.recalls import RETRY_S, Recalls


class Keeper:
    """So many steps for each queue; what was asked is noted."""

    def __init__(self, steps: int = 1) -> None:
        self.steps = steps
        self.asked: list[tuple[str, str, str, tuple[str, ...], str]] = []
        self.down = False

    def recall(self, queue: str, limit: str, *, kept: str, left: tuple[str, ...], place: str) -> tuple[int, str]:
        if self.down:
            raise OperationalError("away")
        self.asked.append((queue, limit, kept, tuple(sorted(left)), place))
        step = int(place or 0) + 1
        return 1, str(step) if step < self.steps else ""


def recalls(keeper: Any, node: str = "") -> tuple[Recalls, Callable[[], None]]:
    loop = Loop()
    made = Recalls(loop, keeper, lambda: ["a", "b"], node)

    def finish() -> None:
        until = time.monotonic() + 10 * RETRY_S
        while made._open:
            assert time.monotonic() < until
            loop.turn(longest_s=0.05)

    return made, finish


@pytest.fixture(autouse=True)
def one_step_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastq.worker.recalls.TURN_S", 0.0)


def test_every_queue_is_asked_and_the_bucket_before_is_left() -> None:
    keeper = Keeper()
    made, finish = recalls(keeper)
    made.begin("t", 10)
    finish()
    made.begin("t", 0)
    finish()
    made.begin("t", 0)
    finish()
    assert keeper.asked == [
        *((queue, "t", "t|100000us", ("t",), "") for queue in "ab"),
        *((queue, "t", "", ("t|100000us",), "") for queue in "ab"),
        *((queue, "t", "", (), "") for queue in "ab"),
    ]


def test_the_limit_of_a_node_is_its_own() -> None:
    keeper = Keeper()
    made, finish = recalls(keeper, "w@h")
    made.begin("t", 10)
    finish()
    assert keeper.asked[0] == ("a", "t@w@h", "t@w@h|100000us", ("t@w@h",), "")


def test_a_long_line_leaves_the_loop_to_others_between_steps() -> None:
    keeper = Keeper(steps=4)
    made, finish = recalls(keeper)
    made.begin("t", 0)
    assert len(keeper.asked) == 1
    finish()
    assert [(queue, place) for queue, *_, place in keeper.asked] == [
        (queue, place) for queue in "ab" for place in ("", "1", "2", "3")
    ]


def test_a_later_limit_takes_the_place_of_one_that_is_not_done_with() -> None:
    keeper = Keeper(steps=3)
    made, finish = recalls(keeper)
    made.begin("t", 10)
    made.begin("t", 1)
    made.begin("other", 0)
    finish()
    assert keeper.asked[0][2] == "t|100000us"
    rest = [asked for asked in keeper.asked[1:] if asked[1] == "t"]
    assert {(kept, left) for _, _, kept, left, _ in rest} == {("t|1000000us", ("t", "t|100000us"))}
    assert [(queue, place) for queue, *_, place in rest] == [(queue, place) for queue in "ab" for place in ("", "1", "2")]
    assert len([asked for asked in keeper.asked if asked[1] == "other"]) == 6


def test_while_the_broker_is_away_it_is_tried_again() -> None:
    keeper = Keeper(steps=2)
    made, finish = recalls(keeper)
    keeper.down = True
    made.begin("t", 0)
    assert made._open and not keeper.asked
    keeper.down = False
    finish()
    assert len(keeper.asked) == 4
