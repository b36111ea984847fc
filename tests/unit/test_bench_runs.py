"""Saved runs, and one run against another."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fastq.bench.cells import Cell
from fastq.bench.machine import slug
from fastq.bench.runs import Run, compare, find, foreign, load, save
from fastq.exceptions import ImproperlyConfigured

MACHINE = {"cpu": "Some(R) CPU X-5 @ 2.00GHz", "cpus": 2, "architecture": "x86_64", "system": "Linux 6"}


def cell(pool: str = "solo", concurrency: int = 1, work: str = "noop", **more: object) -> Cell:
    values: dict[str, object] = {"tasks": 100, "seconds": 1.0, "per_s": 100.0, "p50_ms": 2.0, "p99_ms": 4.0, "cpu_s": 0.5}
    return Cell(pool, concurrency, work, **{**values, **more})  # type: ignore[arg-type]


def run(*cells: Cell, when: str = "2026-11-20T12:34:56+00:00", broker: str = "redis") -> Run:
    return Run(cells or (cell(),), broker, "make bench", "abc", when, MACHINE, {"python": "3.11.2", "fastq": "0.1"})


def test_a_saved_run_reads_back_the_same(tmp_path: Path) -> None:
    made = run(cell(pss_mib=12.5), cell("gevent", 100, error="gevent is not installed"))
    assert load(save(made, tmp_path / "x.json")) == made


def test_in_a_folder_the_file_is_named_by_date_machine_and_broker(tmp_path: Path) -> None:
    assert save(run(), tmp_path / "new").name == "2026-11-20T1234-some-x-5-2cpu-redis.json"


def test_fields_of_a_later_version_are_left_out(tmp_path: Path) -> None:
    path = save(run(), tmp_path / "x.json")
    values = json.loads(path.read_text())
    values["cells"][0]["of_later"] = 1
    path.write_text(json.dumps(values))
    assert load(path) == run()


@pytest.mark.parametrize("text", ["not json", "[]", '{"kind": "other"}'])
def test_what_is_not_a_run_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(ImproperlyConfigured, match=r"x\.json"):
        load(path)


def test_an_earlier_run_is_found_by_path_part_of_its_name_or_as_the_last(tmp_path: Path) -> None:
    old = save(run(when="2026-01-01T00:00:00+00:00"), tmp_path)
    new = save(run(when="2026-02-01T00:00:00+00:00"), tmp_path)
    other = save(run(when="2026-03-01T00:00:00+00:00", broker="sqlite"), tmp_path)
    assert find("last", tmp_path, "redis") == new
    assert find("last", tmp_path, "sqlite") == other
    assert find("2026-01-01", tmp_path, "redis") == old
    assert find(str(old), tmp_path, "redis") == old


def test_a_run_that_is_not_there_says_what_is(tmp_path: Path) -> None:
    with pytest.raises(ImproperlyConfigured, match="holds no runs"):
        find("last", tmp_path, "redis")
    save(run(), tmp_path)
    with pytest.raises(ImproperlyConfigured, match="2026-11-20T1234"):
        find("nothing like it", tmp_path, "redis")


def test_cells_are_compared_with_their_own() -> None:
    before = run(cell(), cell("gevent", 100, p50_ms=1.0))
    now = run(cell(per_s=150.0, p50_ms=1.0), cell("gevent", 100, p50_ms=3.0), cell("asyncio", 100))
    changes = compare(now, before)
    assert set(changes) == {("solo", 1, "noop"), ("gevent", 100, "noop")}
    solo, gevent = changes["solo", 1, "noop"], changes["gevent", 100, "noop"]
    assert (solo.ratios["per_s"], solo.ratios["p50_ms"], solo.ratios["pss_mib"]) == (1.5, 0.5, None)
    assert (solo.better("per_s"), solo.better("p50_ms"), solo.better("cpu_s"), solo.better("pss_mib")) == (True, True, None, None)
    assert gevent.better("p50_ms") is False


@pytest.mark.parametrize(("now", "better"), [(105.0, None), (96.0, None), (120.0, True), (80.0, False)])
def test_small_changes_are_neither_better_nor_worse(now: float, better: bool | None) -> None:
    assert compare(run(cell(per_s=now)), run())["solo", 1, "noop"].better("per_s") is better


def test_failed_cells_are_not_compared() -> None:
    assert compare(run(cell(error="it died")), run()) == {}
    assert compare(run(), run(cell(error="it died"))) == {}


def test_what_else_differs_is_told() -> None:
    now = run()
    before = replace(now, machine={**MACHINE, "cpus": 8}, versions={"python": "3.12.1", "fastq": "0.0", "gevent": "24"})
    assert foreign(now, now) == []
    assert foreign(now, before) == [
        "number of CPUs: 8 then, 2 now",
        "gevent: 24 then, none now",
        "python: 3.12.1 then, 3.11.2 now",
    ]


@pytest.mark.parametrize(
    ("cpu", "name"),
    [
        ("Intel(R) Xeon(R) CPU E5-2670 v3 @ 2.30GHz", "intel-xeon-e5-2670-v3-4cpu"),
        ("AMD EPYC Processor", "amd-epyc-4cpu"),
        ("", "machine-4cpu"),
    ],
)
def test_a_machine_has_a_name_for_files(cpu: str, name: str) -> None:
    assert slug({"cpu": cpu, "cpus": 4}) == name
