"""One contract over all pools: every law of ``pool_laws.py`` on every pool, each pool in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import fastq.pools

LAWS_FILE = Path(__file__).with_name("pool_laws.py")
LAWS = [line.split("(")[0][4:] for line in LAWS_FILE.read_text().splitlines() if line.startswith("def law_")]
ENV = {**os.environ, "PYTHONPATH": str(Path(fastq.pools.__file__).parents[2])}


@cache
def outcomes(pool: str) -> dict[str, str]:
    """Run all laws on one pool; warnings are errors there too."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(LAWS_FILE), pool], capture_output=True, text=True, env=ENV, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("pool", fastq.pools.NAMES)
def test_law(pool: str, law: str) -> None:
    assert not (broken := outcomes(pool)[law]), broken
