"""The nodes that say they live, from their heartbeats: asked of the broker, not of the nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastq._core import unpackb
from fastq.control.broadcasting import open_app_channel
from fastq.exceptions import DecodeError

if TYPE_CHECKING:
    from fastq.app import FastQ

__all__ = ["Online"]


class Online:
    """The part of ``app.control`` that reads heartbeats."""

    app: FastQ

    def nodes(self) -> dict[str, dict[str, Any]]:
        """Return what each live node has last said of itself, by name: pool, processes, slots, queues, state, counters; and
        ``age_s``, how long ago that was. A node that was killed stays for up to a lease (15 s)."""
        channel = open_app_channel(self.app)
        try:
            records = channel.nodes()
        finally:
            channel.close()
        found: dict[str, dict[str, Any]] = {}
        for name, record in records.items():
            try:
                info = unpackb(record.info)
            except DecodeError:
                info = {}  # of a version that writes otherwise; that it lives is known
            found[name] = {**(info if isinstance(info, dict) else {}), "age_s": record.age_ms / 1000}
        return found
