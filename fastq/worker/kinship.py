"""Who is whose child, and who dies with whom (Linux: ``prctl``)."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time

__all__ = ["adopt_orphans", "die_with"]

#: from <linux/prctl.h>
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

#: seconds a process waits to become its supervisor's child; the process in between only has to exit
ADOPTION_S = 10.0


def _prctl(option: int, value: int) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    return bool(ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) == 0)


def adopt_orphans(adopt: bool = True) -> bool:
    """Become the parent of every descendant whose own parent exits (or stop being it); False: this system cannot."""
    return _prctl(PR_SET_CHILD_SUBREAPER, int(adopt))


def die_with(parent: int, *, adopted: bool = False) -> bool:
    """Ask to be killed when ``parent`` dies; False if it is dead already (then exit).

    ``adopted``: wait first until ``parent`` has become the parent. Linux sends the signal when the parent changes, so asking
    before the adoption would be an early death; and a parent that died between the look and the request sends nothing,
    so look again afterwards.
    """
    if adopted:
        deadline_s = time.monotonic() + ADOPTION_S
        while os.getppid() != parent:
            if time.monotonic() > deadline_s or os.getppid() == 1:
                return False
            time.sleep(0.0005)
    if os.getppid() != parent:
        return False
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    return os.getppid() == parent
