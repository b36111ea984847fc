"""What a periodic entry says, and how the shared timetable keeps it: a MessagePack map, sealed where messages are signed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, cast

from fastq import _core
from fastq.beat.given import MISSED, Missed, checked_missed, given
from fastq.exceptions import DecodeError, EncodeError, FastQError, ImproperlyConfigured
from fastq.formats import msgpack
from fastq.schedules import BaseSchedule, from_plain, maybe_schedule
from fastq.security import ENTRY
from fastq.serialization import MSGPACK

if TYPE_CHECKING:
    from fastq.app import FastQ

__all__ = ["MISSED", "Definition", "Missed", "Origin", "checked", "of_application", "packed", "unpacked"]

#: who has said so last: the application's code, or the API and the command line
Origin = Literal["app", "api"]

_VERSION = 1


@dataclass(frozen=True, slots=True)
class Definition:
    """One periodic entry, without what it has done so far."""

    task: str
    #: as ``to_plain`` has it; None: one of the application's own class, which only the application's code knows
    schedule: Mapping[str, Any] | None
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    #: of ``apply_async``
    options: Mapping[str, Any] = field(default_factory=dict)
    missed: Missed = "once"
    origin: Origin = "api"
    #: of the application's entry: what its code said when it was taken in last, as a digest
    source: str = ""
    #: the application's zone, in which the schedule was read
    zone: str = "UTC"

    def times(self, app: FastQ, name: str) -> BaseSchedule:
        """Return the schedule. ValueError, TypeError or ImproperlyConfigured says why there is none."""
        if self.schedule is not None:
            return from_plain(self.schedule, app)
        entry = app.conf.beat_schedule.get(name)
        own = entry.get("schedule") if isinstance(entry, Mapping) else getattr(entry, "schedule", None)
        if own is None:
            raise ImproperlyConfigured(
                f"its schedule is of a class of the application's own, and this application has no entry {name!r} in beat_schedule"
            )
        return cast(BaseSchedule, maybe_schedule(own, app=app))


def of_application(app: FastQ, name: str, entry: Any) -> Definition:
    """Return an entry of ``beat_schedule`` as a definition. ImproperlyConfigured says what is wrong with it."""
    where = f"beat_schedule[{name!r}]"
    said = given(app, name, entry, ("next_after", "is_due"))
    try:
        plain: Mapping[str, Any] | None = said["schedule"].to_plain()
    except (TypeError, AttributeError):  # of a class of the application's own
        plain = None
    except ValueError as exc:
        raise ImproperlyConfigured(f"{where}: {exc}") from exc
    definition = checked(
        Definition(
            said["task"], plain, tuple(said.get("args") or ()), dict(said.get("kwargs") or {}), said["options"], said["missed"],
            "app", "", str(app.timezone),
        ),
        where,
    )  # fmt: skip
    return replace(definition, source=_digest(app, definition))


def checked(definition: Definition, where: str) -> Definition:
    """Return the definition; ImproperlyConfigured for what no entry can have."""
    checked_missed(definition.missed, where)
    if "task_id" in definition.options:
        raise ImproperlyConfigured(f"{where}: task_id cannot be an option of a periodic task: every tick has an id of its own")
    return definition


def packed(app: FastQ, definition: Definition) -> bytes:
    """Write a definition; EncodeError if its arguments cannot be written."""
    content_type, call = _call(app, definition)
    written = _core.packb(
        {
            "v": _VERSION,
            "task": definition.task,
            "schedule": None if definition.schedule is None else dict(definition.schedule),
            "missed": definition.missed,
            "origin": definition.origin,
            "source": definition.source,
            "zone": definition.zone,
            "content_type": content_type,
            "call": call,
        }
    )
    return written if app.signer is None else app.signer.seal(written, ENTRY)


def unpacked(app: FastQ, data: bytes) -> Definition:
    """Read a definition. SecurityError for an unsigned one where messages are signed, DecodeError for what is none."""
    if app.signer is not None:
        data = app.signer.unseal(data, ENTRY)
    said = _core.unpackb(data)
    try:
        if not isinstance(said, dict) or said["v"] != _VERSION:
            raise DecodeError("it is no definition of this version of fastq")
        content_type, call = said["content_type"], said["call"]
        args, kwargs, options = msgpack.loads(call) if content_type == MSGPACK else app.serializers.loads(content_type, call)
        return Definition(
            said["task"], said["schedule"], tuple(args), kwargs, options, said["missed"], said["origin"], said["source"],
            said["zone"],
        )  # fmt: skip
    except FastQError:
        raise
    except (KeyError, TypeError, ValueError) as exc:
        raise DecodeError(f"it is no definition of a periodic task ({type(exc).__name__}: {exc})") from exc


def _call(app: FastQ, definition: Definition) -> tuple[str, bytes]:
    """Write what is called: in MessagePack if that can, else as the application writes its tasks."""
    call = [list(definition.args), dict(definition.kwargs), dict(definition.options)]
    try:
        return app.serializers.dumps("msgpack", call)
    except EncodeError:
        if app.serializers.task == "msgpack":
            raise
        return app.serializers.dumps(app.serializers.task, call)


def _digest(app: FastQ, definition: Definition) -> str:
    said = [definition.task, definition.schedule, *_call(app, definition), definition.missed, definition.zone]
    return hashlib.sha256(msgpack.dumps(said)).hexdigest()[:16]
