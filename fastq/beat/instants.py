"""Which ticks are due, which of them are fired, and when the next one is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple, TypeGuard

from fastq.beat.definition import Missed
from fastq.schedules import BaseSchedule, crontab
from fastq.schedules import schedule as interval

__all__ = ["CATCH_UP", "Step", "first_due_ms", "next_due_ms", "steps"]

#: ticks of one entry that are made up for in one go; the rest follows at once
CATCH_UP = 500

_MS = timedelta(milliseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Step(NamedTuple):
    """One tick, and the one after it. ``run`` False: it is passed over."""

    due_ms: int
    next_ms: int
    run: bool


def moment(ms: int) -> datetime:
    """Return an instant of the broker's clock, exactly."""
    return _EPOCH + timedelta(milliseconds=ms)


def _ms(at: datetime) -> int:
    """Return Unix ms, rounded up: no tick comes early."""
    return -((_EPOCH - at) // _MS)


def _is_plain_interval(schedule: BaseSchedule) -> TypeGuard[interval]:
    return type(schedule) is interval and not schedule.relative


def next_due_ms(schedule: BaseSchedule, after_ms: int) -> int:
    """Return the first tick after an instant."""
    if _is_plain_interval(schedule):  # most are: a tenth of the way over datetimes
        return after_ms - (-schedule.run_every // _MS)
    return max(_ms(schedule.next_after(moment(after_ms))), after_ms + 1)


def first_due_ms(schedule: BaseSchedule, now_ms: int, last_due_ms: int = 0) -> int:
    """Return the first tick of a new or changed entry: counted from its last tick, and never one that is past."""
    if last_due_ms:
        due_ms = next_due_ms(schedule, last_due_ms)
        if due_ms > now_ms:
            return due_ms
        if _is_plain_interval(schedule):  # it stays on its beat
            every_ms = due_ms - last_due_ms
            return now_ms + every_ms - (now_ms - due_ms) % every_ms
    return next_due_ms(schedule, now_ms)


def steps(
    schedule: BaseSchedule, due_ms: int, now_ms: int, *, missed: Missed, grace_ms: int, deadline_ms: int | None
) -> list[Step]:
    """Return what is to be done at ``now_ms`` with an entry that is due, in order.

    ``once``: one run for however many ticks were missed. ``skip``: none for those that are more than ``grace_ms`` late. ``all``:
    one run for each, ``CATCH_UP`` of them at once. ``deadline_ms``: of a crontab, no tick older than that is made up for.
    """
    oldest_ms = now_ms - grace_ms if missed == "skip" else 0
    if deadline_ms is not None and isinstance(schedule, crontab):
        oldest_ms = max(oldest_ms, now_ms - deadline_ms)
    following = next_due_ms(schedule, due_ms)
    if following > now_ms:  # nearly always
        return [Step(due_ms, following, due_ms >= oldest_ms)]
    if missed == "all":
        found = [Step(due_ms, following, due_ms >= oldest_ms)]
        while following <= now_ms and len(found) < CATCH_UP:
            due_ms, following = following, next_due_ms(schedule, following)
            found.append(Step(due_ms, following, due_ms >= oldest_ms))
        return found
    latest = schedule.latest_between(moment(due_ms), moment(now_ms))
    latest_ms = due_ms if latest is None else max(due_ms, _ms(latest))
    following = next_due_ms(schedule, latest_ms)
    if following <= now_ms:  # a schedule of one's own that contradicts itself
        following = next_due_ms(schedule, now_ms)
    return [Step(due_ms, following, latest_ms >= oldest_ms)]
