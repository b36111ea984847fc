"""Every error fastq raises, in one tree.

    FastQError
    ├── OperationalError            the broker or backend could not be reached, or answered with an error
    │   └── Fenced                  (worker only) this process' lease was taken away
    ├── ImproperlyConfigured        a setting, URL or option cannot be used
    ├── NotRegistered               no task of that name            (also a KeyError)
    ├── AlreadyRegistered           two tasks of one name
    ├── DeadLetterNotFound          no dead letter of that id       (also a LookupError)
    ├── AmbiguousDeadLetter         that id names several           (also a ValueError)
    ├── ScheduleNotFound            no periodic entry of that name  (also a LookupError)
    ├── ContentDisallowed           a content type outside accept_content
    ├── SecurityError               a signature is missing or wrong, or a message wants what is not allowed
    ├── SerializationError          (also a ValueError)
    │   ├── EncodeError             a value cannot be written
    │   └── DecodeError             bytes cannot be read
    │       └── EnvelopeError       bytes are not an envelope
    ├── TimeoutError                a result did not come in time   (also the built-in TimeoutError)
    ├── TaskError                   how a task ended
    │   ├── TaskRevokedError        revoked or expired before it ran
    │   ├── WorkerLostError         its process died under it too often
    │   ├── ResultTooLarge          its return value is over result_max_bytes
    │   ├── SoftTimeLimitExceeded   raised inside the task when its soft time limit has passed
    │   ├── TimeLimitExceeded       its hard time limit has passed
    │   ├── MaxRetriesExceededError it asked for one retry too many
    │   ├── ChordError              a member of the chord whose body it is did not succeed
    │   └── IncompleteStream        a walk through results came to one that has not ended
    ├── TaskPredicate               raised by a task to say how it ends instead of returning or failing
    │   ├── Retry                   run it again later
    │   ├── Ignore                  keep no result
    │   └── Reject                  put it back, or give it up
    └── RemoteError                 stands in for a remote exception whose class is not importable here
        └── UnpickleableExceptionWrapper    Celery's name for the same

Warnings: DuplicateNodenameWarning (two nodes of one name), DuplicateTaskNameWarning (two tasks of one name where the second is
the one kept).
"""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

__all__ = [
    "AlreadyRegistered",
    "AmbiguousDeadLetter",
    "ChordError",
    "ContentDisallowed",
    "DeadLetterNotFound",
    "DecodeError",
    "DuplicateNodenameWarning",
    "DuplicateTaskNameWarning",
    "EncodeError",
    "EnvelopeError",
    "FastQError",
    "Fenced",
    "Ignore",
    "ImproperlyConfigured",
    "IncompleteStream",
    "MaxRetriesExceededError",
    "NotRegistered",
    "OperationalError",
    "Reject",
    "RemoteError",
    "ResultTooLarge",
    "Retry",
    "ScheduleNotFound",
    "SecurityError",
    "SerializationError",
    "SoftTimeLimitExceeded",
    "TaskError",
    "TaskPredicate",
    "TaskRevokedError",
    "TimeLimitExceeded",
    "TimeoutError",
    "UnpickleableExceptionWrapper",
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

    #: tags of the settlements in the same call that changed nothing
    skipped: tuple[str, ...] = ()


class ImproperlyConfigured(FastQError):
    """Say which setting, URL or option cannot be used, and what would be accepted."""


class NotRegistered(FastQError, KeyError):
    """Say that no task of this name is registered."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class AlreadyRegistered(FastQError):
    """Say that two different functions want one task name."""


class DeadLetterNotFound(FastQError, LookupError):
    """Say that no dead letter has this id."""


class AmbiguousDeadLetter(FastQError, ValueError):
    """Say which dead letters an id may mean."""


class ScheduleNotFound(FastQError, LookupError):
    """Say that no periodic entry has this name."""


class ContentDisallowed(FastQError):
    """Refuse a content type that is not in ``accept_content``."""


class SecurityError(FastQError):
    """Refuse what cannot be trusted."""


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


class SoftTimeLimitExceeded(TaskError):
    """Raised inside a task when its soft time limit has passed: it may clean up, and return or fail as it likes."""

    def __str__(self) -> str:
        return f"SoftTimeLimitExceeded{self.args!r}"


class TimeLimitExceeded(TaskError):
    """Say that a task ran longer than its hard time limit (the argument, s) and was ended."""

    def __str__(self) -> str:
        return f"TimeLimitExceeded{self.args!r}"


class MaxRetriesExceededError(TaskError):
    """Say that a task asked for a retry after ``max_retries`` of them. ``task_args`` and ``task_kwargs`` are the call's."""

    def __init__(self, *args: Any, task_args: Sequence[Any] = (), task_kwargs: Mapping[str, Any] | None = None) -> None:
        super().__init__(*args)
        self.task_args = tuple(task_args)
        self.task_kwargs = dict(task_kwargs or {})


class ChordError(TaskError):
    """Say that a chord's body did not run because a member of its header did not succeed."""


class IncompleteStream(TaskError):
    """Say that a walk through results came to one that has not ended."""


class TaskPredicate(FastQError):
    """Root of what a task raises to say how it ends."""


class Retry(TaskPredicate):
    """End this run; the task runs again. Raised by ``self.retry()``, or by the task itself.

    ``exc`` is why, ``when`` in how many seconds (or at which datetime). Both are pickled as they are.
    """

    #: the changed call, None: the same arguments and options
    call: Any = None

    def __init__(
        self,
        message: str | None = None,
        exc: BaseException | str | None = None,
        when: float | datetime | None = None,
        is_eager: bool = False,
        sig: Any = None,
        **options: Any,
    ) -> None:
        self.message = message
        if isinstance(exc, str):
            self.exc: BaseException | None = None
            self.excs: str | None = exc
        else:
            self.exc = exc
            self.excs = _repr(exc) if exc is not None else None
        self.when = when
        self.is_eager = is_eager
        self.sig = sig
        super().__init__(message, exc, when)

    def humanize(self) -> str:
        """Say when: "in 3s", "at ..."."""
        if isinstance(self.when, int | float):
            return f"in {self.when:g}s"
        return f"at {self.when}"

    def __str__(self) -> str:
        if self.message:
            return self.message
        if self.excs:
            return f"Retry {self.humanize()}: {self.excs}"
        return f"Retry {self.humanize()}"

    def __reduce__(self) -> Any:
        return type(self), (self.message, self.exc if self.exc is not None else self.excs, self.when)


class Ignore(TaskPredicate):
    """End this run and keep no result: the task has stored its own state, or wants none."""


class Reject(TaskPredicate):
    """End this run without a result: back into the queue (``requeue``), or into the dead letters."""

    def __init__(self, reason: Any = None, requeue: bool = False) -> None:
        self.reason = reason
        self.requeue = requeue
        super().__init__(reason, requeue)

    def __repr__(self) -> str:
        return f"reject requeue={self.requeue}: {self.reason}"


class RemoteError(FastQError):
    """Stand in for a remote exception whose class cannot be found in this process.

    A subclass named like the remote class is made on the fly, so logs and ``type(exc).__name__`` read the same.
    """


class UnpickleableExceptionWrapper(RemoteError):
    """Stand in for a remote exception that cannot be made again here."""


class DuplicateNodenameWarning(UserWarning):
    """Two nodes call themselves the same, so their answers cannot be told apart."""


class DuplicateTaskNameWarning(UserWarning):
    """Say that a task took the name of another one."""


def _repr(exc: BaseException) -> str:
    try:
        return repr(exc)
    except Exception:  # an exception whose repr fails is still the reason
        return type(exc).__name__
