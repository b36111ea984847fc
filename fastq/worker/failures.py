"""Turn what went wrong with a delivery into its settlement: a stored FAILURE or REVOKED, a dead letter, a log line."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any

from fastq import _core, signals, states
from fastq.ending import BAD_SIGNATURE
from fastq.exceptions import (
    ContentDisallowed,
    DecodeError,
    EncodeError,
    EnvelopeError,
    NotRegistered,
    Reject,
    RemoteError,
    ResultTooLarge,
    TaskRevokedError,
)
from fastq.pools.base import TaskCancelled, TaskKilled
from fastq.records import DEAD, DONE, Delivery, Settlement
from fastq.remote import encode_exception, format_traceback, repr_safe
from fastq.serialization import Serializers
from fastq.worker.effects import effects_of

__all__ = ["Failures", "dead_detail", "failure_record", "plain"]

logger = logging.getLogger("fastq.worker.trace")

#: reasons of dead letters
FAILED = "failed"
UNDECODABLE = "undecodable"
UNREGISTERED = "unregistered"
DISALLOWED = "content-disallowed"
BAD_ARGUMENTS = "undecodable-arguments"
BAD_RESULT = "unserializable-result"
RESULT_TOO_LARGE = "result-too-large"
REJECTED = "rejected"


#: signals remembered for tasks that may have ended
SIGNUMS = 10_000

#: characters of an error and of a traceback that a dead letter keeps; the result has all of both
ERROR_MAX = 4_096
TRACEBACK_MAX = 16_384


def failure_record(
    serializers: Serializers, exc: BaseException, now_ms: int, state: str = states.FAILURE, traceback: str | None = None
) -> bytes:
    """Return the result record of an exception."""
    content_type, body, text = encode_exception(exc, serializers)
    return _core.encode_result(state, content_type, body, traceback if traceback is not None else text, now_ms, None)


def dead_detail(d: Delivery, error: str, traceback: str | None = None, node: str = "") -> bytes:
    """Return what a dead letter says beside its message: its id and name too, for those whose message cannot be read."""
    detail = {
        "id": d.id,
        "name": d.name,
        "error": _bounded(_writable(error), ERROR_MAX),
        "deliveries": d.deliveries,
        "node": node,
    }
    if traceback:
        detail["traceback"] = _bounded(_writable(traceback), TRACEBACK_MAX)
    return _core.packb(detail)


def _bounded(text: str, most: int) -> str:
    """Leave out the middle of a long text: a traceback says at its end what has happened, and at its beginning where."""
    if len(text) <= most:
        return text
    head = most // 4
    return f"{text[:head]}\n... {len(text) - most} characters left out ...\n{text[-(most - head) :]}"


def _writable(text: str) -> str:
    """Return the text with what UTF-8 cannot write spelled out: file names and terminals bring such characters."""
    return text.encode("utf-8", "backslashreplace").decode()


def plain(accept: Collection[str]) -> str:
    """Name the content types accepted, without their compressed forms."""
    return ", ".join(sorted(content_type for content_type in accept if ";" not in content_type))


class Failures:
    """Make the settlements of deliveries that did not end in a return value.

    ``stores``: whether there is a result backend at all. ``node`` is named by dead letters. Called from slots: keeps no state but
    its configuration.
    """

    def __init__(
        self, serializers: Serializers, *, stores: bool, errors_even_if_ignored: bool, now_ms: Callable[[], int], node: str = ""
    ) -> None:
        self._serializers = serializers
        self._stores = stores
        self._even_if_ignored = errors_even_if_ignored
        self._now_ms = now_ms
        self._node = node
        #: by task id
        self._signums: dict[str, int | None] = {}

    # --- exceptions from a slot ---

    def on_error(self, d: Delivery, exc: BaseException, runtime_ns: int) -> Settlement:
        """Settle a delivery whose run raised (also: whose arguments or result could not be read or written).

        What this raises itself becomes a dead letter, made by the core.
        """
        try:
            return self.terminated(d) if self.is_cancellation(exc) else self.failed(d, exc)
        except (TaskCancelled, TaskKilled):  # thrown at the task from outside, after it had failed: a slot is struck only once
            return self.terminated(d)

    @staticmethod
    def is_cancellation(exc: BaseException) -> bool:
        """Tell what a pool raises in a task to end it from what the task raises itself."""
        if isinstance(exc, TaskCancelled | TaskKilled):
            return True
        # whoever raises asyncio's has imported it: it costs 30 ms, and most workers run no coroutine
        asyncio = sys.modules.get("asyncio.exceptions")
        return asyncio is not None and isinstance(exc, asyncio.CancelledError)

    @staticmethod
    def is_own(exc: BaseException) -> bool:
        """Tell what a task raises from fastq's own errors in reading its arguments or writing its result."""
        return _reason(exc) == FAILED

    def failed(
        self, d: Delivery, exc: BaseException, meta: dict[str, Any] | None = None, *, expected: bool = False
    ) -> Settlement:
        """Settle a task that has failed for good. ``expected``: the task has announced such an exception (``throws``)."""
        content_type, body, text = self._encode(exc)
        if expected:
            logger.info("Task %s[%s] raised expected: %s", d.name, d.id, repr_safe(exc), extra=_about(d))
        else:
            self._log_unexpected(d, exc, text)
        record = _core.encode_result(states.FAILURE, content_type, body, text, self._now_ms(), meta)
        return self._dead(d, _reason(exc), f"{type(exc).__name__}: {_text(exc)}", record, text)

    def unjoined(self, d: Delivery, exc: BaseException, meta: dict[str, Any] | None = None) -> Settlement:
        """Settle the body of a chord that cannot run because a member failed: trying it again would not help, so it is no
        dead letter; the member is one."""
        content_type, body, text = self._encode(exc)
        self._log_unexpected(d, exc, "")
        now_ms = self._now_ms()
        record = _core.encode_result(states.FAILURE, content_type, body, text, now_ms, meta)
        return Settlement(
            d.queue, d.tag, d.id, DONE, result=record if self._wanted(d) else None, inbox=d.inbox, record=d.record,
            effects=effects_of(d, record, now_ms),
        )  # fmt: skip

    def rejected(self, d: Delivery, exc: Reject) -> Settlement:
        return self._dead(d, REJECTED, f"Reject: {_text(exc)}", self._record(exc))

    @staticmethod
    def _log_unexpected(d: Delivery, exc: BaseException, text: str) -> None:
        logger.error(
            "Task %s[%s] raised unexpected: %s%s",
            d.name,
            d.id,
            repr_safe(exc),
            "\n" + text.rstrip() if text else "",
            extra=_about(d),
        )

    def _encode(self, exc: BaseException) -> tuple[str, bytes, str]:
        try:
            return encode_exception(exc, self._serializers)
        except EncodeError:  # its text, or its class' name, is not valid Unicode: tell it as far as it can be told
            plain = RemoteError(_writable(_text(exc)))
            plain.remote_class = (_writable(type(exc).__module__), _writable(type(exc).__qualname__))  # type: ignore[attr-defined]
            content_type, body, _ = encode_exception(plain, self._serializers)
            return content_type, body, _writable(format_traceback(exc))

    def terminated(self, d: Delivery) -> Settlement:
        """Settle a task that was ended from outside while it ran."""
        logger.warning("Task %s[%s] was terminated", d.name, d.id, extra=_about(d))
        return self._ended(d, "terminated", self.signum_of(d.id))

    def signum_of(self, task_id: str) -> int | None:
        """Return the number of the signal that a task was revoked with, None: it was not."""
        return self._signums.get(task_id)

    def terminating(self, names: Mapping[str, str]) -> None:
        """Remember the signals with which tasks were revoked, by id: those that run may be ended by them."""
        if len(self._signums) > SIGNUMS:
            self._signums.clear()
        self._signums.update((id, getattr(signal, name, None)) for id, name in names.items())

    # --- refused by the gate ---

    def undecodable(self, d: Delivery, why: str) -> Settlement:
        record = self._record(EnvelopeError(why)) if d.id else None
        return self._dead(d, UNDECODABLE, why, record)

    def unregistered(self, d: Delivery) -> Settlement:
        exc = NotRegistered(f"no task named {d.name!r} is registered with the worker that received it")
        if signals.task_unknown.receivers:
            signals.task_unknown.send(sender=None, message=d, exc=exc, name=d.name, id=d.id)
        return self._dead(d, UNREGISTERED, str(exc), self._record(exc))

    def untrusted(self, d: Delivery, why: str) -> Settlement:
        """Settle what is not signed as it should be. Nothing that it says is believed, so nobody is told and nothing follows."""
        detail = dead_detail(d, f"SecurityError: {why}", node=self._node)
        return Settlement(d.queue, d.tag, d.id, DEAD, reason=BAD_SIGNATURE, detail=detail, record=d.record)

    def disallowed(self, d: Delivery, accept: Collection[str]) -> Settlement:
        exc = ContentDisallowed(f"content type {d.content_type!r} is not accepted by the worker (accept_content: {plain(accept)})")
        return self._dead(d, DISALLOWED, str(exc), self._record(exc))

    def expired(self, d: Delivery) -> Settlement:
        return self._ended(d, "expired")

    def revoked(self, d: Delivery) -> Settlement:
        return self._ended(d, "revoked")

    # ---

    def _ended(self, d: Delivery, why: str, signum: int | None = None) -> Settlement:
        """Settle a task that does not run, or not to its end, though nothing has failed."""
        if signals.task_revoked.receivers:
            from fastq.context import Context  # lazy: only where somebody listens

            task = d.entry.task if d.entry is not None else None
            signals.task_revoked.send(
                sender=task, request=Context(task, d), terminated=why == "terminated", signum=signum, expired=why == "expired"
            )
        record = self._record(TaskRevokedError(why), states.REVOKED)
        return Settlement(
            d.queue, d.tag, d.id, DONE, result=record if self._wanted(d) else None, inbox=d.inbox, reason=why, record=d.record,
            effects=effects_of(d, record, self._now_ms(), errbacks=False),
        )  # fmt: skip

    def _record(self, exc: BaseException, state: str = states.FAILURE) -> bytes:
        return failure_record(self._serializers, exc, self._now_ms(), state, traceback="")

    def _wanted(self, d: Delivery) -> bool:
        if not self._stores:
            return False
        if not d.ignore_result:
            return True
        own = None if d.entry is None else getattr(d.entry.task, "store_errors_even_if_ignored", None)
        return bool(self._even_if_ignored if own is None else own)

    def _dead(self, d: Delivery, reason: str, error: str, record: bytes | None, traceback: str | None = None) -> Settlement:
        options: dict[str, Any] = {}
        if record is not None and d.id:
            options["effects"] = effects_of(d, record, self._now_ms())
            if self._wanted(d):
                options.update(result=record, inbox=d.inbox)
        return Settlement(
            d.queue, d.tag, d.id, DEAD, reason=reason, detail=dead_detail(d, error, traceback, self._node), record=d.record,
            **options,
        )  # fmt: skip


def _reason(exc: BaseException) -> str:
    """Return why a delivery becomes a dead letter."""
    if isinstance(exc, EncodeError) and _from_core(exc):
        return BAD_RESULT
    if isinstance(exc, ResultTooLarge) and _from_core(exc):
        return RESULT_TOO_LARGE
    if isinstance(exc, DecodeError | ContentDisallowed) and _from_core(exc):
        return BAD_ARGUMENTS
    return FAILED


def _about(d: Delivery) -> dict[str, str]:
    return {"task_id": d.id, "task_name": d.name}


def _text(exc: BaseException) -> str:
    try:
        return str(exc)
    except Exception:  # an exception whose text cannot be formed must still be reported
        return "<no text>"


def _from_core(exc: BaseException) -> bool:
    """Tell fastq's own error in loading or storing from the same class raised inside the task: only the latter has the
    task's frames in its traceback (more than one level of Python code outside fastq)."""
    tb = exc.__traceback__
    while tb is not None:
        module = tb.tb_frame.f_globals.get("__name__", "")
        if not str(module).startswith("fastq."):
            return False
        tb = tb.tb_next
    return True
