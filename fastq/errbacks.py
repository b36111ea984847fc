"""Which of the two kinds of errback a task is."""

from __future__ import annotations

import inspect
from typing import Any

__all__ = ["takes_failure"]


def takes_failure(task: Any) -> bool:
    """Say whether an errback is of the newer kind: not bound, and with room for more than one positional argument."""
    if task.bind:
        return False
    try:
        parameters = inspect.signature(task.run).parameters.values()
    except (TypeError, ValueError):  # a built-in that does not say
        return False
    kinds = [p.kind for p in parameters]
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return inspect.Parameter.VAR_POSITIONAL in kinds or sum(kind in plain for kind in kinds) > 1
