"""The same brokers and application as the integration suite; and how much of this suite an ordinary test run does.

``make test`` runs the short form: every test, on a quarter of its pools and brokers (see ``tests.drawing``). ``make chaos`` runs
them all.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.drawing import draw
from tests.integration.conftest import broker_url, folder, tasks

__all__ = ["broker_url", "folder", "tasks"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    draw(config, items, Path(__file__).parent, share=1 / 4, least=2)
