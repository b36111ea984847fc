"""Make the message of a tick: what ``apply_async`` would send, without sending it, under an id that the tick alone decides."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
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


#: the digit in which a UUID says its variant, by a random one
_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


class Made(NamedTuple):
    """The messages of one tick: one; several for an exchange that has several queues, none for a broadcast that nobody hears."""

    id: str
    publications: Sequence[Publication]
    #: what after_task_publish is told, None: nobody listens
    announced: dict[str, Any] | None


def tick_id(seed: str, name: str, due_ms: int) -> str:
    """Return the id of a tick: a UUIDv7 of its due time whose random part is a hash, so that every beat comes to the same.

    ``seed``: what is the timetable's own. Its time in front lets results be stored by slots of time like those of any task.
    """
    at = f"{due_ms & (1 << 48) - 1:012x}"
    rest = hashlib.blake2s(f"{seed}\0{name}\0{due_ms}".encode(), digest_size=10).hexdigest()
    return f"{at[:8]}-{at[8:]}-7{rest[:3]}-{_VARIANT[rest[3]]}{rest[4:7]}-{rest[8:]}"


class Maker:
    """Makes the messages of one entry. Whatever does not change from tick to tick is made once."""

    __slots__ = ("_app", "_args", "_call", "_kwargs", "_plan", "_shared", "alike")

    def __init__(self, app: FastQ, name: str, definition: Definition) -> None:
        """TypeError or ValueError for options that no call has."""
        self._app = app
        plan = app._plan(definition.task)
        self._args, self._kwargs = plan.arguments(definition.args, definition.kwargs)
        headers = {**(definition.options.get("headers") or {}), "celery_beat_task": True, "periodic_task_name": name}
        self._plan, self._call = plan.resolve({**definition.options, "headers": headers})
        #: one tick's message differs from another's by its id and its times alone
        self.alike = not self._plan.detour and self._call.keys() <= {"headers"}
        #: what all of them have: content type, body, options
        self._shared: tuple[str, bytes, dict[str, Any] | None] | None = None

    def make(self, id: str, now_ms: int) -> Made:
        """Make the messages of a tick that is sent now."""
        if not self.alike or listened[0]:
            return self._made_anew(id, now_ms)
        plan = self._plan
        if self._shared is None:
            self._shared = (*body(plan, self._args, self._kwargs), plan.envelope_options(self._call, None, id, 0))
        content_type, written, options = self._shared
        expires = None if plan.expires is None else expires_ms(self._app, now_ms, plan.expires)
        message = _core.encode(id, plan.name, content_type, written, now_ms, expires, 0, None, options)
        return Made(id, (Publication(plan.queue, message, plan.level),), None)

    def _made_anew(self, id: str, now_ms: int) -> Made:
        """Make what is each tick's own: a countdown, a router or a receiver that looks at it, arguments that the task changes."""
        app, plan, args, kwargs, call = self._app, self._plan, self._args, self._kwargs, self._call
        if plan.detour or "router" in call:
            plan, args, kwargs, call = plan.arranged(args, kwargs, call)
        content_type, written = body(plan, args, kwargs)
        delay_ms, due_ms = when(app, now_ms, call.get("countdown"), call.get("eta"))
        expires = expires_ms(app, now_ms, plan.expires)
        options = plan.envelope_options(call, None, id, due_ms or (now_ms + delay_ms if delay_ms else 0))
        announced = None
        if listened[0]:
            options, announced = announce.before(plan, id, args, kwargs, options, call, expires)
        message = _core.encode(id, plan.name, content_type, written, now_ms, expires, call.get("retries", 0), None, options)
        queues = (plan.queue,) if plan.queues is None else plan.queues
        return Made(id, [Publication(queue, message, plan.level, delay_ms, due_ms) for queue in queues], announced)
