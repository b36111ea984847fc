"""Small pieces of binary that scripts and readers of inboxes take apart."""

from __future__ import annotations

from array import array
from typing import Any

from fastq._core import packb

__all__ = ["array_bytes", "notice"]


def notice(items: list[Any]) -> bytes:
    """Write an inbox message: [id, record or nil, ...]."""
    return packb(items)


def array_bytes(numbers: list[int]) -> bytes:
    """Write numbers below 65,536 as two bytes each, low byte first."""
    packed = array("H", numbers)
    if _BIG_ENDIAN:
        packed.byteswap()
    return packed.tobytes()


_BIG_ENDIAN = array("H", [1]).tobytes() != b"\x01\x00"
