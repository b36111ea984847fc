"""Make the message of a tick: what ``apply_async`` would send, without sending it, under an id that the tick alone decides."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple

from fastq import _core
from fastq.beat.definition import Definition
from fastq.calling import announce
from fastq.calling.announce import listened
from fastq.calling.body import body
from fastq.calling.times import expires_ms, when
from fastq.records import Publication

if TYPE_CHECKING:
    from fastq.app import FastQ

__all__ = ["Made", "Maker", "tick_id"]


class Made(NamedTuple):
    """The messages of one tick: one; several for an exchange that has several queues, none for a broadcast that nobody hears."""

    id: str
    publications: list[Publication]
    #: what after_task_publish is told, None: nobody listens
    announced: dict[str, Any] | None


def tick_id(seed: str, name: str, due_ms: int) -> str:
    """Return the id of a tick: a UUIDv7 of its due time whose random part is a hash, so that every beat comes to the same.

    ``seed``: what is the timetable's own. Its time in front lets results be stored by slots of time like those of any task.
    """
    rest = int.from_bytes(hashlib.sha256(f"{seed}\0{name}\0{due_ms}".encode()).digest()[:10], "big")
    high, low = rest >> 62 & 0xFFF, rest & (1 << 62) - 1
    number = (due_ms & (1 << 48) - 1) << 80 | 7 << 76 | high << 64 | 2 << 62 | low
    text = f"{number:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


class Maker:
    """Makes the messages of one entry. Whatever does not change from tick to tick is made once."""

    def __init__(self, app: FastQ, name: str, definition: Definition) -> None:
        """TypeError or ValueError for options that no call has."""
        self._app = app
        self._definition = definition
        plan = app._plan(definition.task)
        self._args, self._kwargs = plan.arguments(definition.args, definition.kwargs)
        headers = {**(definition.options.get("headers") or {}), "celery_beat_task": True, "periodic_task_name": name}
        self._plan, self._call = plan.resolve({**definition.options, "headers": headers})
        self._detour = self._plan.detour or "router" in self._call
        #: nothing in the call is each tick's own
        self._plain = not self._detour and self._call.keys() <= {"headers"}
        self._body: tuple[str, bytes] | None = None
        self._options: dict[str, Any] | None = None

    def make(self, id: str, now_ms: int) -> Made:
        """Make the messages of a tick that is sent now."""
        app, plan, args, kwargs, call = self._app, self._plan, self._args, self._kwargs, self._call
        if self._detour:
            # a router looks at each call, or the task changes its arguments
            plan, args, kwargs, call = plan.arranged(args, kwargs, call)
            content_type, written = body(plan, args, kwargs)
        else:
            if self._body is None:
                self._body = body(plan, args, kwargs)
            content_type, written = self._body
        delay_ms, due_ms = when(app, now_ms, call.get("countdown"), call.get("eta"))
        expires = expires_ms(app, now_ms, plan.expires)
        options = self._options
        if options is None:
            options = plan.envelope_options(call, None, id, due_ms or (now_ms + delay_ms if delay_ms else 0))
            if self._plain:
                self._options = options
        announced = None
        if listened[0]:
            options, announced = announce.before(plan, id, args, kwargs, options, call, expires)
        message = _core.encode(id, plan.name, content_type, written, now_ms, expires, call.get("retries", 0), None, options)
        queues = (plan.queue,) if plan.queues is None else plan.queues
        return Made(id, [Publication(queue, message, plan.level, delay_ms, due_ms) for queue in queues], announced)
