"""A run of the comparison as a file, and two runs side by side."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastq.bench.cells import Cell
from fastq.bench.machine import machine, slug, versions
from fastq.bench.stats import ratio
from fastq.exceptions import ImproperlyConfigured

__all__ = ["COMPARED", "Change", "Run", "compare", "find", "foreign", "load", "save"]

KIND = "fastq pool comparison"
FORMAT = 1
#: what is compared between runs -> whether more is better
COMPARED = {"per_s": True, "p50_ms": False, "p99_ms": False, "cpu_s": False, "pss_mib": False}


@dataclass(frozen=True, slots=True)
class Run:
    """All cells of one run, with what is needed to repeat it."""

    cells: tuple[Cell, ...]
    #: kind of broker: redis, sqlite
    broker: str
    command: str
    #: of the working tree; "" where there is none
    commit: str = ""
    when: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    machine: Mapping[str, Any] = field(default_factory=machine)
    versions: Mapping[str, str] = field(default_factory=versions)

    def cell(self, key: tuple[str, int, str]) -> Cell | None:
        return next((cell for cell in self.cells if cell.key == key and not cell.error), None)


def save(run: Run, target: Path) -> Path:
    """Write a run; into a folder under ``<date>-<machine>.json``. Return the file."""
    if target.suffix != ".json":
        target.mkdir(parents=True, exist_ok=True)
        stamp = run.when[:16].replace(":", "")
        target = target / f"{stamp}-{slug(dict(run.machine))}-{run.broker}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps({"kind": KIND, "format": FORMAT, **asdict(run)}, indent=1) + "\n")
    return target


def load(path: Path) -> Run:
    """Read a run; fields that this version does not know are left out."""
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as exc:
        raise ImproperlyConfigured(f"cannot read the earlier run {path}: {exc}") from exc
    if not isinstance(values, dict) or values.get("kind") != KIND:
        raise ImproperlyConfigured(f"{path} is not a saved run of the pool comparison (no kind {KIND!r} in it)")
    known = {f.name for f in fields(Cell)}
    cells = tuple(Cell(**{k: v for k, v in cell.items() if k in known}) for cell in values["cells"])
    return Run(
        cells,
        values["broker"],
        values["command"],
        values.get("commit", ""),
        values["when"],
        values["machine"],
        values["versions"],
    )


def find(wanted: str, folder: Path, broker: str) -> Path:
    """Return the file of an earlier run: a path, ``last`` (of the same kind of broker), or part of a file name in the folder."""
    if Path(wanted).is_file():
        return Path(wanted)
    files = sorted(folder.glob("*.json"))
    if wanted == "last":
        found = [path for path in files if path.stem.endswith(f"-{broker}")]
    else:
        found = [path for path in files if wanted in path.name]
    if not found:
        there = ", ".join(path.name for path in files) or "no runs"
        raise ImproperlyConfigured(f"no earlier run matches {wanted!r}; {folder} holds {there}")
    return found[-1]


@dataclass(frozen=True, slots=True)
class Change:
    """A cell against the same cell of an earlier run: now / before for each compared number, None where one is missing."""

    key: tuple[str, int, str]
    ratios: Mapping[str, float | None]

    def better(self, name: str, tolerance: float = 0.1) -> bool | None:
        """Say whether a number is better (True) or worse (False) by more than ``tolerance``; None: neither, or not known."""
        value = self.ratios.get(name)
        if value is None or 1 / (1 + tolerance) <= value <= 1 + tolerance:
            return None
        return (value > 1) is COMPARED[name]


def compare(now: Run, before: Run) -> dict[tuple[str, int, str], Change]:
    """Return the change of every cell that both runs have."""
    changes = {}
    for cell in now.cells:
        old = before.cell(cell.key)
        if old is not None and not cell.error:
            ratios = {name: ratio(getattr(cell, name), getattr(old, name)) for name in COMPARED}
            changes[cell.key] = Change(cell.key, ratios)
    return changes


def foreign(now: Run, before: Run) -> Sequence[str]:
    """Say what else than fastq differs between two runs, so that the ratios are read with care."""
    pairs: Iterable[tuple[str, object, object]] = (
        ("broker", now.broker, before.broker),
        ("CPU", now.machine.get("cpu"), before.machine.get("cpu")),
        ("number of CPUs", now.machine.get("cpus"), before.machine.get("cpus")),
        *(
            (name, now.versions.get(name), before.versions.get(name))
            for name in sorted({*now.versions, *before.versions} - {"fastq"})
        ),
    )
    return [f"{name}: {then or 'none'} then, {this or 'none'} now" for name, this, then in pairs if this != then]
