"""Take a canvas apart into steps: single tasks, and forks of tasks side by side.

Chains, chords and groups are ways of writing the same thing, a sequence of steps. What is written on a composite moves to the steps
here: options to the first (of a group, to each member), links to the last, errbacks to each that can fail, arguments to the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fastq.canvas.chain import chain, is_empty
from fastq.canvas.chord import chord
from fastq.canvas.group import group
from fastq.canvas.maps import chunks
from fastq.canvas.signature import Signature, as_list, maybe_signature

if TYPE_CHECKING:
    from fastq.app import FastQ

__all__ = ["NOTHING", "Call", "Fork", "Given", "Part", "Step", "steps"]

#: options of a chord that concern only when its header starts, or whose child it is
_HEADER_ONLY = frozenset({"countdown", "eta", "parent_id"})


@dataclass(frozen=True, slots=True)
class Given:
    """What a signature is applied with."""

    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    #: it gets no further arguments when it runs, whatever it says itself
    immutable: bool = False


NOTHING = Given()


@dataclass(slots=True)
class Call:
    """One task."""

    sig: Signature[Any]
    given: Given
    id: str | None
    #: signatures, or nodes
    links: list[Any]
    errbacks: list[Any]


@dataclass(slots=True)
class Part:
    """Some members of a fork: what they are applied with, and what each calls when it fails."""

    tasks: list[Signature[Any]]
    given: Given
    errbacks: list[Any]


@dataclass(slots=True)
class Fork:
    """Tasks side by side."""

    id: str | None
    parts: list[Part]
    #: called when all have succeeded
    links: list[Any]
    #: called by what joins the members, if a join is needed
    errbacks: list[Any]


Step = Call | Fork


def steps(
    sig: Any,
    app: FastQ,
    given: Given = NOTHING,
    *,
    id: str | None = None,
    links: Sequence[Any] = (),
    errbacks: Sequence[Any] = (),
) -> list[Step]:
    """Return the steps of a signature. ``id`` is the last one's, ``links`` go to the last, ``errbacks`` to all."""
    found: list[Step] = []
    _take(maybe_signature(sig, app=app), app, given, id, list(links), list(errbacks), found)
    return found


def _take(
    sig: Signature[Any], app: FastQ, given: Given, id: str | None, links: list[Any], errbacks: list[Any], found: list[Step]
) -> None:
    if isinstance(sig, chunks):
        sig = sig.group()
    if not isinstance(sig, chain | group | chord):
        positional, named, options = sig._merge(given.args, given.kwargs, given.options)
        id, links, errbacks, options = _follows(options, id, links, errbacks)
        found.append(Call(sig, Given(positional, named, options, given.immutable or sig.immutable), id, links, errbacks))
        return
    # a partial of a composite: its own arguments are for the tasks in it
    own = {key: value for key, value in sig.kwargs.items() if key not in ("tasks", "header", "body")}
    args = sig.args if sig.immutable or not given.args else (*given.args, *sig.args)
    kwargs = own if sig.immutable else {**own, **given.kwargs}
    id, links, errbacks, options = _follows({**sig.options, **given.options}, id, links, errbacks)
    given = Given(args, kwargs, options, given.immutable or sig.immutable)
    if isinstance(sig, chain):
        _take_chain(sig, app, given, id, links, errbacks, found)
    elif isinstance(sig, group):
        found.append(_fork(sig, app, given, id, links, errbacks))
    else:
        _take_chord(sig, app, given, id, links, errbacks, found)


def _take_chain(
    sig: chain[Any], app: FastQ, given: Given, id: str | None, links: list[Any], errbacks: list[Any], found: list[Step]
) -> None:
    tasks = [maybe_signature(task, app=app) for task in sig.tasks]
    tasks = [task for task in tasks if not is_empty(task)] or tasks[-1:]
    for i, task in enumerate(tasks):
        last = i == len(tasks) - 1
        # a group with something behind it is a chord's header: its members call no errbacks of the chain
        own = errbacks if last or not isinstance(task, group) else _header_errbacks(app, errbacks)
        _take(task, app, given if i == 0 else NOTHING, id if last else None, links if last else [], own, found)


def _take_chord(
    sig: chord[Any], app: FastQ, given: Given, id: str | None, links: list[Any], errbacks: list[Any], found: list[Step]
) -> None:
    if sig.body is None:
        raise ValueError(f"a chord needs a body: chord(header, body) or chord(header)(body); its header is {sig.header!r}")
    header_id, header_links, header_errbacks, header_options = _follows({**given.options, **sig.header.options}, None, [], [])
    header = Given(given.args, given.kwargs, {**header_options, **given.options}, given.immutable)
    parts, inner = _parts(sig.tasks, app, header, [*header_errbacks, *_header_errbacks(app, errbacks)])
    found.append(Fork(header_id, parts, [*header_links, *inner], list(errbacks)))
    options = {key: value for key, value in given.options.items() if key not in _HEADER_ONLY}
    _take(maybe_signature(sig.body, app=app), app, Given(options=options), id, links, errbacks, found)


def _fork(sig: group[Any], app: FastQ, given: Given, id: str | None, links: list[Any], errbacks: list[Any]) -> Fork:
    parts, inner = _parts(sig.tasks, app, given, errbacks)
    return Fork(id, parts, [*links, *inner], list(errbacks))


def _parts(tasks: Sequence[Any], app: FastQ, given: Given, errbacks: list[Any]) -> tuple[list[Part], list[Any]]:
    """Return the members of a group, those of groups in it in the place of these, and what is linked to such inner groups."""
    parts: list[Part] = []
    links: list[Any] = []
    if not (given.args or given.kwargs or given.options or given.immutable):
        given = NOTHING
    open_part: list[Signature[Any]] | None = None
    for task in tasks:
        if not isinstance(task, Signature):
            task = maybe_signature(task, app=app)
        if isinstance(task, chunks):
            task = task.group()
        if isinstance(task, group):
            inner: list[Step] = []
            _take(task, app, given, None, [], errbacks, inner)
            fork = inner[0]
            assert isinstance(fork, Fork)
            parts.extend(fork.parts)
            links.extend(fork.links)
            open_part = None
        elif not is_empty(task):
            if open_part is None:
                open_part = []
                parts.append(Part(open_part, given, errbacks))
            open_part.append(task)
    return parts, links


def _follows(
    options: Mapping[str, Any], id: str | None, links: list[Any], errbacks: list[Any]
) -> tuple[str | None, list[Any], list[Any], dict[str, Any]]:
    """Return the id, links and errbacks with those that are among the options, and the other options."""
    rest = dict(options)
    own_id = rest.pop("task_id", None)
    own_links, own_errbacks = as_list(rest.pop("link", None)), as_list(rest.pop("link_error", None))
    return (
        id or own_id,
        [*own_links, *links] if own_links else links,
        [*own_errbacks, *(errback for errback in errbacks if errback not in own_errbacks)] if own_errbacks else errbacks,
        rest,
    )


def _header_errbacks(app: FastQ, errbacks: list[Any]) -> list[Any]:
    """Return what the members of a header call of the errbacks of their chord: nothing, unless the setting says so."""
    if not errbacks or not app.conf.task_allow_error_cb_on_chord_header:
        return []
    return [
        errback if isinstance(errback, bytes) else maybe_signature(errback, app=app, clone=True).set(immutable=True)
        for errback in errbacks
    ]
