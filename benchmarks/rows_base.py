"""What a row of the targets' table is, and what every row's measurement is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from places import RedisPlace, SqlitePlace

from fastq.bench.marks import Board
from fastq.bench.node import Node
from fastq.bench.place import Place
from fastq.bench.shapes import Shape, Work
from fastq.bench.trial import Drained, drain

NOOP, CPU5, WAIT20 = (
    Work("noop", "no-op", "noop", "stamp", "noop"),
    Work("cpu5", "5 ms of CPU", "cpu", "cpu", "cpu", 5.0),
    Work("wait20", "20 ms of waiting", "wait", "wait", "async_wait", 20.0),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One line: what was measured, against what, and whether that is enough."""

    row: str
    measured: float | None
    unit: str
    #: what it is held against, measured in the same run; None: an absolute bound
    floor: float | None = None
    floor_is: str = ""
    #: as text, and what comes of it; reached None: not judged (``note`` says why)
    to_reach: str = ""
    reached: bool | None = None
    note: str = ""
    #: every repetition
    values: tuple[float, ...] = ()

    @property
    def ratio(self) -> float | None:
        return None if self.measured is None or not self.floor else self.measured / self.floor


def share_of(row: str, measured: float, unit: str, floor: float, floor_is: str, share: float, **more: object) -> Row:
    """Return a row that is reached from ``share`` times the floor on."""
    return Row(row, measured, unit, floor, floor_is, f">= {share:g} x", measured >= share * floor, **more)  # type: ignore[arg-type]


def times_at_most(row: str, measured: float, unit: str, floor: float, floor_is: str, times: float, **more: object) -> Row:
    """Return a row that is reached up to ``times`` times the floor."""
    return Row(row, measured, unit, floor, floor_is, f"<= {times:g} x", measured <= times * floor, **more)  # type: ignore[arg-type]


def at_least(row: str, measured: float, unit: str, bound: float, **more: object) -> Row:
    return Row(row, measured, unit, to_reach=f">= {bound:,g} {unit}", reached=measured >= bound, **more)  # type: ignore[arg-type]


def at_most(row: str, measured: float, unit: str, bound: float, **more: object) -> Row:
    return Row(row, measured, unit, to_reach=f"<= {bound:,g} {unit}", reached=measured <= bound, **more)  # type: ignore[arg-type]


def skipped(row: str, why: str) -> Row:
    return Row(row, None, "", note=why)


@dataclass
class Context:
    """Sizes, brokers, and what rows have found that later rows compare with."""

    redis: RedisPlace
    sqlite: SqlitePlace
    #: 1: the sizes of the issue; less: a trial run
    scale: float = 1.0
    repeat: int = 3
    idle_s: float = 60.0
    #: the shared harness and the folder of its virtual environments, None: peers are skipped
    harness: Path | None = None
    venvs: Path | None = None
    say: Callable[[str], None] = print
    #: medians by name: "drain prefork 1", "loop", "one by one"
    found: dict[str, float] = field(default_factory=dict)

    def n(self, full: int, least: int = 100) -> int:
        return max(least, int(full * self.scale))

    def drained(self, place: Place, shape: Shape, work: Work, n: int) -> Drained:
        """Drain ``n`` tasks with a new worker; RuntimeError if tasks were lost or run twice."""
        task, _ = work.names(shape.pool)
        place.fill(task, [work.args(i) for i in range(n)])
        with Board(n) as board, Node(place, shape, board) as node:
            result = drain(place, node, board)
        if result.lost or result.repeated:
            raise RuntimeError(f"{work.title} on {shape}: {result.lost} tasks lost, {result.repeated} run more than once")
        return result
