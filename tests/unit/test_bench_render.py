"""The comparison in a terminal, and in words."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from fastq.bench.advice import advise
from fastq.bench.cells import Cell
from fastq.bench.render import failed, number, show
from fastq.bench.runs import Run
from fastq.bench.shapes import POOLS, WORKS, Shape, shapes


def cell(
    pool: str, concurrency: int, work: str, per_s: float, p50_ms: float = 1.0, pss_mib: float | None = None, **more: object
) -> Cell:
    values: dict[str, object] = {"tasks": 100, "seconds": 1.0, "per_s": per_s, "p50_ms": p50_ms, "p99_ms": 2 * p50_ms}
    return Cell(pool, concurrency, work, pss_mib=pss_mib, **{**values, **more})  # type: ignore[arg-type]


def run(*cells: Cell) -> Run:
    return Run(
        cells,
        "redis",
        "make bench",
        "abc",
        "2026-11-20T12:00:00+00:00",
        {"cpu": "X", "cpus": 2},
        {"python": "3.11", "fastq": "0.1"},
    )


def text(*args: object, **kwargs: object) -> str:
    console = Console(file=io.StringIO(), width=140)
    show(console, *args, **kwargs)  # type: ignore[arg-type]
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("value", "written"), [(98_500.4, "98,500"), (431.2, "431"), (4.3149, "4.31"), (0.02345, "0.0234"), (0.0, "0"), (None, "-")]
)
def test_numbers_have_three_figures(value: float | None, written: str) -> None:
    assert number(value) == written


def test_the_table_has_every_cell_and_says_what_its_columns_mean() -> None:
    shown = text(run(cell("solo", 1, "noop", 90_000.0, 0.4, 21.0), cell("gevent", 100, "wait20", 4_800.0, 21.0, 40.0)))
    for part in ("no-op", "solo", "90,000", "0.4", "21", "20 ms of waiting", "gevent 100", "4,800", "worker start excluded"):
        assert part in shown


def test_the_bars_of_a_work_are_on_one_scale() -> None:
    shown = text(run(cell("solo", 1, "noop", 100.0), cell("gevent", 100, "noop", 50.0)))
    lengths = {line.split()[0]: line.count("█") for line in shown.splitlines() if "█" in line}
    assert lengths["solo"] == pytest.approx(2 * lengths["gevent"], abs=1)


def test_an_earlier_run_is_shown_as_ratios() -> None:
    shown = text(run(cell("solo", 1, "noop", 150.0), cell("threads", 10, "noop", 10.0)), run(cell("solo", 1, "noop", 100.0)))
    assert "1.50 x" in shown
    assert "then: 2026-11-20" in shown


def test_a_cell_that_failed_is_shown_with_its_error() -> None:
    shown = text(run(Cell("gevent", 100, "noop", error="gevent is not installed"), cell("solo", 1, "noop", 5.0, lost=2)))
    assert "gevent is not installed" in shown
    assert "2 tasks lost" in shown


def test_a_missing_library_is_no_failure_but_lost_tasks_are() -> None:
    cells = [Cell("gevent", 100, "noop", error="gevent is not installed"), cell("solo", 1, "noop", 1.0)]
    assert failed(cells) == []
    assert failed([*cells, cell("solo", 1, "noop", 1.0, lost=1), Cell("threads", 10, "noop", error="it died")]) == [
        "noop on solo: 1 lost, 0 repeated",
        "noop on threads 10: it died",
    ]


def test_advice_names_the_lightest_of_the_fastest() -> None:
    lines = advise(
        [cell("solo", 1, "noop", 95.0, 0.3, 20.0), cell("prefork", 2, "noop", 100.0, 0.5, 60.0), cell("gevent", 100, "noop", 40.0)]
    )
    assert lines == [
        "Tasks that do next to nothing: solo (95/s in 20 MiB); as good: prefork 2 (100/s in 60 MiB)."
        " Soonest done when the worker is not busy: solo, p50 0.3 ms."
    ]


def test_advice_on_computing_says_what_cores_are_worth() -> None:
    lines = advise([cell("solo", 1, "cpu5", 190.0), cell("prefork", 2, "cpu5", 380.0), cell("threads", 10, "cpu5", 180.0)])
    assert "prefork 2 (380/s)" in lines[0]
    assert "2.0 times what the best single process does (solo)" in lines[0]
    assert "do not help here" in advise([cell("solo", 1, "cpu5", 190.0), cell("prefork", 2, "cpu5", 195.0)])[0]


def test_advice_on_waiting_says_how_many_processes_it_would_take() -> None:
    lines = advise([cell("prefork", 2, "wait20", 98.0), cell("asyncio", 100, "wait20", 4_900.0, pss_mib=30.0)])
    assert "asyncio 100 (4,900/s in 30 MiB)" in lines[0]
    assert "prefork would need 100 processes" in lines[0]
    assert "async def" in lines[0]


def test_no_numbers_no_advice() -> None:
    assert advise([]) == []
    assert advise([Cell("solo", 1, "noop", error="it died")]) == []


def test_every_pool_has_a_shape_and_every_work_a_task_for_it() -> None:
    made = shapes(4)
    assert [shape.pool for shape in made] == list(POOLS)
    assert {shape.pool: shape.cores for shape in made}["prefork"] == 4
    for work in WORKS:
        assert work.names("asyncio")[0] == work.async_task
        assert all(work.pilot(shape) >= 15 for shape in made)
    assert str(Shape("gevent", 100, 2)) == "gevent 100 x 2"
    assert Shape("gevent", 100, 2).slots == 200
