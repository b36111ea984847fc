"""The application: ``FastQ``, in parts by duty.

``application`` is the class; ``registry`` holds its tasks, ``sending`` sends by name, ``connections`` knows servers, ``modules``
imports what holds tasks, ``clock`` knows its time zone, ``once`` has its own signals, ``command`` makes a script its command line.
"""

from __future__ import annotations

from fastq.app.application import FastQ
from fastq.app.connections import DISABLED, EMBEDDED_FILE, embedded_url
from fastq.app.registry import AnyTask, TaskRegistry

__all__ = ["DISABLED", "EMBEDDED_FILE", "AnyTask", "FastQ", "TaskRegistry", "embedded_url"]
