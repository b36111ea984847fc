"""Whether a process is killed for a revoked task: only for one that has not ended."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fastq._core import FINISHED, STARTED
from fastq.worker.cancelling import Cancelling
from fastq.worker.limits import check

#: a run as the board shows it, the one that is revoked first: slot, id, name, started at ms
ONE, OTHER = (0, "a", "tasks.a", 7), (0, "b", "tasks.b", 8)


class Board:
    """What is shown at each look, the last for ever."""

    def __init__(self, *active: list[Any], held: list[tuple[str, int]]) -> None:
        self._active = list(active)
        self._held = held

    def active(self) -> list[Any]:
        return self._active.pop(0) if len(self._active) > 1 else self._active[0]

    def held(self) -> list[Any]:
        return [(record, tag, 0, state, 0, 0) for record, (tag, state) in enumerate(self._held)]

    def counter(self, name: str) -> int:
        return len(self._held)


class Node:
    def __init__(self, board: Board) -> None:
        self.board = board
        self.hello = SimpleNamespace(lease_ms=3000, pool="prefork")
        self.known_queues = ["q"]
        self.loop = SimpleNamespace(after=lambda delay_s, call: None)
        self.killed: list[Any] = []
        self.orders: list[Any] = []

    def processes(self) -> list[Any]:
        return [SimpleNamespace(index=3, pid=42, names=["p"], board=self.board)]

    def order(self, order: Any, **to: Any) -> int:
        self.orders.append(order)
        return 1

    def kill(self, index: int, runs: Any) -> bool:
        self.killed.append((index, runs))
        return True


def test_the_process_of_a_run_that_goes_on_is_killed_for_it_alone() -> None:
    node = Node(Board([ONE], held=[("0:1:1", STARTED), ("0:1:2", FINISHED)]))
    Cancelling(node).cancel({"a": "SIGKILL"})  # type: ignore[arg-type]
    ((index, (overrun,)),) = node.killed
    assert (index, overrun.tag, overrun.check, overrun.signal) == (3, "0:1:1", check("a"), "SIGKILL")


@pytest.mark.parametrize(
    ("active", "held"),
    [
        ([[ONE], []], [("0:1:1", FINISHED)]),
        ([[ONE]], [("0:1:1", FINISHED)]),
        ([[ONE], [ONE], []], [("0:1:1", STARTED)]),
        ([[ONE], [ONE], [OTHER]], [("0:1:1", FINISHED), ("0:1:2", STARTED)]),
    ],
    ids=["seen at once", "its record says so", "behind the look at its record", "the next one has begun"],
)
def test_nothing_is_killed_for_a_run_that_has_ended(active: list[list[Any]], held: list[tuple[str, int]]) -> None:
    node = Node(Board(*active, held=held))
    Cancelling(node).cancel({"a": "SIGKILL"})  # type: ignore[arg-type]
    assert node.killed == []
    assert [order["do"] for order in node.orders] == ["cancel"], "its process settles it, or refuses it"
