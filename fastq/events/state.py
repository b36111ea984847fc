"""Keep in memory how tasks and workers are: ``app.events.State``."""

from __future__ import annotations

import bisect
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, NamedTuple, TypeVar
from weakref import WeakSet

from fastq.events import remembered
from fastq.events.remembered import Task, Worker

__all__ = ["Group", "State", "Task", "When", "Worker"]

V = TypeVar("V")


class When(NamedTuple):
    """The place of an event of a task in the history, of which the newest is the largest."""

    timestamp: float
    clock: int
    #: hostname.pid
    origin: str
    uuid: str


class Lru(OrderedDict[str, V]):
    """A dict that keeps what was set or looked up last."""

    def __init__(self, limit: int | None) -> None:
        super().__init__()
        self.limit = limit

    def touch(self, key: str, value: V) -> None:
        """Set what is newest, and forget the oldest if there are too many."""
        self[key] = value
        self.move_to_end(key)
        while self.limit is not None and len(self) > self.limit:
            self.popitem(last=False)


class Group(dict[str, "WeakSet[remembered.Task]"]):
    """Tasks by a word: ``group[word]``; or newest first, (uuid, task) up to ``limit``: ``group(word, limit)``."""

    def __init__(self, find: Callable[..., Iterator[tuple[str, remembered.Task]]]) -> None:
        super().__init__()
        self._find = find

    def __missing__(self, key: str) -> WeakSet[remembered.Task]:
        found = self[key] = WeakSet()
        return found

    def __call__(self, key: str, limit: int | None = None, reverse: bool = True) -> Iterator[tuple[str, remembered.Task]]:
        return self._find(key, limit, reverse)


class State:
    """Take in events (``event``), and answer. Safe from several threads.

    The tasks and workers heard of last are kept: ``max_tasks_in_memory`` and ``max_workers_in_memory`` of them.
    """

    #: what is made of what is heard of; a subclass may have others
    Task = remembered.Task
    Worker = remembered.Worker

    def __init__(
        self,
        callback: Callable[[State, dict[str, Any]], object] | None = None,
        max_workers_in_memory: int = 5000,
        max_tasks_in_memory: int = 10_000,
        on_node_join: Callable[[remembered.Worker], object] | None = None,
        on_node_leave: Callable[[remembered.Worker], object] | None = None,
        **options: Any,
    ) -> None:
        """``callback`` is called with this and each event; ``on_node_join`` and ``on_node_leave`` with a worker that was heard of
        for the first time, or has said that it ends."""
        self.event_callback = callback
        self.max_workers_in_memory = max_workers_in_memory
        self.max_tasks_in_memory = max_tasks_in_memory
        self.on_node_join = on_node_join
        self.on_node_leave = on_node_leave
        #: events taken in; those of them that a task began to be known with
        self.event_count = 0
        self.task_count = 0
        self._lock = threading.RLock()
        self._names: set[str] = set()
        self._clear()

    def _clear(self) -> None:
        self.workers: Lru[remembered.Worker] = Lru(self.max_workers_in_memory)
        self.tasks: Lru[remembered.Task] = Lru(self.max_tasks_in_memory)
        self.tasks_by_type = Group(self._tasks_by_type)
        self.tasks_by_worker = Group(self._tasks_by_worker)
        self._history: list[When] = []

    # --- taking in ---

    def event(self, event: dict[str, Any]) -> tuple[tuple[remembered.Worker | remembered.Task | None, bool], str]:
        """Take in one event; return ((what it is about, whether that is new), what has happened to it)."""
        with self._lock:
            self.event_count += 1
            group, _, subject = event["type"].partition("-")
            if group == "worker":
                made: tuple[remembered.Worker | remembered.Task | None, bool] = self._worker_event(subject, event)
            elif group == "task":
                made = self._task_event(subject, event)
            else:
                made = (None, False)
            if self.event_callback is not None:
                self.event_callback(self, event)
            return made, subject

    def _worker_event(self, subject: str, event: dict[str, Any]) -> tuple[remembered.Worker, bool]:
        fields = {key: value for key, value in event.items() if key not in ("type", "hostname", "timestamp", "local_received")}
        hostname = event["hostname"]
        worker = self.workers.get(hostname)
        created = worker is None
        if worker is None:
            worker = self.Worker(hostname)
        self.workers.touch(hostname, worker)
        if subject == "offline":
            self.workers.pop(hostname, None)
        worker.event(subject, event.get("timestamp"), event.get("local_received"), fields)
        if created and subject != "offline" and self.on_node_join is not None:
            self.on_node_join(worker)
        if subject == "offline" and self.on_node_leave is not None:
            self.on_node_leave(worker)
        return worker, created

    def _task_event(self, subject: str, event: dict[str, Any]) -> tuple[remembered.Task | None, bool]:
        uuid, hostname, timestamp = event.get("uuid"), event.get("hostname"), event.get("timestamp") or 0.0
        if uuid is None:
            return None, False  # a custom event that is about no task
        fields = {
            key: value for key, value in event.items() if key not in ("type", "uuid", "hostname", "timestamp", "local_received")
        }
        task = self.tasks.get(uuid)
        created = task is None
        if task is None:
            task = self.Task(uuid, cluster_state=self)
            self.task_count += 1
        self.tasks.touch(uuid, task)
        if subject == "sent":
            task.client = hostname
        elif hostname is not None:
            worker = self.workers.get(hostname)
            if worker is None:
                worker = self.Worker(hostname, pid=event.get("pid"))
                self.workers.touch(hostname, worker)
            if task.worker is not worker:
                task.worker = worker
                self.tasks_by_worker[hostname].add(task)
        task.event(subject, timestamp, event.get("local_received"), fields)
        if task.name is not None and task not in self.tasks_by_type[task.name]:
            self.tasks_by_type[task.name].add(task)
            self._names.add(task.name)
        self._note(When(timestamp, event.get("clock") or 0, f"{hostname}.{event.get('pid')}", uuid))
        return task, created

    def _note(self, when: When) -> None:
        history = self._history
        if not history or when >= history[-1]:
            history.append(when)
        else:
            bisect.insort(history, when)
        most = self.max_tasks_in_memory * 2
        if len(history) > 2 * most:
            del history[:most]

    # --- answers ---

    @property
    def heap_multiplier(self) -> int:
        return 4

    def itertasks(self, limit: int | None = None, reverse: bool = False) -> Iterator[tuple[str, remembered.Task]]:
        """Yield (uuid, task), those heard of first coming first; up to ``limit``."""
        with self._lock:
            items = list(self.tasks.items())
        if reverse:
            items.reverse()
        return islice(iter(items), limit)

    def tasks_by_timestamp(self, limit: int | None = None, reverse: bool = True) -> Iterator[tuple[str, remembered.Task]]:
        """Yield (uuid, task), the one with the newest event first."""
        with self._lock:
            history = list(self._history)
            tasks = dict(self.tasks)
        if reverse:
            history.reverse()
        return islice(self._unique(history, tasks), limit)

    tasks_by_time = tasks_by_timestamp

    @staticmethod
    def _unique(history: list[When], tasks: dict[str, remembered.Task]) -> Iterator[tuple[str, remembered.Task]]:
        seen = set()
        for when in history:
            if when.uuid not in seen and when.uuid in tasks:
                seen.add(when.uuid)
                yield when.uuid, tasks[when.uuid]

    def _tasks_by_type(self, name: str, limit: int | None = None, reverse: bool = True) -> Iterator[tuple[str, remembered.Task]]:
        found = ((uuid, task) for uuid, task in self.tasks_by_timestamp(reverse=reverse) if task.name == name)
        return islice(found, limit)

    def _tasks_by_worker(
        self, hostname: str, limit: int | None = None, reverse: bool = True
    ) -> Iterator[tuple[str, remembered.Task]]:
        found = (
            (uuid, task)
            for uuid, task in self.tasks_by_timestamp(reverse=reverse)
            if task.worker is not None and task.worker.hostname == hostname
        )
        return islice(found, limit)

    def task_types(self) -> list[str]:
        """Return the names of all tasks ever heard of, sorted."""
        with self._lock:
            return sorted(self._names)

    def alive_workers(self) -> Iterator[remembered.Worker]:
        """Yield the workers heard of lately."""
        with self._lock:
            workers = list(self.workers.values())
        return (worker for worker in workers if worker.alive)

    def get_or_create_worker(self, hostname: str, **fields: Any) -> tuple[remembered.Worker, bool]:
        with self._lock:
            worker = self.workers.get(hostname)
            if worker is not None:
                worker.update(fields)
                return worker, False
            worker = self.Worker(hostname, **fields)
            self.workers.touch(hostname, worker)
            return worker, True

    def get_or_create_task(self, uuid: str) -> tuple[remembered.Task, bool]:
        with self._lock:
            task = self.tasks.get(uuid)
            if task is not None:
                return task, False
            task = self.Task(uuid, cluster_state=self)
            self.tasks.touch(uuid, task)
            return task, True

    # --- keeping still, forgetting ---

    @contextmanager
    def freeze_while(self, clear_after: bool = False) -> Iterator[State]:
        """Take in nothing for as long as the block lasts, from whatever thread it comes; ``clear_after``: then forget
        everything."""
        with self._lock:
            yield self
            if clear_after:
                self.clear()

    def clear_tasks(self, ready: bool = True) -> None:
        """Forget tasks; ``ready``: all of them, otherwise those alone that have not come to their end."""
        with self._lock:
            kept = [] if ready else [(uuid, task) for uuid, task in self.tasks.items() if task.ready]
            self.tasks.clear()
            for uuid, task in kept:
                self.tasks[uuid] = task
            self._history = [when for when in self._history if when.uuid in self.tasks]

    def clear(self, ready: bool = True) -> None:
        """Forget everything, counts too."""
        with self._lock:
            if ready:
                self._clear()
            else:
                self.clear_tasks(ready=False)
            self.event_count = self.task_count = 0

    def __repr__(self) -> str:
        return f"<State: events={self.event_count} tasks={self.task_count}>"
