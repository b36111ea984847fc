"""Steering from outside: what ``app.control`` is.

``client`` is the class; ``revoking`` ends single tasks, ``pausing`` keeps queues and tasks from starting, ``broadcasting`` asks
nodes and gathers their answers, ``steering`` has the commands and ``inspecting`` the questions, ``online`` reads heartbeats,
``catalogue`` is for command lines, ``stores`` needs no node.
"""

from __future__ import annotations

from fastq.control.client import Control
from fastq.control.inspecting import Inspect

__all__ = ["Control", "Inspect"]
