#!/usr/bin/env python3
"""Run the shared peer harness with fastq's adapter in it.

    export BENCH_HARNESS=<folder of its run.py> BENCH_VENVS=<folder of virtual environments>
    python benchmarks/harness.py w2 fastq prefork1 --repeat 3
    python benchmarks/harness.py w2 celery solo

The harness is not changed: a temporary folder of links stands for it, with ``peers/fastq.py`` beside its own adapters and this
interpreter's environment as the virtual environment ``fastq``. Arguments are those of its run.py; JSON lines are printed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ADAPTER = Path(__file__).with_name("peers") / "fastq.py"


@contextmanager
def assembled(harness: Path, venvs: Path | None) -> Iterator[tuple[Path, Path]]:
    """Give the folders of a harness that knows fastq: its own, and that of the virtual environments."""
    if not (harness / "run.py").is_file():
        raise SystemExit(f"BENCH_HARNESS: there is no run.py in {harness}")
    with tempfile.TemporaryDirectory(prefix="fastq-harness-") as name:
        folder, environments = Path(name, "bench"), Path(name, "venvs")
        (folder / "peers").mkdir(parents=True)
        environments.mkdir()
        for entry in harness.iterdir():
            if entry.name != "peers":
                (folder / entry.name).symlink_to(entry.resolve())
        for entry in (harness / "peers").glob("*.py"):
            (folder / "peers" / entry.name).symlink_to(entry.resolve())
        link = folder / "peers" / ADAPTER.name
        link.unlink(missing_ok=True)
        link.symlink_to(ADAPTER.resolve())
        for entry in venvs.iterdir() if venvs is not None else ():
            if entry.name != "fastq":
                (environments / entry.name).symlink_to(entry.resolve())
        (environments / "fastq").symlink_to(sys.prefix)
        yield folder, environments


def run(harness: Path, venvs: Path | None, arguments: Sequence[str], timeout_s: float = 900.0) -> list[dict[str, Any]]:
    """Run one workload and return its records; RuntimeError if it failed."""
    with assembled(harness, venvs) as (folder, environments):
        env = {**os.environ, "BENCH_VENVS": str(environments), "BENCH_OUT": str(folder / "out.jsonl")}
        # snapshots of queues are made anew: they may hold another version's messages. Compiled modules are kept: a worker that
        # has to compile first starts slower and is larger for it
        scratch, compiled = folder.parent / "tmp", Path(tempfile.gettempdir(), "fastq-harness-pyc")
        scratch.mkdir()
        compiled.mkdir(exist_ok=True)
        (scratch / "pyc").symlink_to(compiled)
        env["BENCH_TMP"] = str(scratch)
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        command = [sys.executable, str(folder / "run.py"), *arguments]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout_s)
        records = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        if done.returncode or not records:
            raise RuntimeError(f"harness {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
        for record in records:
            if "error" in record:
                raise RuntimeError(f"harness {' '.join(arguments)}: {record['error']}")
        return records


def main() -> None:
    harness, venvs = os.environ.get("BENCH_HARNESS"), os.environ.get("BENCH_VENVS")
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        raise SystemExit(__doc__)
    if not harness:
        raise SystemExit("BENCH_HARNESS is not set: it names the folder of the harness' run.py")
    for record in run(Path(harness), Path(venvs) if venvs else None, sys.argv[1:]):
        print(json.dumps(record))


if __name__ == "__main__":
    main()
