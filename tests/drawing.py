"""How much of the dearest suites an ordinary test run does: a part of the pools and brokers of each test, the same for one seed.

``FASTQ_ALL_CASES=1`` (``make test ALL=1``) and ``FASTQ_CHAOS_ROUNDS`` (``make chaos``) run them all; so does naming one test.
``FASTQ_CHAOS_SEED`` draws others.
"""

from __future__ import annotations

import os
import random
from collections import defaultdict
from pathlib import Path

import pytest

from tests.workers import POOLS

__all__ = ["draw"]

#: what a test is drawn by; cases of anything else are all run
AXES = frozenset({*POOLS, "redis", "sqlite"})


def draw(config: pytest.Config, items: list[pytest.Item], here: Path, *, share: float, least: int) -> None:
    """Leave out cases of the tests below ``here`` that have at least ``least`` of them; ``share`` is what stays, one at least."""
    asked = os.environ.get("FASTQ_CHAOS_ROUNDS") or os.environ.get("FASTQ_ALL_CASES")
    if asked or any("::" in argument for argument in config.args):
        return
    seed = os.environ.get("FASTQ_CHAOS_SEED") or "1"
    cases: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        params = getattr(item, "callspec", None)
        if here in item.path.parents and (here.name == "chaos" or (params and AXES.intersection(map(str, params.params.values())))):
            cases[item.nodeid.partition("[")[0]].append(item)
    left_out: set[pytest.Item] = set()
    for name, same in cases.items():
        if len(same) >= least:
            # drawn, not every second one: of pools x brokers that would be one broker alone
            left_out.update(random.Random(f"{seed} {name}").sample(same, len(same) - max(1, round(len(same) * share + 0.25))))
    if left_out:
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=list(left_out))
