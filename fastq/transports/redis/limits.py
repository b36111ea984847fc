"""Bounds on what one call asks of the server, which runs one script at a time."""

from __future__ import annotations

__all__ = ["CALL_BYTES", "CALL_MESSAGES"]

#: messages of one call at most: 1,000 take the server about 1 ms
CALL_MESSAGES = 1_000

#: bytes of messages of one call at most, about; a larger message travels alone (200 x 1 MiB in one fetch held a server for 2 s)
CALL_BYTES = 1 << 20
