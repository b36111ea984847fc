"""``Scheduler``: keeps its entries in this process and sends each when it is due. What Celery's schedulers are derived from."""

from __future__ import annotations

import heapq
import logging
import time
from collections.abc import Callable, Mapping, MutableMapping
from datetime import UTC
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from fastq.beat.entry import BeatLazyFunc, ScheduleEntry
from fastq.beat.given import given
from fastq.exceptions import FastQError
from fastq.schedules import crontab, schedule

if TYPE_CHECKING:
    from fastq.app import FastQ

__all__ = ["Scheduler", "SchedulingError", "event_t"]

#: s; beat wakes this often though nothing is due: entries may have been changed
DEFAULT_MAX_INTERVAL = 300.0
#: s; it wakes this much before the time, so that what wakes late is not late
_EARLY_S = 0.010
#: s; the heap's times and those that schedules say are the same if they differ by less
_SAME_S = 0.001
#: a run of the clean-up that waited longer than half a day leaves the rest to the next
_CLEANUP_EXPIRES_S = 12 * 3600


class SchedulingError(FastQError):
    """Say that a periodic task could not be sent."""


class event_t(NamedTuple):
    """What stands in the heap: when to look (seconds since 1970), a priority, whom to look at."""

    time: float
    priority: int
    entry: Any


class _Entries(dict[str, Any]):
    """Entries by name, counting its changes: a scheduler of 10,000 must not compare them at each tick."""

    changes = 0

    def _counted(method: Callable[..., Any]) -> Any:  # type: ignore[misc]
        def change(self: _Entries, *args: Any, **kwargs: Any) -> Any:
            self.changes += 1
            return method(self, *args, **kwargs)

        return change

    __setitem__ = _counted(dict.__setitem__)
    __delitem__ = _counted(dict.__delitem__)
    __ior__ = _counted(dict.__ior__)
    clear = _counted(dict.clear)
    pop = _counted(dict.pop)
    popitem = _counted(dict.popitem)
    setdefault = _counted(dict.setdefault)
    update = _counted(dict.update)


class Scheduler:
    """Entries in memory, and a heap of them by the time to look at each.

    ``tick()`` sends at most one entry and returns for how many seconds to sleep. Not for several threads at once.
    """

    Entry: ClassVar[type[ScheduleEntry]] = ScheduleEntry

    max_interval: float = DEFAULT_MAX_INTERVAL
    #: s between two calls of ``sync``
    sync_every: float = 180.0
    #: tasks sent between two calls of ``sync``; 0 or None: only time counts
    sync_every_tasks: int | None = None
    logger = logging.getLogger("fastq.beat")

    def __init__(
        self,
        app: FastQ,
        schedule: MutableMapping[str, Any] | Callable[[], MutableMapping[str, Any]] | None = None,
        max_interval: float | None = None,
        Producer: Any = None,
        lazy: bool = False,
        sync_every_tasks: int | None = None,
        **kwargs: Any,
    ) -> None:
        """``lazy``: call ``setup_schedule()`` yourself. ``schedule``: entries to begin with, or a function that returns them."""
        self.app = app
        given = schedule() if callable(schedule) else schedule
        self.data: MutableMapping[str, Any] = _Entries(given or {})
        self.max_interval = max_interval or app.conf.beat_max_loop_interval or self.max_interval
        self.sync_every_tasks = app.conf.beat_sync_every if sync_every_tasks is None else sync_every_tasks
        self._heap: list[event_t] | None = None
        #: the entries as the heap knows them: how often they had been changed, or a copy of what is not ours
        self._seen: Any = None
        self._last_sync: float | None = None
        self._tasks_since_sync = 0
        if not lazy:
            self.setup_schedule()

    # --- the entries ---

    def setup_schedule(self) -> None:
        """Take in the entries of the application."""
        self.install_default_entries(self.schedule)
        self.merge_inplace(self.app.conf.beat_schedule)

    def install_default_entries(self, data: Mapping[str, Any]) -> None:
        """Add the nightly clean-up of a result backend that says it does not forget by itself; those of fastq do."""
        forgets = getattr(self.app.backend, "supports_autoexpire", True)
        if self.app.conf.result_expires and not forgets and "fastq.backend_cleanup" not in data:
            self.update_from_dict({
                "fastq.backend_cleanup": {
                    "task": "fastq.backend_cleanup",
                    "schedule": crontab("0", "4"),
                    "options": {"expires": _CLEANUP_EXPIRES_S},
                }
            })  # fmt: skip

    def add(self, **kwargs: Any) -> ScheduleEntry:
        """Add an entry: name, task, schedule, args, kwargs, options."""
        entry = self.Entry(app=self.app, **kwargs)
        self.schedule[entry.name or ""] = entry
        return entry

    def _maybe_entry(self, name: str, entry: Any) -> ScheduleEntry:
        if isinstance(entry, self.Entry):
            entry.app = self.app
            return entry
        said = given(self.app, name, entry, ("is_due",))
        missed = said.pop("missed")
        if missed != "once":
            self.logger.warning(
                "beat_schedule[%r]: missed=%r is for the shared scheduler; here what was missed is sent once", name, missed
            )
        return self.Entry(**{**said, "name": name, "app": self.app})

    def update_from_dict(self, dict_: Mapping[str, Any]) -> None:
        """Add entries, or put them in the place of those of their names."""
        self.schedule.update({name: self._maybe_entry(name, entry) for name, entry in dict_.items()})

    def merge_inplace(self, b: Mapping[str, Any]) -> None:
        """Make the entries those of ``b``. One whose name is known keeps its runs."""
        entries = self.schedule
        for name in entries.keys() - b.keys():
            if name != "fastq.backend_cleanup":
                entries.pop(name, None)
        for name, value in b.items():
            entry = self._maybe_entry(name, value)
            known = entries.get(name)
            if known is not None:
                known.update(entry)
                entry = known
            entries[name] = entry

    def get_schedule(self) -> MutableMapping[str, Any]:
        return self.data

    def set_schedule(self, schedule: MutableMapping[str, Any]) -> None:
        self.data = schedule
        self._heap = None

    schedule = property(get_schedule, set_schedule)

    # --- sending ---

    def reserve(self, entry: ScheduleEntry) -> ScheduleEntry:
        """Count a run before it is sent, so that a task that cannot be sent is not tried for ever; return the entry after it."""
        entries = self.schedule
        changes = getattr(entries, "changes", None)
        following = entries[entry.name] = next(entry)
        if changes is not None:
            entries.changes = changes  # the heap is told by whoever reserves
        return following

    def apply_entry(self, entry: ScheduleEntry, producer: Any = None) -> None:
        """Send an entry, and log what became of it: an error of one must not stop the others."""
        self.logger.info("Scheduler: Sending due task %s (%s)", entry.name, entry.task)
        try:
            result = self.apply_async(entry, producer=producer, advance=False)
        except Exception as exc:
            self.logger.error("Message Error: %s", exc, exc_info=True)
        else:
            self.logger.debug("%s sent. id->%s", entry.task, getattr(result, "id", None))

    def apply_async(self, entry: ScheduleEntry, producer: Any = None, advance: bool = True, **kwargs: Any) -> Any:
        """Send an entry's task and return its result; ``advance``: and count the run."""
        entry = self.reserve(entry) if advance else entry
        options = {**entry.options, **kwargs}
        options["headers"] = {**(options.get("headers") or {}), "celery_beat_task": True, "periodic_task_name": entry.name}
        try:
            args = [_evaluated(value) for value in entry.args or ()]
            named = {key: _evaluated(value) for key, value in (entry.kwargs or {}).items()}
            task = self.app.tasks.get(entry.task or "")
            if task is not None:
                return task.apply_async(args, named, **options)
            return self.send_task(entry.task, args, named, **options)
        except Exception as exc:
            raise SchedulingError(f"Couldn't apply scheduled task {entry.name}: {exc}") from exc
        finally:
            self._tasks_since_sync += 1
            if self.should_sync():
                self._do_sync()

    def send_task(self, *args: Any, **kwargs: Any) -> Any:
        return self.app.send_task(*args, **kwargs)

    # --- when ---

    def is_due(self, entry: ScheduleEntry) -> Any:
        return entry.is_due()

    def _look(self, entry: ScheduleEntry) -> tuple[bool, float | None]:
        """Ask an entry. An error of a schedule of the application's own must not stop the others."""
        try:
            is_due, next_s = self.is_due(entry)
        except Exception as exc:
            self.logger.error(
                "beat: the schedule of %s fails, it is asked again in %d s: %s", entry.name, self.max_interval, exc, exc_info=True
            )
            return False, self.max_interval
        return is_due, next_s

    def adjust(self, n: float | None, drift: float = -_EARLY_S) -> float | None:
        """Return for how long to sleep if something is due in ``n`` seconds: a little less, unless it is about to be."""
        return n + drift if n and n > -2 * drift else n

    def _when(self, entry: ScheduleEntry, next_time_to_run: float) -> float:
        now = entry.default_now()
        return (now if now.tzinfo is not None else now.replace(tzinfo=UTC)).timestamp() + (next_time_to_run or 0)

    def populate_heap(self) -> None:
        """Look at every entry."""
        self._heap = []
        for entry in self.schedule.values():
            is_due, next_s = self._look(entry)
            self._heap.append(event_t(self._when(entry, 0 if is_due else next_s or 0), 5, entry))
        heapq.heapify(self._heap)

    def _is_changed(self) -> bool:
        entries = self.schedule
        seen = (id(entries), entries.changes) if isinstance(entries, _Entries) else dict(entries)
        changed = self._heap is None or seen != self._seen
        self._seen = seen
        return changed

    def tick(self) -> float:
        """Send the entry that is due first, if it is; return for how many seconds to sleep: 0 if one was sent."""
        if self._is_changed():
            self.populate_heap()
        heap = self._heap
        if not heap:
            return self.max_interval
        event = heap[0]
        entry = event.entry
        is_due, next_s = self._look(entry)
        if is_due:
            heapq.heappop(heap)
            following = self.reserve(entry)
            self.apply_entry(entry)
            if type(entry.schedule).is_due is schedule.is_due:
                # the interval counts from when it was due, not from now
                _, next_s = self._look(following)
            if self._heap is heap:
                heapq.heappush(heap, event_t(self._when(following, next_s or 0), event.priority, following))
            return 0
        if next_s is not None and self._when(entry, next_s) > event.time + _SAME_S:
            # it is due later than was thought: another may come first
            heapq.heapreplace(heap, event_t(self._when(entry, next_s), event.priority, entry))
            if heap[0].entry is not entry:
                return 0
        adjusted = self.adjust(next_s)
        return min(adjusted if adjusted is not None else self.max_interval, self.max_interval)

    # --- keeping ---

    def should_sync(self) -> bool:
        """Say whether it is time to write what is kept."""
        if self._last_sync is None or time.monotonic() - self._last_sync > self.sync_every:
            return True
        return bool(self.sync_every_tasks) and self._tasks_since_sync >= (self.sync_every_tasks or 0)

    def _do_sync(self) -> None:
        try:
            self.sync()
        except OSError as exc:
            # what is due must go out although the disk is full
            self.logger.error("beat: cannot write what has been sent, it is tried again in %d s: %s", self.sync_every, exc)
        finally:
            self._last_sync = time.monotonic()
            self._tasks_since_sync = 0

    def sync(self) -> None:
        """Write what is kept. This one keeps nothing."""

    def close(self) -> None:
        self.sync()

    @property
    def info(self) -> str:
        """Return lines for the banner."""
        return ""


def _evaluated(value: Any) -> Any:
    return value() if isinstance(value, BeatLazyFunc) else value
