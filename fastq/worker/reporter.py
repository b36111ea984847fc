"""Tell of the tasks of this process, while somebody wants to know: the core notes runs, batches of them go out now and then.

Where nobody listens there is no trace, and the cost is one look at a pointer a run.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from fastq import states
from fastq._core import HELD, STARTED, ProcessBoard, Runner, Trace, decode_result, unpackb
from fastq.events.batch import ENDED, RUNS_ON, pack, what_of
from fastq.exceptions import Ignore, Reject, Retry
from fastq.records import DEAD, RETRY, Delivery, Settlement
from fastq.remote import repr_safe
from fastq.retries import Replaced
from fastq.worker.failures import Failures

if TYPE_CHECKING:
    from fastq._core import Registry
    from fastq.events.outbox import Outbox
    from fastq.worker.held import Held

__all__ = ["Reporter"]

#: seconds between two batches
FLUSH_S = 0.1
#: runs that did not succeed, and beginnings, told with one batch
TOLD_MAX = 200
#: deliveries of which it is remembered what was told
BEGUN_MAX = 2_000
#: characters of an exception and of its traceback
EXCEPTION_MAX = 1_024
TRACEBACK_MAX = 8_192


class Reporter:
    """Keep the trace of one process. Owned by the consumer's loop; only ``_ended`` is called from slots."""

    def __init__(
        self,
        runner: Runner,
        board: ProcessBoard,
        outbox: Callable[[], Outbox],
        registry: Callable[[], Registry],
        node: str,
        rate: int | None,
        signum_of: Callable[[str], int | None] = lambda task_id: None,
    ) -> None:
        """``rate``: tasks told in a second at most, None: all of them. ``signum_of``: the signal that a task was revoked with."""
        self._runner = runner
        self._board = board
        self._open_outbox = outbox
        self._registry = registry
        self._node = node
        self._signum_of = signum_of
        #: in a second; those of one second may come at once
        self._rate = rate or 1 << 40
        self._allowed = float(self._rate)
        self._allowed_s = 0.0
        self._trace: Trace | None = None
        #: never dropped: a slot may be about to write into it
        self._kept: Trace | None = None
        self._outbox: Outbox | None = None
        self._told: deque[dict[str, Any]] = deque()
        self._left = 0
        #: what was told of deliveries that have not ended, by ``id``; not by record: the next delivery may have the same
        self._begun: dict[int, tuple[Delivery, int]] = {}
        self._flush_at = 0.0
        self._seen_ms = 0
        self._offset_ms: int | None = None

    # --- on and off ---

    @property
    def on(self) -> bool:
        return self._trace is not None

    def obey(self, order: dict[str, Any]) -> None:
        """Carry out ``{"do": "events", "on": bool}``."""
        if order["on"] and self._trace is None:
            self._outbox = self._open_outbox()
            trace = self._kept
            if trace is None:  # an empty one is false
                trace = Trace(other=self._ended, most=self._rate, silent=self._silent())
            trace.take()
            self._kept = self._trace = self._runner.trace = trace
            self._allowed_s = time.monotonic()
            self._flush_at = self._allowed_s + FLUSH_S
        elif not order["on"] and self._trace is not None:
            self._flush(())
            self._runner.trace = self._trace = None
            self._begun.clear()

    def _silent(self) -> frozenset[int]:
        """Return the indexes of tasks that want no events (``send_events=False``)."""
        registry = self._registry()
        entries = [entry for name in registry.names() if (entry := registry.get(name)) is not None]
        return frozenset(entry.index for entry in entries if not getattr(entry.task, "send_events", True))

    def close(self) -> None:
        """Tell what is left to tell."""
        self.obey({"on": False})
        if self._outbox is not None:
            self._outbox.close()

    # --- what there is to tell ---

    def refused(self, d: Delivery, settlement: Settlement) -> None:
        """A delivery has ended without a run."""
        if self._trace is None or not d.id or self._is_silent(d):
            return
        if settlement.verdict == DEAD:
            self._tell(d, "task-failed", **_failure_of(settlement))
        else:
            now_ms = self._runner.now_ms or int(time.time() * 1000)
            expired = bool(d.expires_ms and d.expires_ms <= now_ms)
            self._tell(d, "task-revoked", terminated=False, signum=None, expired=expired)

    def _ended(self, d: Delivery, settlement: Settlement, error: BaseException, elapsed_ns: int) -> None:
        """A run has ended otherwise than by returning; called in its slot."""
        kind, fields = _kind_of(settlement, error)
        if kind == "task-revoked":
            signum = self._signum_of(d.id)
            fields["signum"] = None if signum is None else int(signum)
        now_s = time.time()
        self._tell(d, kind, at_s=now_s, started=now_s - elapsed_ns / 1e9, **fields)

    def _is_silent(self, d: Delivery) -> bool:
        return d.entry is not None and not getattr(d.entry.task, "send_events", True)

    def _tell(self, d: Delivery, kind: str, *, at_s: float | None = None, of_task: int = ENDED, **fields: Any) -> None:
        if len(self._told) >= TOLD_MAX:
            self._left += 1
            return
        at_s = time.time() if at_s is None else at_s
        trace, began_s = self._trace, fields.get("started", at_s)
        if trace is not None and d.record >= 0:
            waited_ms = trace.waited_ms(self._board, d.record, int(at_s * 1000))[1]
            if waited_ms >= 0:
                fields["received"] = min(began_s, at_s - waited_ms / 1000)
        fields.setdefault("received", began_s)
        self._told.append({"type": kind, "timestamp": at_s, "of_task": of_task, "uuid": d.id, **what_of(d), **fields})

    # --- when ---

    def look(self, held: Held) -> None:
        """Send a batch if one is due; called each time round the consumer's loop while this is on."""
        trace = self._trace
        if trace is None:
            return
        now_ms = self._runner.now_ms
        if now_ms and now_ms != self._seen_ms:
            # how far this machine's clock is ahead of the broker's: the fetch that was answered last is the best witness
            self._seen_ms = now_ms
            ahead_ms = int(time.time() * 1000) - now_ms
            if self._offset_ms is None or ahead_ms < self._offset_ms:
                self._offset_ms = trace.offset_ms = ahead_ms
        if time.monotonic() >= self._flush_at:
            self._flush(held)

    def due_s(self, held: Held) -> float | None:
        """Return how long the consumer may sleep; None: there is nothing to tell of later."""
        trace = self._trace
        if trace is None or not (len(trace) or self._told or len(held)):
            return None
        if len(trace) or self._told or len(held) >= BEGUN_MAX or any(self._unfinished(trace, d) for d in held):
            return max(0.0, self._flush_at - time.monotonic())
        return None

    def _unfinished(self, trace: Trace, d: Delivery) -> bool:
        """Say whether there is more to tell of a delivery before it ends."""
        if d.record < 0:
            return False
        state = trace.waited_ms(self._board, d.record, 0)[0]
        return state in (HELD, STARTED) and self._begun.get(id(d), (d, 0))[1] < state

    def _flush(self, held: Iterable[Delivery]) -> None:
        trace, outbox = self._trace, self._outbox
        assert trace is not None and outbox is not None
        now = time.monotonic()
        self._flush_at = now + FLUSH_S
        self._offset_ms = None if self._offset_ms is None else self._offset_ms + 1  # clocks drift
        self._look_what_runs(trace, held)
        n = len(trace)
        base_ms, runs, left = trace.take()
        self._allowed = min(self._rate, max(0.0, self._allowed - n) + self._rate * (now - self._allowed_s))
        self._allowed_s = now
        trace.most = int(self._allowed)
        left += self._left + outbox.take_left()
        self._left = 0
        told = []
        while self._told:
            told.append(self._told.popleft())
        if runs is not None or told or left:
            outbox.put(pack(self._node, told=told, runs=runs, base_ms=base_ms, left=left), n + len(told))

    def _look_what_runs(self, trace: Trace, held: Iterable[Delivery]) -> None:
        """Tell of what was received or started before the last batch and has not ended: a short task is told of once, when it
        has ended."""
        now_s = time.time()
        before_ms = int((now_s - FLUSH_S) * 1000)
        begun: dict[int, tuple[Delivery, int]] = {}
        now_ms = int(now_s * 1000)
        fresh = ""
        for d in held:
            if d.record < 0 or d.queue == fresh:
                continue
            state, waited_ms, started_ms = trace.waited_ms(self._board, d.record, now_ms)
            if waited_ms < FLUSH_S * 1000:
                # those of a queue are held in the order in which they came (-1: not held any more)
                fresh = d.queue if waited_ms >= 0 else fresh
                continue
            known = self._begun.get(id(d), (d, 0))[1]
            if state == STARTED and started_ms <= before_ms and known < STARTED:
                if not self._is_silent(d):
                    self._tell(d, "", at_s=now_s, of_task=RUNS_ON, started=started_ms / 1000)
                known = STARTED
            elif state == HELD and waited_ms >= FLUSH_S * 1000 and known < HELD:
                if not self._is_silent(d):
                    received_s = now_s - waited_ms / 1000
                    if len(self._told) < TOLD_MAX:
                        self._told.append({"type": "task-received", "timestamp": received_s, "uuid": d.id, **what_of(d)})
                known = HELD
            if known:
                begun[id(d)] = (d, known)
            if len(begun) >= BEGUN_MAX:
                break
        self._begun = begun


def _kind_of(settlement: Settlement, error: BaseException) -> tuple[str, dict[str, Any]]:
    """Return the event of a run that did not return, and its own fields."""
    if isinstance(error, Reject):
        return "task-rejected", {"requeue": bool(error.requeue)}
    state = _state_of(settlement)
    if state == states.REVOKED or Failures.is_cancellation(error):
        return "task-revoked", {"terminated": True, "signum": None, "expired": False}
    if isinstance(error, Ignore | Replaced) and settlement.verdict != DEAD:
        return "", {}  # Celery has no event for these ends
    if settlement.verdict == RETRY or isinstance(error, Retry) or state == states.RETRY:
        cause = getattr(error, "exc", None) if isinstance(error, Retry) else error
        shown = cause if isinstance(cause, BaseException) else error
        return "task-retried", {"exception": _exception(shown), "traceback": _traceback_of(settlement)}
    return "task-failed", {"exception": _exception(error), "traceback": _traceback_of(settlement)}


def _state_of(settlement: Settlement) -> str:
    record = settlement.result
    if record is None or len(record) < 2 or not 0xA0 <= record[1] < 0xC0:
        return ""
    return record[2 : 2 + (record[1] & 0x1F)].decode("ascii", "replace")


def _traceback_of(settlement: Settlement) -> str | None:
    """Return the traceback that was written down for the result or for the dead letter."""
    text: str | None = None
    if settlement.result is not None:
        text = decode_result(settlement.result)[3]
    elif settlement.detail is not None:
        text = unpackb(settlement.detail).get("traceback")
    if text is not None and len(text) > TRACEBACK_MAX:
        text = text[: TRACEBACK_MAX // 4] + "\n...\n" + text[-(TRACEBACK_MAX * 3 // 4) :]
    return text


def _failure_of(settlement: Settlement) -> dict[str, Any]:
    error = unpackb(settlement.detail).get("error", "") if settlement.detail is not None else ""
    return {"exception": str(error)[:EXCEPTION_MAX], "traceback": None}


def _exception(error: BaseException) -> str:
    text = repr_safe(error)
    # a text that is not Unicode must be told too
    return text[:EXCEPTION_MAX].encode("utf-8", "backslashreplace").decode()
