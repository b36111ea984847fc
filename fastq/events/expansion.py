"""Make events, as Celery has them, of what processes tell: see ``batch`` for the form in which it comes."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from fastq._core import unpackb
from fastq.events.batch import RUNS_ON, VERSION
from fastq.exceptions import DecodeError
from fastq.formats import json, msgpack

__all__ = ["Expansion"]

logger = logging.getLogger("fastq.events")

#: characters of a text made of arguments or of a result
TEXT_MAX = 1024
#: what stands for arguments or results that are too long, or not readable here
LEFT_OUT = "..."

_RECEIVED, _STARTED = 1, 2
#: what a task that has come to its end is told with: everything else about it was told with its beginning
_ENDS = {
    "task-succeeded": ("result", "runtime"),
    "task-failed": ("exception", "traceback"),
    "task-retried": ("exception", "traceback"),
    "task-revoked": ("terminated", "signum", "expired"),
    "task-rejected": ("requeue",),
    "task-cancelled": (),
}
_CALL = ("uuid", "name", "args", "kwargs", "retries", "eta", "expires", "root_id", "parent_id")
_SENT = ("queue", "exchange", "routing_key")


class Expansion:
    """Read batches. Remembers what it has told of tasks that run, so that a beginning is told once."""

    def __init__(self, remember: int = 10_000) -> None:
        #: by task id: what was told of its beginning, and by which process. Another one that has it begins anew
        self._told: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self._pid = 0
        self._remember = remember
        #: tasks that processes have left out to stay within their rate
        self.left_out = 0

    def events(self, batch: bytes) -> Iterator[dict[str, Any]]:
        """Yield the events of a batch; nothing of one that cannot be read."""
        try:
            read = unpackb(batch)
            if not isinstance(read, dict) or read.get("v") != VERSION:
                raise DecodeError(f"expected a map of version {VERSION}")
            common = {"hostname": str(read["node"]), "utcoffset": read["zone"], "pid": read["pid"]}
            clock = int(read["clock"])
            runs = unpackb(read["runs"]) if "runs" in read else ()
        except (DecodeError, KeyError, TypeError, ValueError) as exc:
            logger.warning("Passing over %d bytes in the stream of events that are no batch: %s", len(batch), exc)
            return
        self._pid = read["pid"]
        self.left_out += read.get("left", 0)
        for told in read.get("told", ()):
            for event in self._of_told(told):
                event.update(common)
                if "hostname" in told:
                    event["hostname"] = told["hostname"]
                event["clock"] = clock = clock + 1
                yield event
        base_ms = read.get("base", 0)
        for run in runs:
            for event in self._of_run(run, base_ms):
                event.update(common)
                event["clock"] = clock = clock + 1
                yield event

    # --- one task ---

    def _of_run(self, run: list[Any], base_ms: int) -> Iterator[dict[str, Any]]:
        """A task that has succeeded."""
        uuid, name, finished, runtime_us, waited_ms, retries, body, result, further = run[:9]
        finished_s = (base_ms + finished) / 1000
        runtime_s = runtime_us / 1e6
        started_s = finished_s - runtime_s
        known = self._known(uuid)
        if not known & _RECEIVED:
            received_s = min(started_s, finished_s - waited_ms / 1000) if waited_ms >= 0 else started_s
            what = {"name": name, "retries": retries, "body": body, **(further or {})}
            yield {"type": "task-received", "timestamp": received_s, **_call(uuid, what)}
        if not known & _STARTED:
            yield {"type": "task-started", "timestamp": started_s, "uuid": uuid}
        yield {
            "type": "task-succeeded",
            "timestamp": finished_s,
            "uuid": uuid,
            "result": LEFT_OUT if result is None else _text_of(result, msgpack.loads),
            "runtime": runtime_s,
        }

    def _of_told(self, told: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        kind, at_s = told["type"], told["timestamp"]
        if kind == "task-sent":
            yield {"type": kind, "timestamp": at_s, **_call(told["uuid"], told), **{key: told.get(key, "") for key in _SENT}}
            return
        if "of_task" not in told:
            if kind == "task-received":
                self._note(told["uuid"], _RECEIVED)
                yield {"type": kind, "timestamp": at_s, **_call(told["uuid"], told)}
            else:
                yield dict(told)
            return
        # of a task whose beginning may not have been told
        uuid = told["uuid"]
        known = self._known(uuid, by_another="by_another" in told)
        if not known & _RECEIVED:
            yield {"type": "task-received", "timestamp": told.get("received", at_s), **_call(uuid, told)}
        if not known & _STARTED and (started_s := told.get("started")) is not None:
            yield {"type": "task-started", "timestamp": started_s, "uuid": uuid}
        if not kind:  # it runs on, or has ended in a way that has no event
            if told["of_task"] == RUNS_ON:
                self._note(uuid, _RECEIVED | _STARTED)
        else:
            yield {"type": kind, "timestamp": at_s, "uuid": uuid, **{key: told.get(key) for key in _ENDS.get(kind, ())}}

    def _known(self, uuid: str, *, by_another: bool = False) -> int:
        """Return what was told of the beginning of a run, and forget it."""
        what, pid = self._told.pop(uuid, (0, 0))
        return what if pid == self._pid or by_another else 0

    def _note(self, uuid: str, what: int) -> None:
        self._told[uuid] = (what, self._pid)
        while len(self._told) > self._remember:
            self._told.popitem(last=False)


def _call(uuid: str, what: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is told of a call."""
    args, kwargs = _arguments(what.get("body"))
    values = {
        "args": what.get("argsrepr", args),
        "kwargs": what.get("kwargsrepr", kwargs),
        "eta": _iso(what.get("eta_ms")),
        "expires": _iso(what.get("expires_ms")),
        "root_id": what.get("root_id", uuid),
    }
    return {"uuid": uuid, **{key: values[key] if key in values else what.get(key) for key in _CALL[1:]}}


def _arguments(body: Any) -> tuple[str, str]:
    if body is None:
        return LEFT_OUT, LEFT_OUT
    try:
        args, kwargs = json.loads(body[0]) if isinstance(body, list) else msgpack.loads(body)
        return _cut(repr(tuple(args))), _cut(repr(kwargs))
    except Exception:  # what a task cannot read either is told all the same, without
        return LEFT_OUT, LEFT_OUT


def _text_of(data: bytes, loads: Any) -> str:
    try:
        return _cut(repr(loads(data)))
    except Exception:  # as above
        return LEFT_OUT


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_MAX else text[: TEXT_MAX - len(LEFT_OUT)] + LEFT_OUT


def _iso(ms: int | None) -> str | None:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat() if ms else None
