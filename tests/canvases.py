"""Random canvases as plain data, what they are as signatures, and what they mean: a direct evaluation to compare with."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

from hypothesis import strategies as st

from fastq import FastQ
from fastq.canvas import Signature, chain, chord, group
from tests.canvas_machine import Failure

__all__ = [
    "Chord", "Direct", "Failure", "Many", "Mapped", "One", "Shape", "Swapped", "fails", "live_shapes", "plain", "random_shape",
    "shapes", "signature_of",
]  # fmt: skip

# --- canvases as plain data ---


@dataclass(frozen=True)
class One:
    """A task; it returns [tag, its other arguments], so the value shows how it was reached."""

    tag: int
    fails: bool = False
    immutable: bool = False
    linked: int | None = None
    errback: int | None = None
    #: it is tried again so many times before it does what it does
    retries: int = 0


@dataclass(frozen=True)
class Mapped:
    """One message that calls the task with each tag; ``n``: messages of so many tags each, side by side."""

    tags: tuple[int, ...]
    n: int = 0


@dataclass(frozen=True)
class Swapped:
    """A task that goes on as something else."""

    inner: Any


@dataclass(frozen=True)
class Many:
    kind: str
    parts: tuple[Any, ...]
    linked: int | None = None


@dataclass(frozen=True)
class Chord:
    header: tuple[Any, ...]
    body: Any
    linked: int | None = None


Shape = One | Many | Chord | Mapped | Swapped
#: marks the failure of tasks side by side that is found out where they are joined
AT_THE_JOIN = "at the join"
tags = st.integers(0, 999)
#: most tasks succeed, or nothing deep would ever be reached
ones = st.builds(
    One,
    tags,
    fails=st.integers(0, 14).map(lambda n: n == 0),
    immutable=st.integers(0, 5).map(lambda n: n == 0),
    linked=st.none() | tags,
    errback=st.none() | tags,
)


#: what needs a worker: tasks that are tried again, and many calls in one message
busy = st.builds(
    One,
    tags,
    fails=st.integers(0, 9).map(lambda n: n == 0),
    immutable=st.booleans(),
    linked=st.none() | tags,
    errback=st.none() | tags,
    retries=st.integers(1, 2),
)
some_tags = st.lists(tags, min_size=1, max_size=3).map(tuple)
mapped = st.builds(Mapped, some_tags, st.integers(0, 2))


def composites(inner: st.SearchStrategy[Shape]) -> st.SearchStrategy[Shape]:
    some = st.lists(inner, max_size=4).map(tuple)
    linked = st.none() | st.none() | tags
    # what a chain of nothing but several empty things is, is told elsewhere
    steps = some.map(lambda parts: parts[:1] if all(map(empty, parts)) else parts)
    body = inner.map(lambda shape: One(0) if nothing(shape) else shape)
    return st.one_of(
        st.builds(Many, st.just("chain"), steps, linked=linked),
        st.builds(Many, st.just("group"), some),
        st.builds(Chord, some, body, linked=linked),
    )


def swapping(inner: st.SearchStrategy[Shape]) -> st.SearchStrategy[Shape]:
    swapped = inner.map(lambda shape: Swapped(One(0) if empty(shape) else shape))
    return st.one_of(composites(inner), composites(inner), swapped)


shapes = st.recursive(ones, composites, max_leaves=16)
#: those, and what needs a worker
live_shapes = st.recursive(st.one_of(ones, ones, ones, busy, mapped), swapping, max_leaves=12)


def random_shape(random: Random, leaves: int, *, failing: bool = True) -> Shape:
    """Return a shape with about so many tasks, for where hypothesis does not choose."""
    if leaves <= 1:
        if random.random() < 0.1:
            return Mapped(tuple(random.randrange(1000) for _ in range(3)), random.randrange(3))
        return One(
            random.randrange(1000),
            fails=failing and random.random() < 0.04,
            immutable=random.random() < 0.1,
            linked=random.choice((None, None, 7)),
            errback=random.choice((None, 8)),
            retries=random.choice((0, 0, 0, 1)),
        )
    parts = min(leaves, random.randint(2, 4))
    made = [random_shape(random, leaves // parts, failing=failing) for _ in range(parts)]
    linked = random.choice((None, None, 9))
    kind = random.choice(("chain", "chain", "group", "chord", "chord", "swap"))
    if kind == "swap":
        return Swapped(Many("chain", tuple(made)))
    if kind == "chord":
        return Chord(tuple(made[:-1]), made[-1], linked=linked)
    return Many(kind, tuple(made), linked=linked if kind == "chain" else None)

# --- as signatures ---


def signature_of(app: FastQ, shape: Shape, lazily: bool) -> Signature[Any]:
    """``lazily``: iterables are generators, and dicts take the place of signatures."""
    if isinstance(shape, Mapped):
        task = app.tasks["step"]
        return task.chunks([(tag,) for tag in shape.tags], shape.n) if shape.n else task.map(shape.tags)
    if isinstance(shape, Swapped):
        return Signature(app.tasks["swap"], (signature_of(app, shape.inner, lazily),))
    if isinstance(shape, One):
        kwargs = {"retries": shape.retries} if shape.retries else None
        sig = Signature(app.tasks["fail" if shape.fails else "step"], (shape.tag,), kwargs, immutable=shape.immutable)
        if shape.linked is not None:
            sig.link(Signature(app.tasks["step"], (shape.linked,)))
        if shape.errback is not None:
            sig.link_error(Signature(app.tasks["told"], (shape.errback,)))
    elif isinstance(shape, Chord):
        sig = chord(several(app, shape.header, lazily), signature_of(app, shape.body, lazily), app=app)
    else:
        kind: Any = chain if shape.kind == "chain" else group
        sig = kind(several(app, shape.parts, lazily), app=app)
    if not isinstance(shape, One) and shape.linked is not None:
        sig.link(Signature(app.tasks["step"], (shape.linked,)))
    return sig


def several(app: FastQ, parts: tuple[Any, ...], lazily: bool) -> Any:
    made = [signature_of(app, part, lazily) for part in parts]
    return (Signature.from_dict(dict(sig)) for sig in made) if lazily else made


# --- evaluated directly ---


class Direct:
    """What a canvas means, written as if every task were called here and now."""

    def __init__(self) -> None:
        self.runs: list[tuple[str, Any]] = []

    def value(self, shape: Shape, args: tuple[Any, ...] = (), links: tuple[int, ...] = (), *, joined: bool = False) -> Any:
        """Return a value, or a Failure; a group's is a list with Failures in it, unless ``joined`` wants one value."""
        if isinstance(shape, One):
            return self.one(shape, args, links)
        if isinstance(shape, Mapped):
            return self.mapped(shape, links, joined=joined)
        if isinstance(shape, Swapped):
            self.runs.append(("swap", plain(args)))
            value = self.value(shape.inner, (), links, joined=True)
            return Failure(value.type) if isinstance(value, Failure) else value
        if isinstance(shape, Chord):
            own = (shape.linked,) if shape.linked is not None else ()
            return self.after(self.all(shape.header, args), shape.body, (*own, *links), joined=joined)
        if shape.kind == "group":
            values = self.members(shape, args, joined=joined or bool(links))
            failed = any(isinstance(value, Failure) for value in values)
            if links and not failed:
                self.called(links, values)
            # with something linked to it there is a join of its own, and what comes next never hears of it
            return Failure("ChordError", "" if links else AT_THE_JOIN) if joined and failed else values
        return self.chain(shape, args, links, joined=joined)

    def one(self, shape: One, args: tuple[Any, ...], links: tuple[int, ...]) -> Any:
        args = (shape.tag,) if shape.immutable else (*args, shape.tag)
        self.runs.extend([("fail" if shape.fails else "step", plain(args))] * (shape.retries + 1))
        if shape.fails:
            if shape.errback is not None:
                self.runs.append(("told", [shape.errback]))
            return Failure("ValueError")
        value = plain(args)
        self.called((*(() if shape.linked is None else (shape.linked,)), *links), value)
        return value

    def mapped(self, shape: Mapped, links: tuple[int, ...], *, joined: bool) -> list[Any]:
        self.runs.extend(("step", [tag]) for tag in shape.tags)
        values: list[Any] = [[tag] for tag in shape.tags]
        if shape.n:
            values = [values[i : i + shape.n] for i in range(0, len(values), shape.n)]
        self.called(links, values)
        return values

    def called(self, links: tuple[int, ...], value: Any) -> None:
        for tag in links:
            self.runs.append(("step", [value, tag]))

    def members(self, shape: Many, args: tuple[Any, ...], *, joined: bool) -> list[Any]:
        found: list[Any] = []
        for part in shape.parts:
            if isinstance(part, Many) and part.kind == "group":
                found.extend(self.members(part, args, joined=joined))
            elif isinstance(part, Mapped) and part.n:
                found.extend(self.mapped(part, (), joined=joined))
            elif not empty(part):
                found.append(self.value(part, args, joined=joined))
        return found

    def all(self, parts: tuple[Any, ...], args: tuple[Any, ...]) -> Any:
        """Return the list of values of a chord's header, or the Failure that its body ends in."""
        values = self.members(Many("group", parts), args, joined=True)
        return Failure("ChordError", AT_THE_JOIN) if any(isinstance(value, Failure) for value in values) else values

    def after(self, value: Any, shape: Shape, links: tuple[int, ...], *, joined: bool) -> Any:
        """Go on with ``shape``; ``value`` is what comes before it. One that cannot run has the same end."""
        if not isinstance(value, Failure):
            return self.value(shape, (value,), links, joined=joined)
        first = shape
        while isinstance(first, Many) and first.kind == "chain" and first.parts:
            steps = useful(first)
            if not steps:
                break
            first = steps[0]
        if value.text == AT_THE_JOIN and isinstance(first, One) and first.errback is not None:
            # it is the first of what comes next that fails of the join, and says so
            self.runs.append(("told", [first.errback]))
        return self.ended(Failure(value.type), shape, bool(links), joined=joined)

    def ended(self, value: Failure, shape: Shape, linked: bool, *, joined: bool) -> Any:
        """Return the values of what cannot run; ``linked``: something is called after all of it."""
        if joined or isinstance(shape, One | Swapped):
            return value
        if isinstance(shape, Mapped):
            return [value] * -(-len(shape.tags) // shape.n) if shape.n else value
        linked = linked or shape.linked is not None
        if isinstance(shape, Chord):
            return self.ended(value, shape.body, linked, joined=False)
        if shape.kind == "chain":
            steps = useful(shape)
            return self.ended(value, steps[-1], linked, joined=False) if steps else value
        found: list[Any] = []
        for part in shape.parts:
            if (isinstance(part, Many) and part.kind == "group") or (isinstance(part, Mapped) and part.n):
                found.extend(self.ended(value, part, linked, joined=False))
            elif not empty(part):
                # what is called after all of a group joins its members
                found.append(self.ended(value, part, False, joined=linked))
        return found

    def chain(self, shape: Many, args: tuple[Any, ...], links: tuple[int, ...], *, joined: bool) -> Any:
        links = (*(() if shape.linked is None else (shape.linked,)), *links)
        steps = useful(shape)
        value: Any = None
        for i, step in enumerate(steps):
            last = i == len(steps) - 1
            own = links if last else ()
            wanted = joined or not last
            value = self.value(step, args, own, joined=wanted) if i == 0 else self.after(value, step, own, joined=wanted)
        return value


def plain(value: Any) -> Any:
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def empty(shape: Shape) -> bool:
    return isinstance(shape, Many) and all(empty(part) for part in shape.parts)


def nothing(shape: Shape) -> bool:
    """Say whether a shape is no more than empty chains."""
    return isinstance(shape, Many) and shape.kind == "chain" and all(nothing(step) for step in useful(shape))


def useful(shape: Many) -> list[Shape]:
    """Return the steps of a chain: without empty ones, a group of one taken as its task."""
    steps = [part for part in shape.parts if not empty(part)] or list(shape.parts[-1:])
    return [alone(step) for step in steps]


def alone(step: Shape) -> Shape:
    while isinstance(step, Many) and step.kind == "group" and len(step.parts) == 1:
        step = step.parts[0]
    return step


def fails(shape: Shape) -> bool:
    if isinstance(shape, One):
        return shape.fails
    if isinstance(shape, Mapped):
        return False
    if isinstance(shape, Swapped):
        return fails(shape.inner)
    parts = (*shape.header, shape.body) if isinstance(shape, Chord) else shape.parts
    return any(fails(part) for part in parts)
