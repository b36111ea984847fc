"""Dead letters: the messages that will not run again, to be looked at, put back or dropped. ``app.dead_letters`` is the way in."""

from __future__ import annotations

from fastq.dead.letter import REASONS, Letter
from fastq.dead.letters import DeadLetters, Handled
from fastq.dead.opened import Event, Opened

__all__ = ["REASONS", "DeadLetters", "Event", "Handled", "Letter", "Opened"]
