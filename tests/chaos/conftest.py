"""The same brokers and application as the integration suite; and how much of this suite an ordinary test run does.

``make test`` runs the short form: every test, on a third of its pools and brokers, always the same ones for one
``FASTQ_CHAOS_SEED``. ``make chaos`` (``FASTQ_CHAOS_ROUNDS``) runs them all; so does naming one test.
"""

from __future__ import annotations

import os
import random
from collections import defaultdict
from pathlib import Path

import pytest

from tests.integration.conftest import broker_url, folder, tasks

__all__ = ["broker_url", "folder", "tasks"]

HERE = Path(__file__).parent


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out two thirds of the cases of a test that has several, unless all are asked for."""
    if os.environ.get("FASTQ_CHAOS_ROUNDS") or any("::" in argument for argument in config.args):
        return
    seed = os.environ.get("FASTQ_CHAOS_SEED") or "1"
    cases: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if HERE in item.path.parents:
            cases[item.nodeid.partition("[")[0]].append(item)
    left_out: set[pytest.Item] = set()
    for name, same in cases.items():
        if len(same) > 1:
            # drawn, not every second one: of pools x brokers that would be one broker alone
            left_out.update(random.Random(f"{seed} {name}").sample(same, len(same) - -(-len(same) // 3)))
    if left_out:
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=list(left_out))
