"""What a worker says to whoever started it, whatever the log level is."""

from __future__ import annotations

import logging
import sys

__all__ = ["say", "say_ready"]

logger = logging.getLogger("fastq.worker")


def say_ready(node: str) -> None:
    """Say that tasks are taken from now on: whoever started a worker waits for this line."""
    if logger.isEnabledFor(logging.INFO):
        logger.info("%s ready.", node)
    else:
        print(f"{node} ready.", file=sys.__stderr__, flush=True)


def say(line: str) -> None:
    """Tell the user what they asked for."""
    # not sys.stderr: what tasks print there goes to the log
    print(f"\n{line}", file=sys.__stderr__, flush=True)
