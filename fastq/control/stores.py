"""The application's queues, and the inspector of its broker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastq.transports import open_inspector

if TYPE_CHECKING:
    from fastq.app import FastQ
    from fastq.transports.base import Inspector

__all__ = ["open_app_inspector", "queues_of"]


def queues_of(app: FastQ) -> list[str]:
    """Return the names of the queues that the application's settings know."""
    return list(app.router.queues)


def open_app_inspector(app: FastQ) -> Inspector:
    """Return an inspector of the application's broker, the caller's to close."""
    return open_inspector(app.broker_url, app.transport_options())
