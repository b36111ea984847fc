"""The options of a call that say what follows it: ``link``, ``link_error``, ``chain``, ``chord``, ``group_id``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastq.app import FastQ

__all__ = ["follow", "nodes"]


def follow(
    app: FastQ, options: dict[str, Any], call: Mapping[str, Any], task_id: str, links: Sequence[bytes], errbacks: Sequence[bytes]
) -> None:
    """Write into the envelope's ``options`` what follows the call: nodes that are given, then those of its options."""
    root_id = options.get("root_id") or task_id or None
    flow: dict[str, Any] = dict(options.get("flow") or ())
    called = [*links, *nodes(app, call.get("link"), root_id)]
    if called:
        flow["links"] = called
    told = [*errbacks, *nodes(app, call.get("link_error"), root_id)]
    if told:
        flow["errbacks"] = told
    if chain := nodes(app, call.get("chain"), root_id):
        flow["chain"] = chain
    if (chord := call.get("chord")) is not None:
        flow["join"] = _join(chord)
    if (group_id := call.get("group_id")) is not None:
        options["group"] = [group_id, call.get("group_index", 0)]
    if flow:
        options["flow"] = flow


def nodes(app: FastQ, value: Any, root_id: str | None = None) -> list[bytes]:
    """Return signatures (one, or a list; also in the form of dicts) as nodes of ``fastq.flow``; nodes stay as they are."""
    if value is None:
        return []
    items: Iterable[Any] = value if isinstance(value, list | tuple) else (value,)
    return [item if isinstance(item, bytes) else _node(app, item, root_id) for item in items]


def _node(app: FastQ, item: Any, root_id: str | None) -> bytes:
    from fastq.canvas import maybe_signature  # lazy: the canvas imports tasks, which import this module
    from fastq.canvas.build import build  # lazy: as above

    if not isinstance(item, Mapping):
        raise TypeError(f"expected a signature such as task.s(...), got {type(item).__name__}: {item!r}")
    return build(maybe_signature(item, app=app), app, root_id=root_id, waited=False).node


def _join(chord: Any) -> list[str]:
    if isinstance(chord, list | tuple) and len(chord) == 3 and all(isinstance(part, str) for part in chord):
        return list(chord)
    raise ValueError(
        "chord= is the mark of a chord's member, as self.request.chord has it (its join, member and queue); a chord is made with "
        f"fastq.chord(header)(body), not of {type(chord).__name__} {chord!r}"
    )
