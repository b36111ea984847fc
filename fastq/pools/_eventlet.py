"""Import eventlet without its notice that it is deprecated: whoever asked for the eventlet pool has chosen it knowingly."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message=r"\s*Eventlet is deprecated")  # its own category exists only once it is imported
    import eventlet

__all__ = ["eventlet"]
