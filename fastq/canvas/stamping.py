"""Stamps: headers of one's own on every task of a canvas, put there by a visitor.

A stamp is a header whose name is listed in the header ``stamped_headers``; all of them together are in the header ``stamps``. In a
signature they are options of their names; ``headers_of`` turns them into the headers that travel.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fastq.calling.options import CALLED, PLANNED
from fastq.canvas.signature import Signature, as_list, maybe_signature

if TYPE_CHECKING:
    from fastq.canvas.chain import chain
    from fastq.canvas.chord import chord
    from fastq.canvas.group import group

__all__ = ["StampingVisitor", "call_options", "stamp", "stamp_links"]

_LISTED = "stamped_headers"


class StampingVisitor:
    """What ``sig.stamp(visitor)`` asks for stamps, part by part.

    Each method is given the part and the stamps collected so far, and returns further ones for it and what is in it. A returned
    ``stamped_headers`` says which of the returned keys are stamps (without it: all); others are options of the call if they are
    called like one, else plain headers.
    """

    def on_signature(self, sig: Signature[Any], **headers: Any) -> dict[str, Any]:
        """Return the stamps of one task."""
        raise NotImplementedError(f"{type(self).__name__} must define on_signature()")

    def on_group_start(self, group: group[Any], **headers: Any) -> dict[str, Any]:
        return {}

    def on_group_end(self, group: group[Any], **headers: Any) -> None:
        return None

    def on_chain_start(self, chain: chain[Any], **headers: Any) -> dict[str, Any]:
        return {}

    def on_chain_end(self, chain: chain[Any], **headers: Any) -> None:
        return None

    def on_chord_header_start(self, sig: chord[Any], **headers: Any) -> dict[str, Any]:
        """Return the stamps of a chord's header, by default those of a group."""
        return self.on_group_start(sig.header, **headers)

    def on_chord_header_end(self, sig: chord[Any], **headers: Any) -> None:
        self.on_group_end(sig.header, **headers)

    def on_chord_body(self, sig: chord[Any], **headers: Any) -> dict[str, Any]:
        """Return the stamps of a chord's body; ``sig`` is the chord."""
        return {}

    def on_callback(self, callback: Signature[Any], **headers: Any) -> dict[str, Any]:
        return {}

    def on_errback(self, errback: Signature[Any], **headers: Any) -> dict[str, Any]:
        return {}


def stamp(sig: Signature[Any], visitor: StampingVisitor | None, append: bool, headers: Mapping[str, Any]) -> Signature[Any]:
    """Stamp everything in a signature and return it."""
    kind = sig.subtask_type
    if kind == "chain":
        made = _joined(sig, visitor.on_chain_start(sig, **headers) if visitor else None, append, headers)  # type: ignore[arg-type]
        stamp_links(sig, visitor, append, made)
        for task in sig["kwargs"]["tasks"]:
            stamp(task, visitor, append, made)
        if visitor is not None:
            visitor.on_chain_end(sig, **made)  # type: ignore[arg-type]
    elif kind == "group":
        made = _joined(sig, visitor.on_group_start(sig, **headers) if visitor else None, append, headers)  # type: ignore[arg-type]
        stamp_links(sig, visitor, append, made)
        for task in sig["kwargs"]["tasks"]:
            stamp(task, visitor, append, made)
        if visitor is not None:
            visitor.on_group_end(sig, **made)  # type: ignore[arg-type]
    elif kind == "chord":
        _stamp_chord(sig, visitor, append, headers)
    else:
        stamp_links(sig, visitor, append, headers)
        made = _joined(sig, visitor.on_signature(sig, **headers) if visitor else None, append, headers)
        known = {_LISTED, *made[_LISTED], *PLANNED, *CALLED}
        sig.options.update({key: value for key, value in made.items() if key in known})
        if others := {key: value for key, value in made.items() if key not in known}:
            sig.options["headers"] = {**(sig.options.get("headers") or {}), **others}
    return sig


def _stamp_chord(sig: Any, visitor: StampingVisitor | None, append: bool, headers: Mapping[str, Any]) -> None:
    made = _joined(sig, visitor.on_chord_header_start(sig, **headers) if visitor else None, append, headers)
    stamp_links(sig, visitor, append, made)
    stamp_links(sig.header, visitor, append, made)
    for task in sig.tasks:
        stamp(task, visitor, append, made)
    if visitor is not None:
        visitor.on_chord_header_end(sig, **made)
    if sig.body is not None:
        made = _joined(sig, visitor.on_chord_body(sig, **made) if visitor else None, append, made)
        stamp(sig.body, visitor, append, made)


def stamp_links(sig: Signature[Any], visitor: StampingVisitor | None, append: bool, headers: Mapping[str, Any]) -> None:
    """Stamp the callbacks and errbacks of a signature."""
    for key, visit in (("link", "on_callback"), ("link_error", "on_errback")):
        if key not in sig.options:
            continue
        linked = sig.options[key] = [maybe_signature(item, app=sig._known_app()) for item in as_list(sig.options[key])]
        for item in linked:
            own = getattr(visitor, visit)(item, **headers) if visitor is not None else None
            # what the callback is stamped with is not what it is linked to is stamped with
            stamp(item, visitor, append, _joined(None, own, append, headers))


def _joined(
    sig: Signature[Any] | None, visited: Mapping[str, Any] | None, append: bool, headers: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the stamps of a signature: those given, over them the visitor's, under them its own."""
    found = _listed(headers)
    if visited:
        found = _merged(found, _listed(visited), append)
    if sig is not None and _LISTED in sig.options:
        own = {key: sig.options[key] for key in sig.options[_LISTED] if key in sig.options}
        found = _merged(found, own | {_LISTED: list(own)}, append, over=False)
    return found


def _listed(headers: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(headers)
    found[_LISTED] = list(found.get(_LISTED, found))
    return found


def _merged(first: dict[str, Any], second: Mapping[str, Any], append: bool, *, over: bool = True) -> dict[str, Any]:
    names = list(dict.fromkeys([*first[_LISTED], *second[_LISTED]]))
    found = {**first, **second} if over else {**second, **first}
    if append:
        for key in names:
            if key in first and key in second and first[key] != second[key]:
                values = [*as_list(first[key]), *as_list(second[key])]
                found[key] = [value for i, value in enumerate(values) if value not in values[:i]]
    found[_LISTED] = names
    return found


def call_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a signature's options as ``apply_async`` takes them: stamps are headers there."""
    if _LISTED not in options:
        return dict(options)
    names = list(options[_LISTED])
    stamps = {key: options[key] for key in names if key in options}
    headers = {**(options.get("headers") or {}), **stamps, _LISTED: sorted(stamps), "stamps": stamps}
    return {key: value for key, value in options.items() if key not in stamps and key != _LISTED} | {"headers": headers}
