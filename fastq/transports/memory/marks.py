"""Read the redelivery mark that a message charged for a dead process starts with."""

from __future__ import annotations

__all__ = ["charged", "unmarked"]


def charged(message: bytes) -> int:
    """Return how often a message was charged: the low bits of its mark."""
    return message[1] & 0x7F if _marked(message) else 0


def unmarked(message: bytes) -> bytes:
    """Return the message as it was published."""
    return message[2:] if _marked(message) else message


def _marked(message: bytes) -> bool:
    return len(message) > 1 and message[0] == 0xC1
