"""Canvas: calls that have not been made, combined into workflows.

``signature`` is one call; ``chain``, ``group`` and ``chord`` combine them; ``maps`` are many calls in one message; ``stamping``
puts headers on all of them. ``steps`` takes a combination apart, ``build`` makes of it what travels, ``sending`` sends that,
``local`` runs it here.
"""

from __future__ import annotations

from fastq.canvas.signature import Signature, maybe_signature, signature  # isort: skip
from fastq.canvas.chain import chain
from fastq.canvas.chord import chord
from fastq.canvas.group import group
from fastq.canvas.maps import chunks, xmap, xstarmap
from fastq.canvas.stamping import StampingVisitor

__all__ = [
    "Signature",
    "StampingVisitor",
    "chain",
    "chord",
    "chunks",
    "group",
    "maybe_signature",
    "maybe_subtask",
    "signature",
    "subtask",
    "xmap",
    "xstarmap",
]

#: Celery's older names
subtask = signature
maybe_subtask = maybe_signature
