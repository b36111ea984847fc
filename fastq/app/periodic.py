"""What an application does again and again: entries that are added to ``beat_schedule`` by calls."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastq.canvas import Signature
    from fastq.config import Settings
    from fastq.schedules import BaseSchedule
    from fastq.task import Task

__all__ = ["Periodic"]

_log = logging.getLogger("fastq.app")


class Periodic:
    """The part of an application that is asked to send tasks periodically."""

    conf: Settings

    def add_periodic_task(
        self,
        schedule: float | timedelta | BaseSchedule,
        sig: Signature[Any] | Task[..., Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        name: str | None = None,
        **opts: Any,
    ) -> str:
        """Have beat send a signature periodically; return the name of the entry in ``beat_schedule``.

        ``args`` and ``kwargs`` complete the signature, ``opts`` are options of ``apply_async`` over its own. ``name``: None is the
        signature's repr. The entry stays whatever ``beat_schedule`` is set to afterwards.
        """
        made = self._completed(sig, args, kwargs)
        key = name or repr(made)
        entry = {
            "task": made["task"],
            "schedule": schedule,
            "args": made["args"],
            "kwargs": made["kwargs"],
            "options": {**made["options"], **opts},
        }
        if self.conf.add_periodic(key, entry) and name is None:
            _log.warning(
                "periodic task %r replaces one of the same arguments that has no name either; give add_periodic_task a name=", key
            )
        return key

    def _completed(self, sig: Any, args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> Signature[Any]:
        from fastq.canvas import Signature  # lazy: the canvas imports tasks

        if isinstance(sig, str) or (not isinstance(sig, Mapping) and not isinstance(getattr(sig, "name", None), str)):
            raise TypeError(
                f"add_periodic_task() takes a signature, such as add.s(2, 2), or a task, not {type(sig).__name__}: {sig!r}"
            )
        if isinstance(sig, Mapping):
            # a chain, group or chord too: each has a task of its own that goes on as it
            made = sig if isinstance(sig, Signature) else Signature.from_dict(sig)
            return made.clone(args, kwargs)
        return Signature(sig.name, args, kwargs)
