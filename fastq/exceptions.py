"""Every error fastq raises, in one tree.

    FastQError
    ├── OperationalError            the broker or backend could not be reached, or answered with an error
    │   └── Fenced                  (worker only) this process' lease was taken away
    ├── ImproperlyConfigured        a setting, URL or option cannot be used
    ├── NotRegistered               no task of that name            (also a KeyError)
    ├── AlreadyRegistered           two tasks of one name
    ├── ContentDisallowed           a content type outside accept_content
    ├── SerializationError          (also a ValueError)
    │   ├── EncodeError             a value cannot be written
    │   └── DecodeError             bytes cannot be read
    │       └── EnvelopeError       bytes are not an envelope
    ├── TimeoutError                a result did not come in time   (also the built-in TimeoutError)
    ├── TaskError                   how a task ended
    │   ├── TaskRevokedError        revoked or expired before it ran
    │   ├── WorkerLostError         its process died under it too often
    │   └── ResultTooLarge          its return value is over result_max_bytes
    └── RemoteError                 stands in for a remote exception whose class is not importable here
"""

from __future__ import annotations

import builtins
from collections.abc import Sequence

__all__ = [
    "AlreadyRegistered",
    "ContentDisallowed",
    "DecodeError",
    "EncodeError",
    "EnvelopeError",
    "FastQError",
    "Fenced",
    "ImproperlyConfigured",
    "NotRegistered",
    "OperationalError",
    "RemoteError",
    "ResultTooLarge",
    "SerializationError",
    "TaskError",
    "TaskRevokedError",
    "TimeoutError",
    "WorkerLostError",
]


class FastQError(Exception):
    """Root of everything fastq raises on its own account."""


class OperationalError(FastQError):
    """Say that the broker or backend could not be reached, or refused.

    After a publish, ``task_ids`` names the tasks of which it is unknown whether the broker kept them.
    """

    def __init__(self, message: str, *, task_ids: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.task_ids = tuple(task_ids)


class Fenced(OperationalError):
    """Say that a process' lease is missing or condemned: it must take a new name."""


class ImproperlyConfigured(FastQError):
    """Say which setting, URL or option cannot be used, and what would be accepted."""


class NotRegistered(FastQError, KeyError):
    """Say that no task of this name is registered."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class AlreadyRegistered(FastQError):
    """Say that two different functions want one task name."""


class ContentDisallowed(FastQError):
    """Refuse a content type that is not in ``accept_content``."""


class SerializationError(FastQError, ValueError):
    """Root of encode and decode errors."""


class EncodeError(SerializationError):
    """Say which value of which type the serializer cannot write."""


class DecodeError(SerializationError):
    """Say what in the bytes cannot be read."""


class EnvelopeError(DecodeError):
    """Say that bytes are not an envelope that this version reads."""


class TimeoutError(FastQError, builtins.TimeoutError):
    """Say that a result did not come in time."""

    def __init__(self, message: str = "The operation timed out.") -> None:
        super().__init__(message)


class TaskError(FastQError):
    """Root of the ways a task can end without its own function deciding so."""


class TaskRevokedError(TaskError):
    """Say that the task was revoked, or expired before it could run."""


class WorkerLostError(TaskError):
    """Say that the process running the task died, as often as ``task_max_deliveries`` allows."""


class ResultTooLarge(TaskError):
    """Say that a return value is larger than ``result_max_bytes``."""


class RemoteError(FastQError):
    """Stand in for a remote exception whose class cannot be found in this process.

    A subclass named like the remote class is made on the fly, so logs and ``type(exc).__name__`` read the same.
    """
