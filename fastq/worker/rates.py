"""Rate limits of tasks: a call over the limit goes back to the broker with the time at which it may run.

The broker keeps one token bucket for each limited task, for the whole fleet (``worker_rate_limit_scope = "worker"``: one for each
node). A delivery reserves its turn once: if that is later than now, it is settled as a retry of the same message at that time,
marked as paid, so it takes no slot and no place in a worker while it waits.

When a limit changes, turns under the old one are recalled (``Broker.recall``), and what waited for them is limited anew. The node
does so at once, for all that waits in its queues (``recalls.py``); and a process that has given turns which have not come does so
when it knows of the change and has settled what it decided before. So whoever hears of it last leaves no such turn behind.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fastq import _core
from fastq.exceptions import ImproperlyConfigured, OperationalError
from fastq.records import RETRY, RETURN, Delivery, Settlement
from fastq.transports.base import Broker
from fastq.worker.followups import level_of

if TYPE_CHECKING:
    from fastq._core import Entry, Registry

__all__ = ["Rates", "bucket_name", "limit_name", "per_second", "rate_of"]

logger = logging.getLogger("fastq.worker.rates")

#: turns that may be taken at once after a pause: one, as in Celery
BURST = 1
_UNITS_S = {"s": 1, "m": 60, "h": 3_600}
#: bytes of a limit's name; brokers remember 200 of a bucket's, which adds a period
NAME_BYTES = 160


def per_second(limit: Any) -> float:
    """Return how many a second a rate limit allows, 0: any number. "10/s", "100/m", "5/h", "10" or a number."""
    if not limit:
        return 0.0
    if isinstance(limit, str):
        count, _, unit = limit.replace(" ", "").partition("/")
        try:
            return float(count) / _UNITS_S[unit or "s"]
        except (KeyError, ValueError):
            raise ImproperlyConfigured(
                f"rate_limit={limit!r}: expected a number of tasks a second, or text such as '10/s', '100/m' or '5/h'"
            ) from None
    if isinstance(limit, bool) or not isinstance(limit, int | float) or limit < 0:
        raise ImproperlyConfigured(f"rate_limit={limit!r}: expected a number of tasks a second, or text such as '10/s'")
    return float(limit)


def rate_of(task: Any, default: Any) -> float:
    """Return a task's limit a second, 0: none; ``default`` where it has none of its own."""
    own = getattr(task, "rate_limit", None)
    return per_second(default if own is None else own)


def limit_name(task: str, node: str = "") -> str:
    """Return what the buckets of a task's limit are called; ``node``: whose limit it is, "": the fleet's."""
    name = f"{task}@{node}" if node else task
    if len(name.encode()) > NAME_BYTES or "\0" in name:
        name = f"{name[:30]}~{hashlib.blake2b(name.encode(), digest_size=16).hexdigest()}".replace("\0", "")
    return name


def bucket_name(limit: str, rate: float) -> str:
    """Return the bucket of a limit that was set at run time, "" if it is none.

    Each rate has its own: where nodes have different ones, turns under "1/h" do not hold up those under "10/s".
    """
    return f"{limit}|{_period_us(rate)}us" if rate else ""


def _period_us(rate: float) -> int:
    return max(1, round(1e6 / rate))


class Rates:
    """Hold back what is over its task's rate limit. Owned by the consumer's loop."""

    def __init__(self, broker: Broker, conf: Mapping[str, Any], node: str) -> None:
        self._broker = broker
        self._default = conf.get("task_default_rate_limit")
        self._off = bool(conf.get("worker_disable_rate_limits"))
        #: whose limits these are, "": the fleet's
        self._node = node if conf.get("worker_rate_limit_scope", "fleet") == "worker" else ""
        self._registry: Registry | None = None
        #: limits a second that were set while the worker runs, by task name
        self._new: dict[str, float] = {}
        #: microseconds between two runs of each limited task
        self._periods: dict[Entry, int] = {}
        #: task name -> queue -> the latest turn given here to wait for there, the broker's clock in ms
        self._given: dict[str, dict[str, int]] = {}
        #: task name -> queues in which turns are to be recalled
        self._recalls: dict[str, set[str]] = {}
        #: task name -> buckets of limits that it had before
        self._left: dict[str, set[str]] = {}

    def obey(self, order: Mapping[str, Any]) -> None:
        """Take in an order: another limit for a task, from the next delivery on."""
        task, rate = order["task"], per_second(order["rate"])
        if (before := self._new.get(task)) == rate:
            return
        self._new[task] = rate
        self._registry = None
        if given := self._given.pop(task, None):
            limit, now_ms = limit_name(task, self._node), self._broker.now_ms()
            self._recalls.setdefault(task, set()).update(queue for queue, turn_ms in given.items() if turn_ms > now_ms)
            self._left.setdefault(task, set()).add(limit if before is None else bucket_name(limit, before))

    @property
    def changed(self) -> bool:
        """Turns that were given here are to be recalled, once all that was decided before is settled."""
        return bool(self._recalls)

    def recall(self) -> None:
        """Recall them. Raises OperationalError: then call it again."""
        for task in list(self._recalls):
            limit = limit_name(task, self._node)
            kept, left = bucket_name(limit, self._new[task]), tuple(filter(None, self._left.get(task, ())))
            for queue in sorted(self._recalls[task]):
                place = None
                while place != "":
                    _, place = self._broker.recall(queue, limit, kept=kept, left=left, place=place or "")
                self._recalls[task].discard(queue)
            del self._recalls[task]
            self._left.pop(task, None)

    def limits(self, registry: Registry) -> bool:
        """Say whether any task has a limit; looks anew when the registry is another one."""
        if registry is not self._registry:
            self._registry = registry
            self._periods = {}
            for name in () if self._off else registry.names():
                entry = registry.get(name)
                if entry is None:
                    continue
                try:
                    new = self._new.get(name)
                    rate = rate_of(entry.task, self._default) if new is None else new
                except ImproperlyConfigured as exc:  # of a task registered since the worker started, which has refused others
                    logger.error("Task %s runs without a limit: %s", name, exc)
                    continue
                if rate:
                    self._periods[entry] = _period_us(rate)
        return bool(self._periods)

    def sort(self, batch: list[Delivery], refuse: Callable[[Settlement], object]) -> list[Delivery]:
        """Return those that may run now, in order; hand a settlement for each of the others to ``refuse``."""
        periods = self._periods
        limited: dict[Entry, list[Delivery]] = {}
        for d in batch:
            if d.entry in periods and not d.paid:
                limited.setdefault(d.entry, []).append(d)
        if not limited:
            return batch
        held: set[int] = set()
        for entry, deliveries in limited.items():
            held.update(id(s) for s in self._reserve(entry, deliveries, refuse))
        return [d for d in batch if id(d) not in held]

    def _bucket(self, entry: Entry) -> str:
        """Return the bucket whose turns are taken."""
        limit, new = limit_name(entry.name, self._node), self._new.get(entry.name)
        return limit if new is None else bucket_name(limit, new)

    def _reserve(self, entry: Entry, deliveries: list[Delivery], refuse: Callable[[Settlement], object]) -> list[Delivery]:
        """Take the next turns for deliveries of one task; return those whose turn is later."""
        bucket = self._bucket(entry)
        try:
            waits_ms = self._broker.reserve(bucket, len(deliveries), self._periods[entry], BURST)
        except OperationalError as exc:  # they are leased already: without an answer they go back, and are fetched again
            logger.warning("Cannot reserve a turn for %d %s: %s", len(deliveries), entry.name, exc)
            for d in deliveries:
                refuse(Settlement(d.queue, d.tag, d.id, RETURN, record=d.record))
            return deliveries
        later = [(d, wait_ms) for d, wait_ms in zip(deliveries, waits_ms, strict=True) if wait_ms > 0]
        detail, now_ms, given = bucket.encode(), self._broker.now_ms(), self._given.setdefault(entry.name, {})
        for d, wait_ms in later:
            message = _core.remark(d.message, d.deliveries, True)
            given[d.queue] = max(given.get(d.queue, 0), now_ms + wait_ms)
            refuse(
                Settlement(
                    d.queue,
                    d.tag,
                    d.id,
                    RETRY,
                    message=message,
                    level=level_of(d),
                    delay_ms=wait_ms,
                    reason="postponed",
                    detail=detail,
                    record=d.record,
                )
            )
        return [d for d, _ in later]
