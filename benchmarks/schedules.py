#!/usr/bin/env python3
"""Measure what schedules cost: the next run of each kind, and a local scheduler of many entries.

python benchmarks/schedules.py                     # 10,000 entries
python benchmarks/schedules.py --entries 1000
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from fastq import FastQ
from fastq.beat import Scheduler
from fastq.schedules import crontab, schedule

MOMENT = datetime(2026, 11, 21, 10, 17, 30, tzinfo=UTC)
CASES = {
    "every minute, UTC": crontab(tz="UTC"),
    "every minute, Berlin": crontab(tz="Europe/Berlin"),
    "04:00 each day, Berlin": crontab(0, 4, tz="Europe/Berlin"),
    "*/5 8-18 on weekdays, New York": crontab("*/5", "8-18", "mon-fri", tz="America/New_York"),
    "29 February, Berlin": crontab(0, 0, day_of_month=29, month_of_year=2, tz="Europe/Berlin"),
    "29 February on a Monday": crontab(0, 0, day_of_month=29, month_of_year=2, day_of_week=1, tz="Europe/Berlin"),
    "30 s": schedule(30),
}


def per_call_us(function: Callable[[], Any], calls: int) -> float:
    """Return the best of five."""
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(calls):
            function()
        best = min(best, time.perf_counter() - start)
    return best / calls * 1e6


class Silent(Scheduler):
    def send_task(self, *args: Any, **kwargs: Any) -> Any:
        return None


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--entries", type=int, default=10_000)
    entries = options.parse_args().entries
    print(f"{'':34}{'next_after':>12}{'previous':>12}")
    for name, times in CASES.items():
        after = per_call_us(lambda times=times: times.next_after(MOMENT), 5000)  # type: ignore[misc]
        before = f"{per_call_us(lambda times=times: times.previous(MOMENT), 50):9.1f} us" if isinstance(times, crontab) else ""  # type: ignore[misc]
        print(f"{name:34}{after:9.1f} us{before:>12}")

    now = [MOMENT]
    with FastQ("schedules", broker="memory://", backend="memory://", set_as_current=False) as app:
        scheduler = Silent(app)
        for number in range(entries):
            zone = ("Europe/Berlin", "America/New_York", "UTC")[number % 3]
            scheduler.add(name=f"e{number}", task="t", schedule=crontab(number % 60, tz=zone, nowfun=lambda: now[0]))
        start = time.perf_counter()
        scheduler.tick()
        print(f"\n{entries} crontabs: first tick {(time.perf_counter() - start) * 1e3:.0f} ms")
        sent = 0
        ticks = 0
        start = time.process_time()
        for _ in range(60):
            now[0] += timedelta(minutes=1)
            while not scheduler.tick():
                sent += 1
                ticks += 1
            ticks += 1
        spent_s = time.process_time() - start
    each = f"{spent_s / sent * 1e6:.0f} us for each, {spent_s / 36:.3f}% of a core"
    print(f"an hour of them: {sent} sent in {ticks} ticks, {spent_s:.2f} s of CPU: {each}")


if __name__ == "__main__":
    main()
