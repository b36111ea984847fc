"""The same brokers and application as the integration suite."""

from tests.integration.conftest import broker_url, folder, tasks

__all__ = ["broker_url", "folder", "tasks"]
