"""What a result record says beside the value: what the task started, and with ``result_extended`` what it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastq import _core, flow
from fastq.exceptions import EncodeError
from fastq.records import Delivery
from fastq.remote import repr_safe

__all__ = ["Meta"]


class Meta:
    """Describe runs for their result records. Keeps no state but its configuration."""

    def __init__(self, node: str, *, extended: bool) -> None:
        self._node = node
        self.extended = extended

    def of(
        self,
        d: Delivery,
        *,
        succeeded: bool,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        more: Sequence[Any] = (),
    ) -> dict[str, Any] | None:
        """Return the meta of a record, None if there is nothing to say. ``more``: what it has added to its chord."""
        following = d.flow
        starts = succeeded and following is not None and ("chain" in following or "links" in following)
        if not (self.extended or starts or more or d.children):
            return None
        # what a task has sent: ids, and results of canvases as tuples
        sent: list[Any] = list(d.children or ())
        children = [[[child, None], None] if isinstance(child, str) else child for child in sent]
        if starts:
            children += flow.children(following)
        children += [[[built.result.id, None], None] for built in more]
        if not self.extended:
            return {"children": children} if children else None
        options = d.options or {}
        return {
            "children": children,
            "name": d.name,
            "args": _plain(args),
            "kwargs": _plain(kwargs),
            "worker": self._node,
            "retries": d.retries,
            "queue": d.queue,
            "parent_id": options.get("parent_id"),
            "group_id": ((d.options or {}).get("group") or (None,))[0],
        }


def _plain(value: Any) -> Any:
    """Return arguments as every reader can read them: those of other types than MessagePack's own as text."""
    if isinstance(value, tuple):
        value = list(value)
    try:
        _core.packb(value)
    except (EncodeError, RecursionError):
        if isinstance(value, list):
            return [_plain_one(item) for item in value]
        return {str(key): _plain_one(item) for key, item in value.items()}
    return value


def _plain_one(value: Any) -> Any:
    try:
        _core.packb(value)
    except (EncodeError, RecursionError):
        return repr_safe(value)
    return value
