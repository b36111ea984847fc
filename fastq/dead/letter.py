"""One dead letter, as it is listed."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from fastq import _core
from fastq.ending import BAD_SIGNATURE
from fastq.records import DeadLetter

__all__ = ["REASONS", "Letter", "moment"]

#: why a message is a dead letter -> what has happened, in a line
REASONS = {
    "failed": "the task raised an exception, and is not to be tried again",
    "worker-lost": "its process died while it ran, as often as task_max_deliveries allows",
    "time-limit": "it was over its hard time limit, so its process was killed",
    "rejected": "the task raised Reject",
    "unregistered": "the worker knows no task of that name",
    "undecodable": "the message cannot be read, or what is to follow the task",
    "content-disallowed": "the content type is not in the worker's accept_content",
    "undecodable-arguments": "the arguments cannot be read",
    "unserializable-result": "the task returned what the result serializer cannot write",
    "result-too-large": "the task returned more than result_max_bytes",
    BAD_SIGNATURE: "the message is not signed, or wrongly, and the worker asks for it",
    "internal-error": "fastq itself failed while it handled the end of the task",
}

#: characters of an error in a list
ERROR_MAX = 300
#: what would move the cursor of a terminal, or write over what stands there
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


class Letter:
    """A dead letter. What it says of its task is what its message says; of one that cannot be read little is known."""

    def __init__(self, record: DeadLetter) -> None:
        self.record = record
        (self.delivery,) = _core.deliveries(record.queue, [record.key], [record.message], _core.Registry([]))

    def __repr__(self) -> str:
        return f"<Letter {self.key}: {self.name or 'unreadable'}[{self.id}] {self.reason}>"

    @property
    def key(self) -> str:
        """Its own name, where its task's id names several, or none."""
        return f"{self.record.queue}/{self.record.key}"

    @property
    def queue(self) -> str:
        return self.record.queue

    @property
    def reason(self) -> str:
        """One of REASONS."""
        return self.record.reason

    @cached_property
    def id(self) -> str:
        """Id of the task, "" if that cannot be read."""
        return self.delivery.id or self._text("id")

    @cached_property
    def name(self) -> str:
        """Name of the task, "" if that cannot be read."""
        return self.delivery.name or self._text("name")

    @property
    def died_at(self) -> datetime:
        """When it was given up, UTC."""
        return moment(self.record.dead_ms)

    @property
    def retries(self) -> int:
        """How often the task had asked to be run again before this run."""
        return self.delivery.retries

    @property
    def deliveries(self) -> int:
        """How often its process has died under it."""
        known = self.record.detail.get("deliveries")
        return known if isinstance(known, int) else self.delivery.deliveries

    @cached_property
    def error(self) -> str:
        """What was wrong, one line."""
        line = _CONTROL.sub(" ", self.full_error.strip().partition("\n")[0])
        return line if len(line) <= ERROR_MAX else line[: ERROR_MAX - 1] + "…"

    @property
    def full_error(self) -> str:
        return self._text("error")

    @property
    def traceback(self) -> str:
        """The traceback of the worker, "" if there is none."""
        return self._text("traceback")

    @property
    def process(self) -> str:
        """The worker process or node that held it last, "" if that is not known."""
        return self._text("process") or self._text("node")

    def as_dict(self) -> dict[str, Any]:
        """Return what a list says of it, ready for JSON."""
        return {
            "key": self.key,
            "id": self.id,
            "task": self.name,
            "queue": self.queue,
            "reason": self.reason,
            "died_at": self.died_at.isoformat(timespec="milliseconds"),
            "retries": self.retries,
            "deliveries": self.deliveries,
            "error": self.error,
        }

    def _text(self, name: str) -> str:
        value = self.record.detail.get(name)
        return value if isinstance(value, str) else ""


def moment(ms: int) -> datetime:
    """Return a time of the broker's as UTC; one that no calendar has, from a message that anyone may have written, as its end."""
    try:
        return datetime.fromtimestamp(ms / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return datetime.max.replace(tzinfo=UTC)
