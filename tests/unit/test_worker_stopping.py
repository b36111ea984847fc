"""A stop is carried out stage by stage, and says what it waits for."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable

import pytest

from fastq.worker import stopping
from fastq.worker.loop import Loop, Timer
from fastq.worker.shutdown import Shutdown, Stage
from fastq.worker.stopping import COLD_GRACE_S, Holdup, Running, Stopping


class Clock(Loop):
    """A loop whose timers are called by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.set: list[tuple[float, Timer]] = []

    def after(self, delay_s: float, call: Callable[[], object]) -> Timer:
        timer = Timer(0.0, call)
        self.set.append((delay_s, timer))
        return timer

    def pass_time(self) -> float:
        """Make the next call that is due; return how long it took to come."""
        delay_s, timer = min(((d, t) for d, t in self.set if t.call is not None), key=lambda item: item[0])
        call, timer.call = timer.call, None
        assert call is not None
        call()
        return delay_s


class Node:
    def __init__(self, *tasks: str, soft_s: float = 0.0) -> None:
        self.loop = Clock()
        self.done: list[Stage] = []
        self.holdups = [Holdup("PoolWorker-1", 0, ("p",), [Running("q", t, int(time.time() * 1000) - 7000) for t in tasks])]
        shutdown = Shutdown()
        shutdown.soft_s = soft_s
        self.stopping = Stopping(
            self.loop,
            shutdown,
            act=lambda stage, sig: self.done.append(stage),
            holdups=lambda: self.holdups,
            look_up=lambda holdup: {("q", task.tag): f"shop.{task.tag[0]}[{task.tag}]" for task in holdup.tasks},
        )


@pytest.fixture(autouse=True)
def everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fastq.worker")


def test_a_soft_stop_is_cold_when_its_time_is_over(caplog: pytest.LogCaptureFixture) -> None:
    node = Node("a", soft_s=3)
    node.stopping.signal(signal.SIGQUIT)
    assert node.done == [Stage.SOFT]
    assert "Initiating Soft Shutdown, terminating in 3 seconds" in caplog.text
    assert node.loop.pass_time() == 3
    assert node.done == [Stage.SOFT, Stage.COLD]
    assert node.loop.pass_time() == COLD_GRACE_S
    assert node.done == [Stage.SOFT, Stage.COLD, Stage.KILL]


def test_a_further_signal_ends_the_soft_time_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    node = Node("a", soft_s=3)
    node.stopping.signal(signal.SIGQUIT)
    node.stopping.signal(signal.SIGQUIT)
    assert node.done == [Stage.SOFT, Stage.COLD]
    assert node.loop.pass_time() == COLD_GRACE_S, "nothing is left of the soft stop"


def test_a_long_stop_says_again_and_again_what_it_waits_for(caplog: pytest.LogCaptureFixture) -> None:
    node = Node("a", "b")
    node.stopping.signal(signal.SIGTERM)
    assert "Waiting for 2 running tasks: shop.a[a] (7 s), shop.b[b] (7 s)" in caplog.text
    waits = [node.loop.pass_time() for _ in range(6)]
    assert waits[0] <= 10 and waits == sorted(waits) and waits[-1] == waits[-2] == stopping.REPORT_S[-1]
    assert caplog.text.count("still waiting for 2 running tasks: shop.a[a]") == 6


def test_many_tasks_are_counted_by_name(caplog: pytest.LogCaptureFixture) -> None:
    Node(*(f"a{i}" for i in range(7)), "b1").stopping.signal(signal.SIGTERM)
    assert "Waiting for 8 running tasks: shop.a (7), shop.b (1)" in caplog.text


def test_an_idle_node_says_nothing_until_it_takes_long(caplog: pytest.LogCaptureFixture) -> None:
    node = Node()
    node.stopping.signal(signal.SIGTERM)
    assert not caplog.text
    node.loop.pass_time()
    assert "still waiting for process 'PoolWorker-1' pid:0, which runs no task" in caplog.text
