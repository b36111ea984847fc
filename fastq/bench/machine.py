"""What a number is worth without: where and with which versions it was measured."""

from __future__ import annotations

import os
import platform
import re
from importlib import metadata
from pathlib import Path

__all__ = ["cpu_model", "cpus", "machine", "slug", "versions"]

#: distributions that are in the path of a measured task
_DISTRIBUTIONS = ("fastq", "redis", "hiredis", "gevent", "eventlet", "msgpack")


def cpus() -> int:
    """Return how many CPUs this process may use."""
    try:
        return len(os.sched_getaffinity(0)) or 1
    except AttributeError:
        return os.cpu_count() or 1


def cpu_model() -> str:
    """Return the CPU's own name, or the architecture where it has none."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def machine() -> dict[str, object]:
    """Describe the machine; no host name: results are published."""
    return {
        "cpu": cpu_model(),
        "cpus": cpus(),
        "architecture": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
    }


def slug(described: dict[str, object]) -> str:
    """Return a short name for a described machine that fits in a file name."""
    words = re.sub(r"\([^)]*\)|@.*|\b(cpu|processor)\b", " ", str(described["cpu"]), flags=re.IGNORECASE)
    name = re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")
    return f"{name or 'machine'}-{described['cpus']}cpu"


def versions() -> dict[str, str]:
    """Return the versions of Python and of what takes part."""
    found = {"python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
