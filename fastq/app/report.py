"""What a report of a fault should say."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from typing import TYPE_CHECKING

from fastq.settings.masking import mask_url

if TYPE_CHECKING:
    from fastq.app.application import FastQ

__all__ = ["bugreport"]

#: what fastq uses where it is installed
LIBRARIES = (
    "redis", "hiredis", "msgpack", "click", "rich", "gevent", "eventlet", "greenlet", "pyyaml", "pydantic", "cryptography",
    "django",
)  # fmt: skip


def bugreport(app: FastQ) -> str:
    """Return versions, platform, where messages and results are kept, and the settings, without secrets."""
    versions = [f"{name}:{version}" for name in ("fastq", *LIBRARIES) if (version := _version(name))]
    lines = [
        f"software -> {' '.join(versions)} py:{platform.python_version()}",
        f"platform -> system:{platform.system()} arch:{platform.machine()} kernel:{platform.release()} "
        f"imp:{sys.implementation.name}",
        f"application -> {app.name} tasks:{len(app.tasks)}",
        f"transport -> {mask_url(app.broker_url)} results:{mask_url(app.backend_url)}",
        "",
        app.conf.humanize(with_defaults=False, censored=True),
    ]
    return "\n".join(lines) + "\n"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
