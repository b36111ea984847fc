"""What is wrong with a queue or a timetable, whatever the store: leases that stand still, messages that nobody takes, entries that
nobody sends, dead letters."""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from fastq import _core
from fastq.exceptions import EnvelopeError
from fastq.records import Paused
from fastq.transports.base import Finding, Scope, TransportOptions
from fastq.transports.timetable import Planned

__all__ = [
    "DELIVERIES", "PROCESSES", "QueueSeen", "TimetableSeen",
    "ago", "counted", "judge", "judge_pauses", "judge_timetable", "sent_ms",
]  # fmt: skip

#: ready messages that are many: minutes of work for most workers
BACKLOG = 100_000
#: share of dead_letter_max
NEARLY = 0.8
#: seconds since a task was sent after which a worker that holds it is worth a note
OLD_S = 86_400
#: processes whose deliveries are read, and deliveries read of each, at most
PROCESSES, DELIVERIES = 100, 200
#: seconds that a delayed message may be late while workers are there: they promote 100 at a time
LATE_S = 60
#: leases of the beat that leads, ms, after which a periodic entry is overdue: a failover takes one, and a beat has to start
LEADS, LEAST_LATE_MS = 4, 30_000
#: ms after which one is overdue of another application, whose lease is not known
OTHERS_LATE_MS = 600_000
#: looks at a timetable whose entries are overdue though a beat leads, and the time between two of them
LOOKS, LOOK_AGAIN_S = 3, 1.0
#: entries that are told one by one, of one timetable
EACH = 10


@dataclass(slots=True)
class QueueSeen:
    """What a queue holds at a moment."""

    queue: str
    #: the broker's clock
    now_ms: int = 0
    ready: int = 0
    delayed: int = 0
    #: when the next delayed message is due; 0: none
    due_ms: float = 0
    #: process -> last renewal, 0: condemned
    leases: dict[str, float] = field(default_factory=dict)
    #: process -> how many deliveries it holds
    holds: dict[str, int] = field(default_factory=dict)
    #: when the message that is next was sent; 0: unknown
    oldest_ms: int = 0
    #: (process, task, id, sent at) of deliveries that were sent long ago
    old: list[tuple[str, str, str, int]] = field(default_factory=list)
    dead: int = 0

    def age_ms(self, process: str) -> float:
        """Return how long ago a lease was renewed."""
        return self.now_ms - self.leases[process]

    def note_old(self, process: str, message: bytes) -> None:
        """Remember a delivery if its task was sent long ago."""
        if 0 < sent_ms(message) < self.now_ms - OLD_S * 1000:
            delivery = _core.peek(message)
            self.old.append((process, delivery.name, delivery.id, delivery.enqueued_ms))


def sent_ms(message: bytes) -> int:
    """Return when a task was sent, 0 for what cannot be read."""
    try:
        return _core.peek(message).enqueued_ms
    except EnvelopeError:
        return 0


def judge(seen: QueueSeen, options: TransportOptions, *, declared: bool, paused: bool = False) -> Iterator[Finding]:
    """Say what is wrong. Pure. ``declared``: the application names this queue, so somebody should take from it. ``paused``: nobody
    may just now, so that its length and its delay say nothing."""
    stale_ms = 2 * options.lease_ms
    alive = [process for process, score in seen.leases.items() if score > 0 and seen.age_ms(process) <= stale_ms]
    yield from _stuck(seen, alive, stale_ms)
    if not (alive and paused):
        yield from _waiting(seen, alive, declared)
    yield from _dead(seen, options)
    for process, name, id, sent in seen.old:
        if process in alive:
            yield Finding(
                "note",
                "old-delivery",
                seen.queue,
                f"task {name}[{id}] was sent {ago(seen.now_ms - sent)} ago and is in the hands of {process}, which is alive",
                "nothing, if it was meant to start late or to take long; else give it a time limit",
            )


def judge_pauses(paused: Paused, parked: Mapping[str, Mapping[str, int]], now_ms: int) -> Iterator[Finding]:
    """Say what rests. Pure. ``parked``: by queue, how many messages of which task names are put aside."""
    for queue, since_ms in paused.queues.items():
        yield Finding(
            "note",
            "paused-queue",
            queue,
            f"paused for {ago(now_ms - since_ms)}: no worker takes from it",
            f"nothing, if that is meant; else: fastq resume -Q {queue}",
        )
    aside: Counter[str] = Counter()
    for counts in parked.values():
        aside.update(counts)
    for task, since_ms in paused.tasks.items():
        seen = f"paused for {ago(now_ms - since_ms)}: no worker starts it; {counted(aside[task], 'message')} put aside so far"
        yield Finding("note", "paused-task", task, seen, f"nothing, if that is meant; else: fastq resume -T {task}")
    for task, since_ms in paused.resuming.items():
        seen = (
            f"resumed {ago(now_ms - since_ms)} ago; {counted(aside[task], 'message')} still put aside; nothing is taken from "
            f"{', '.join(sorted(paused.held))} until that is done"
        )
        yield Finding("note", "resuming-task", task, seen, "nothing: any worker that runs or starts does it within seconds")
    for queue, counts in parked.items():
        for task, number in counts.items():
            if task not in paused.tasks and task not in paused.resuming:
                yield Finding(
                    "warning",
                    "left-parked",
                    queue,
                    f"{counted(number, 'message')} of task {task} put aside, though the record does not say that it is paused",
                    f"fastq resume -T {task} puts them back",
                )


class TimetableSeen(NamedTuple):
    """What a timetable holds at a moment."""

    plans: Sequence[Planned]
    #: "": none leads
    leader: str
    #: the broker's clock
    now_ms: int


def judge_timetable(
    timetable: str, scope: Scope, look: Callable[[], TimetableSeen], sleep: Callable[[float], None] = time.sleep
) -> Iterator[Finding]:
    """Say which periodic entries nobody sends, and why.

    Where a beat leads it is looked again, after a moment: one that has just taken over, or makes up for many runs, is at work.
    """
    late_ms = max(LEADS * scope.beat_lease_ms, LEAST_LATE_MS) if timetable == scope.timetable else OTHERS_LATE_MS
    if timetable == scope.timetable and not scope.beat_lease_ms:
        return
    seen = look()
    late = _late(seen, late_ms)
    for _ in range(LOOKS - 1):
        if not late or not seen.leader:
            break
        sleep(LOOK_AGAIN_S)
        before, seen = {(plan.name, plan.due_ms) for plan in late}, look()
        late = [plan for plan in _late(seen, late_ms) if (plan.name, plan.due_ms) in before]
    if not late:
        return
    sent_ms = max(plan.last_run_ms for plan in seen.plans)
    # between two leaders there is none; what was sent since then tells that there was one
    if not seen.leader and sent_ms < late[-1].due_ms:
        yield Finding(
            "warning",
            "no-beat",
            timetable,
            f"no beat leads, and {len(late):,} of {counted(len(seen.plans), 'periodic task')} "
            f"{'is' if len(late) == 1 else 'are'} overdue, {late[0].name!r} by {ago(seen.now_ms - late[0].due_ms)}; "
            + (f"the last was sent {ago(seen.now_ms - sent_ms)} ago" if sent_ms else "none was ever sent"),
            "start fastq beat, or a worker with -B; what shall not be sent any more: fastq schedule pause or remove; where a beat "
            "keeps its schedule in a file, the setting beat_scheduler should say so",
        )
        return
    for plan in late[:EACH]:
        yield Finding(
            "warning",
            "overdue-entry",
            plan.name,
            f"{f'{seen.leader} leads' if seen.leader else 'others are sent'}, and this periodic task of {timetable!r} is "
            f"{ago(seen.now_ms - plan.due_ms)} overdue",
            f"fastq schedule show {shlex.quote(plan.name)} says whether it can be used; the log of beat says what is wrong with it",
        )
    if len(late) > EACH:
        yield Finding("warning", "overdue-entry", timetable, f"{len(late) - EACH:,} more of its tasks are overdue", "as above")


def _late(seen: TimetableSeen, late_ms: int) -> list[Planned]:
    """Return what should have been sent long ago, the oldest first."""
    late = [plan for plan in seen.plans if plan.due_ms and not plan.paused and seen.now_ms - plan.due_ms > late_ms]
    return sorted(late, key=lambda plan: plan.due_ms)


def _stuck(seen: QueueSeen, alive: list[str], stale_ms: float) -> Iterator[Finding]:
    for process, score in seen.leases.items():
        if process in alive:
            continue
        held = seen.holds.get(process, 0)
        holding = f"holds {counted(held, 'message')}" if held else "holds nothing"
        if score <= 0:
            text = f"the process {process} was taken for dead, and its lease is still there; it {holding}"
        else:
            late, dead = ago(seen.age_ms(process)), ago(stale_ms)
            text = f"the process {process} has not renewed its lease for {late} (dead after {dead}); it {holding}"
        if alive:
            advice = "living workers hand back what it holds within two leases; look again then"
        else:
            advice = f"start a worker on queue {seen.queue}: it hands back what is held"
        yield Finding("error" if held else "warning", "stuck-lease", seen.queue, text, advice)


def _waiting(seen: QueueSeen, alive: list[str], declared: bool) -> Iterator[Finding]:
    ready = seen.ready
    if not alive:
        if ready or seen.delayed:
            parts = [f"{ready:,} ready" if ready else "", f"{seen.delayed:,} delayed" if seen.delayed else ""]
            text = f"no live worker takes from this queue, and messages wait: {', '.join(filter(None, parts))}"
            if seen.oldest_ms:
                text += f"; the next was sent {ago(seen.now_ms - seen.oldest_ms)} ago"
            if seen.due_ms and seen.now_ms > seen.due_ms:
                text += f"; the first delayed one is {ago(seen.now_ms - seen.due_ms)} overdue"
            advice = f"start a worker with -Q {seen.queue}, or purge the queue"
            yield Finding("warning", "unconsumed-queue", seen.queue, text, advice)
        elif declared:
            yield Finding(
                "note",
                "no-consumer",
                seen.queue,
                "no live worker takes from this queue, which the application declares; nothing waits there",
                f"start a worker with -Q {seen.queue}",
            )
        return
    if ready >= BACKLOG:
        yield Finding(
            "warning",
            "backlog",
            seen.queue,
            f"{counted(ready, 'message')} wait for {counted(len(alive), 'process')}"
            + (f"; the next was sent {ago(seen.now_ms - seen.oldest_ms)} ago" if seen.oldest_ms else ""),
            "start more workers, or more slots; delay_many() and groups fill a queue faster than anything empties it",
        )
    if seen.due_ms and seen.now_ms - seen.due_ms > LATE_S * 1000:
        yield Finding(
            "warning",
            "overdue-messages",
            seen.queue,
            f"{counted(seen.delayed, 'delayed message')} in all, and though workers are there the first is "
            f"{ago(seen.now_ms - seen.due_ms)} overdue",
            "start more workers; what is due is made ready 100 at a time, with each fetch",
        )


def _dead(seen: QueueSeen, options: TransportOptions) -> Iterator[Finding]:
    if options.dead_letter_max > 0 and seen.dead >= NEARLY * options.dead_letter_max:
        yield Finding(
            "warning",
            "dead-letters-full",
            seen.queue,
            f"{counted(seen.dead, 'dead letter')}, and beyond {options.dead_letter_max:,} (dead_letter_max) the oldest are dropped",
            "look at them with fastq dead, retry or delete them, or raise dead_letter_max",
        )
    elif seen.dead:
        yield Finding(
            "note",
            "dead-letters",
            seen.queue,
            f"{counted(seen.dead, 'dead letter')}: tasks that failed for good",
            "look why with fastq dead; they can be retried until they expire (dead_letter_expires)",
        )


def counted(number: int, what: str) -> str:
    """Return "1 message", "2 messages"."""
    return f"{number:,} {what if number == 1 else what + 'es' if what.endswith('s') else what + 's'}"


def ago(ms: float) -> str:
    """Return a duration as people say it."""
    seconds = max(0.0, ms / 1000)
    for unit, size in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
