"""The table of what must be reached, and how numbers get into documents. The scripts lie in benchmarks/."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("rows_base")


@pytest.fixture
def targets(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("targets")


@pytest.fixture
def document(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("document")


def record(rows: ModuleType, *made: object) -> dict[str, object]:
    fields = ("row", "measured", "unit", "floor", "floor_is", "to_reach", "reached", "note", "values")
    listed = [{name: getattr(row, name) for name in fields} for row in made]
    machine = {"cpus": 2, "cpu": "X", "system": "Linux 6"}
    return {
        "kind": "fastq targets",
        "command": "python benchmarks/targets.py",
        "when": "2026-11-20T12:00:00+00:00",
        "commit": "abc",
        "machine": machine,
        "versions": {"python": "3.11"},
        "rows": {"one": listed},
    }


def test_a_share_of_a_floor(rows: ModuleType) -> None:
    assert rows.share_of("x", 60.0, "/s", 100.0, "loop", 0.6).reached is True
    assert rows.share_of("x", 59.0, "/s", 100.0, "loop", 0.6).reached is False
    assert rows.share_of("x", 59.0, "/s", 100.0, "loop", 0.6).ratio == pytest.approx(0.59)


def test_a_multiple_of_a_floor(rows: ModuleType) -> None:
    assert rows.times_at_most("x", 2.5, "ms", 1.0, "ping-pong", 2.5).reached is True
    assert rows.times_at_most("x", 2.6, "ms", 1.0, "ping-pong", 2.5).reached is False


def test_bounds_without_a_floor(rows: ModuleType) -> None:
    assert (rows.at_least("x", 2.0, "/s", 2.0).reached, rows.at_least("x", 1.9, "/s", 2.0).reached) == (True, False)
    assert (rows.at_most("x", 2.0, "s", 2.0).reached, rows.at_most("x", 2.1, "s", 2.0).reached) == (True, False)
    assert rows.at_most("x", 2.0, "s", 2.0).ratio is None


def test_what_was_not_measured_is_neither_reached_nor_missed(rows: ModuleType, targets: ModuleType) -> None:
    row = rows.skipped("peers", "needs the harness")
    assert row.reached is None
    assert targets.cells(row) == ("peers", "-", "", "", "", "-")


def test_the_markdown_table_has_every_row_and_where_it_comes_from(rows: ModuleType, targets: ModuleType) -> None:
    text = targets.markdown(
        record(
            rows,
            rows.share_of("drain", 90_000.0, "/s", 120_000.0, "loop", 0.6, note="a note\nof two lines"),
            rows.at_most("memory", 81.2, "MiB PSS", 80.0),
        )
    )
    assert "| drain | 90,000/s | loop: 120,000/s | 0.75 | >= 0.6 x | yes |" in text
    assert "| memory | 81.2 MiB PSS |  |  | <= 80 MiB PSS | NO |" in text
    assert "- drain: a note of two lines" in text
    assert "`python benchmarks/targets.py`, 2026-11-20, commit `abc`" in text
    assert "2 CPUs (X), Linux 6; python 3.11" in text


def test_a_missed_row_makes_the_command_fail(
    rows: ModuleType, targets: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    for measured, code in ((3.0, 0), (1.0, 1)):
        saved = tmp_path / f"{measured}.json"
        saved.write_text(json.dumps(record(rows, rows.at_least("x", measured, "/s", 2.0))))
        assert targets.main(["--show", str(saved)]) == code
    assert "1 of 1 rows not reached" in capsys.readouterr().err


def test_an_unknown_row_is_refused_with_the_known_ones(targets: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        targets.arguments(["--only", "drian"])
    assert "expected some of drain" in capsys.readouterr().err


def test_numbers_are_put_between_the_marks_again_and_again(document: ModuleType) -> None:
    text = "before\n<!-- targets -->\nold\n<!-- /targets -->\nafter\n"
    once = document.put(text, "targets", "new\n")
    assert once == "before\n<!-- targets -->\n\nnew\n\n<!-- /targets -->\nafter\n"
    assert document.put(once, "targets", "new") == once


@pytest.mark.parametrize("text", ["", "<!-- targets -->", "<!-- /targets --> <!-- targets -->", "<!-- pools --><!-- /pools -->"])
def test_a_document_without_the_marks_is_not_touched(document: ModuleType, text: str) -> None:
    with pytest.raises(ValueError, match="targets"):
        document.put(text, "targets", "new")
