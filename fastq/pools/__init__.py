"""The registry of pools: names, aliases, and which of them need a monkey patched process.

Importing this module loads no pool, no gevent, no eventlet and no asyncio: the supervisor asks it too, and is never patched.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

from fastq.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from fastq.pools.base import Pool

__all__ = [
    "ALIASES",
    "NAMES",
    "canonical_name",
    "check_installed",
    "make_pool",
    "needs_patching",
    "patch",
    "slots_are_processes",
]

#: what ``--pool`` takes, and what each name was called elsewhere
ALIASES: Final = {"processes": "prefork", "aio": "asyncio"}

#: a prefork process is a solo process: one slot, in its main thread
_CLASSES: Final = {
    "prefork": ("fastq.pools.solo", "SoloPool"),
    "threads": ("fastq.pools.threads", "ThreadsPool"),
    "gevent": ("fastq.pools.gevent", "GeventPool"),
    "eventlet": ("fastq.pools.eventlet", "EventletPool"),
    "asyncio": ("fastq.pools.aio", "AsyncioPool"),
    "solo": ("fastq.pools.solo", "SoloPool"),
}

#: pools whose library is an extra of the same name
_EXTRAS: Final = frozenset({"gevent", "eventlet"})

NAMES: Final = tuple(_CLASSES)


def canonical_name(name: str) -> str:
    """Return the pool's own name for a name or an alias; ImproperlyConfigured names the known ones."""
    canonical = ALIASES.get(name, name)
    if canonical in _CLASSES:
        return canonical
    import difflib  # lazy: only for the message

    known = [*NAMES, *ALIASES]
    close = difflib.get_close_matches(str(name).lower(), known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ImproperlyConfigured(f"unknown pool {name!r}.{hint} Known pools: {', '.join(known)}.")


def needs_patching(name: str) -> bool:
    """Tell if a process of this pool has to call ``patch`` before it imports anything else (so it can never be forked)."""
    return canonical_name(name) in _EXTRAS


def slots_are_processes(name: str) -> bool:
    """Tell if ``--concurrency`` counts processes of one slot, not slots of one process."""
    return canonical_name(name) == "prefork"


def check_installed(name: str) -> None:
    """Raise ImproperlyConfigured when the pool's library is missing; imports nothing, so the supervisor can ask."""
    import importlib.util  # lazy: only the supervisor asks, once

    canonical = canonical_name(name)
    if canonical in _EXTRAS and importlib.util.find_spec(canonical) is None:
        raise _missing(canonical, f"No module named {canonical!r}")


def patch(name: str) -> None:
    """Monkey patch this process for the pool: all of the standard library that the runtime can make cooperative.

    For scripts that make a pool themselves, before they import anything else; does nothing for the other pools. The entry of a
    worker process does the same even before it imports fastq, because locks made earlier stay unpatched.
    """
    canonical = canonical_name(name)
    if canonical not in _EXTRAS:
        return
    try:
        if canonical == "gevent":
            from gevent import monkey  # lazy: only gevent processes

            monkey.patch_all()
        else:
            from fastq.pools._eventlet import eventlet  # lazy: only eventlet processes

            eventlet.monkey_patch()
    except ImportError as error:
        raise _missing(canonical, str(error)) from error


def make_pool(name: str, slots: int) -> Pool:
    """Build the pool of that name with so many slots in this process; ImproperlyConfigured if it cannot be.

    ``solo`` and ``prefork`` have one slot whatever is asked: more of it means more processes.
    """
    canonical = canonical_name(name)
    if slots < 1:
        raise ImproperlyConfigured(f"the {canonical} pool was asked for {slots} slots, expected 1 or more")
    module_name, class_name = _CLASSES[canonical]
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        if canonical not in _EXTRAS:
            raise
        raise _missing(canonical, str(error)) from error
    pool: Pool = getattr(module, class_name)(slots)
    return pool


def _missing(name: str, seen: str) -> ImproperlyConfigured:
    return ImproperlyConfigured(f"the {name} pool needs {name}, which cannot be imported ({seen}): pip install 'fastq[{name}]'")
