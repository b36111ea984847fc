"""Turn settlements into calls of the settle script. One pass over the batch: this is paid per task."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

from fastq._core import DEAD, DONE, RETRY, RETURN, Settlement, gather_results, packb
from fastq.transports.base import TransportOptions
from fastq.transports.redis.effects import EffectWords, measure
from fastq.transports.redis.keys import Keys, checked_level
from fastq.transports.redis.limits import CALL_BYTES, CALL_MESSAGES
from fastq.transports.redis.packing import notice
from fastq.transports.redis.pausing import parked_field, task_field
from fastq.transports.redis.scripts import script
from fastq.transports.redis.turns import remembered

__all__ = ["INBOX_RECORD", "SettleCalls", "Ttl"]

#: bytes of a result record that rides in the inbox message; a larger one is read from the backend
INBOX_RECORD = 4096


class Ttl:
    """Decide when a results slot's TTL is raised: not at every batch, and never so late that a record lives too short.

    It is raised to more than asked for by the time for which it is then left alone.
    """

    def __init__(self, expires_s: int | None) -> None:
        self._pause_s = min(30, max(1, (expires_s or 0) // 10))
        #: what EXPIRE is told, s; 0: for ever
        self.slot_s = expires_s + self._pause_s if expires_s else 0
        self.single_s = expires_s or 0
        self._raised: dict[str, float] = {}

    def due(self, key: str) -> bool:
        now = time.monotonic()
        if now - self._raised.get(key, -1e9) < self._pause_s:
            return False
        if len(self._raised) > 1000:
            self._raised = {name: at for name, at in self._raised.items() if now - at < self._pause_s}
        self._raised[key] = now
        return True

    def forget(self) -> None:
        """Raise again: it is not known what the server has seen."""
        self._raised.clear()


class SettleCalls:
    """Build the commands of settle calls."""

    def __init__(self, keys: Keys, options: TransportOptions) -> None:
        self._keys = keys
        self._options = options
        self._ttl = Ttl(options.result_expires_s)

    def commands(
        self, process: str, settlements: Sequence[Settlement], results: bool, fetching: str | None = None
    ) -> Iterator[tuple[tuple[Any, ...], list[Settlement]]]:
        """Yield one command per queue and bounded chunk, with its settlements in the order of the script's indexes.

        ``fetching``: the queue from which the process fetches behind them, in the same pipeline.
        """
        names = {settlement.queue for settlement in settlements}
        for queue in names:
            items = settlements if len(names) == 1 else [settlement for settlement in settlements if settlement.queue == queue]
            # RETURN goes to the head of its level: the last chunk first keeps the order of the batch.
            for chunk, plain in reversed(list(_chunks(items, results))):
                if not plain and (parked := [s for s in chunk if s.verdict == RETURN and s.reason]):
                    yield self._parking(queue, process, parked)
                    chunk = [s for s in chunk if not (s.verdict == RETURN and s.reason)]
                if chunk:
                    yield self._command(queue, process, chunk, plain, results, fetching)

    def _parking(self, queue: str, process: str, parked: list[Settlement]) -> tuple[tuple[Any, ...], list[Settlement]]:
        """Return the command for deliveries of paused task names."""
        keys = self._keys.queue(queue)
        command = (
            script("park"),
            15,
            *(keys.leased(process), keys.idle, keys.levels, keys.delayed, self._keys.paused),
            *keys.ready,
            *(self._keys.wake_prefix, os.urandom(6).hex(), parked_field(queue)),
            *[word for settlement in parked for word in (settlement.tag, task_field(settlement.reason))],
        )
        return command, parked

    def _command(
        self,
        queue: str,
        process: str,
        settlements: Sequence[Settlement],
        plain: bool,
        results: bool,
        fetching: str | None,
    ) -> tuple[tuple[Any, ...], list[Settlement]]:
        keys, options = self._keys.queue(queue), self._options
        ordered = done = list(settlements)
        returned: list[Settlement] = []
        retried: list[Settlement] = []
        dead: list[Settlement] = []
        effects: EffectWords | None = None
        effect_keys: list[str] = []
        if not plain:
            done = [settlement for settlement in settlements if settlement.verdict == DONE]
            returned = [settlement for settlement in settlements if settlement.verdict == RETURN]
            retried = [settlement for settlement in settlements if settlement.verdict == RETRY]
            dead = [settlement for settlement in settlements if settlement.verdict == DEAD]
            ordered = done + returned + retried + dead
            effects = EffectWords(self._keys, ordered, fetching, options.dead_letter_expires_s)
            effect_keys = effects.keys()
        tail: list[Any] = []
        for settlement in retried:
            if settlement.message is None:
                raise ValueError(f"settlement {settlement.tag} of task {settlement.id}: RETRY without a message")
            tail += (checked_level(settlement.level), max(settlement.delay_ms, 0), settlement.message)
            tail.append(remembered(settlement.detail))
        for settlement in dead:
            tail += (self._head(settlement), settlement.message or b"")
        result_keys: list[str] = []
        inboxes: list[Any] = []
        if results:
            self._add_results(ordered, result_keys, tail, inboxes)
        command = (
            script("settle"),
            16 + len(result_keys) + len(effect_keys),
            *(keys.leased(process), keys.idle, keys.levels, keys.delayed, keys.dead, keys.dead_messages),
            *keys.ready,
            *result_keys,
            *effect_keys,
            *(process, self._keys.wake_prefix, os.urandom(6).hex() if retried or effects else ""),
            *(options.dead_letter_max, options.dead_letter_expires_s, self._ttl.single_s, self._ttl.slot_s),
            *(len(done), len(returned), len(retried), len(dead), len(result_keys), len(inboxes) // 3),
            *((effects.queues, effects.joins) if effects else (0, 0)),
            *[settlement.tag for settlement in ordered],
            *tail,
            *inboxes,
            *(effects.words() if effects else ()),
        )
        return command, ordered

    def _head(self, settlement: Settlement) -> bytes:
        """Write what a dead letter says beside its message; the third element is the key of the join that it keeps."""
        head: list[Any] = [settlement.reason, settlement.detail]
        if settlement.effects is not None:
            # One in another queue lies in another slot: it goes by its TTL.
            head += [self._keys.queue(queue).join(join) for queue, join, _ in settlement.effects.drops if queue == settlement.queue]
        return packb(head[:3])

    def _add_results(self, ordered: list[Settlement], keys: list[str], tail: list[Any], inboxes: list[Any]) -> None:
        """Append one group per results key to ``tail``, and what the inboxes are told."""
        groups, waiting = gather_results(ordered, INBOX_RECORD)
        for is_slot, name, owners, values in groups:
            key = self._keys.slot(name) if is_slot else self._keys.single(name)
            keys.append(key)
            raise_ttl = "1" if is_slot and self._ttl.due(key) else "0"
            tail += ("h" if is_slot else "s", raise_ttl, len(values) // 2, owners)
            tail += values
        for name, owners, notices in waiting:
            inboxes += (self._keys.inbox(name), owners, notice(notices))

    def forget(self) -> None:
        self._ttl.forget()


def _chunks(settlements: Sequence[Settlement], results: bool) -> Iterator[tuple[Sequence[Settlement], bool]]:
    """Split into calls of bounded size, and say of each whether all in it are DONE without effects.

    A settlement cannot be split: with very many effects it makes a call of its own.
    """
    if len(settlements) <= CALL_MESSAGES:
        # Most batches fit whole: found out at a third of the cost of ``_measure``.
        records = [settlement.result for settlement in settlements]
        number, size = len(settlements), sum(map(len, filter(None, records)))
        rest = [settlement for settlement in settlements if settlement.verdict != DONE or settlement.effects is not None]
        for settlement in rest:
            own_number, own_size = _measure(settlement, False)
            number += own_number - 1
            size += own_size
        if number <= CALL_MESSAGES and size <= CALL_BYTES:
            yield settlements, not rest
            return
    chunk: list[Settlement] = []
    number = size = 0
    for settlement in settlements:
        own_number, own_size = _measure(settlement, results)
        if chunk and (number + own_number > CALL_MESSAGES or size + own_size > CALL_BYTES):
            yield chunk, False
            chunk, number, size = [], 0, 0
        chunk.append(settlement)
        number += own_number
        size += own_size
    if chunk:
        yield chunk, False


def _measure(settlement: Settlement, results: bool) -> tuple[int, int]:
    """Return how many things a settlement does, itself included, and about how many bytes it brings."""
    number, size = (1, 0) if settlement.effects is None else measure(settlement.effects)
    if settlement.effects is not None:
        # One effect is not more work than the settlement itself: 1,000 members of a chord make one call.
        number = max(1, number)
    if results and settlement.result is not None:
        size += len(settlement.result)
    if settlement.message is not None:
        size += len(settlement.message)
    if settlement.detail is not None:
        size += len(settlement.detail)
    return number, size
