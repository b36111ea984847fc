"""A call made ready, and which options it takes to make one of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from fastq.records import Publication
from fastq.result import AsyncResult

__all__ = ["CARRIED", "FLOWING", "SINGLE", "Made"]

#: options of a call that are written into the envelope as they are
CARRIED = frozenset(
    {"root_id", "parent_id", "shadow", "reply_to", "app_id", "argsrepr", "kwargsrepr", "origin", "replaced_task_nesting"}
)
#: options of a call that become parts of its flow
FLOWING = frozenset({"link", "link_error", "chain", "chord", "group_id"})
#: options that many calls do not share, or not as a part of the envelope's options
SINGLE = FLOWING | {"result_cls", "retries"}


class Made(NamedTuple):
    """One call, ready to be sent."""

    #: one; several for an exchange that has several queues, none for a broadcast to which nobody listens
    publications: Sequence[Publication]
    result: AsyncResult[Any]
    #: what after_task_publish is told, None: nobody listens
    announced: dict[str, Any] | None
