"""A signature: a call that has not been made, as a plain dict that can be sent, kept and completed.

The dict has the keys ``task``, ``args``, ``kwargs``, ``options``, ``subtask_type`` and ``immutable``, all of plain values, so it
goes through any serializer; ``Signature.from_dict`` makes it a signature again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, cast, overload

from fastq.canvas.parts import Parts
from fastq.canvas.texts import reprcall

if TYPE_CHECKING:
    from fastq.app import FastQ
    from fastq.canvas.stamping import StampingVisitor
    from fastq.result import AsyncResult as Result
    from fastq.task import Task

__all__ = ["Signature", "as_list", "linked", "maybe_signature", "signature"]

R = TypeVar("R")
R2 = TypeVar("R2")
S = TypeVar("S", bound="Signature[Any]")

#: options that a frozen or stamped signature keeps whatever it is applied with
_KEPT = frozenset({"group_id", "stamped_headers"})


class Signature(Parts, Generic[R]):
    """One call of a task: its name, arguments and options. Completed and sent, or combined with others.

    Arguments given when it is applied come in front of its own, keyword arguments over its own; an *immutable* one takes none.
    """

    __slots__ = ("_app", "_type")

    #: classes by ``subtask_type``
    TYPES: ClassVar[dict[str, type[Signature[Any]]]] = {}

    _app: FastQ | None
    _type: Task[..., Any] | None

    def __init__(
        self,
        task: str | Task[..., R] | Mapping[str, Any] | None = None,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        type: Task[..., Any] | None = None,
        subtask_type: str | None = None,
        immutable: bool = False,
        app: FastQ | None = None,
        **more: Any,
    ) -> None:
        """``task`` is a task, its name, or a dict with everything; further keywords are options."""
        self._app = app
        self._type = type
        if isinstance(task, dict):
            super().__init__(task)
            self["args"] = tuple(task.get("args") or ())
            self["kwargs"] = dict(task.get("kwargs") or {})
            self["options"] = linked({**(task.get("options") or {}), **more}, app)
            self.setdefault("subtask_type", None)
            self.setdefault("immutable", False)
            return
        if not isinstance(task, str):
            name = getattr(task, "name", None)
            if not isinstance(name, str):
                raise TypeError(f"a signature is made of a task, its name, or a dict, not of {_kind(task)}: {task!r}")
            self._type = cast("Task[..., Any]", task)
            task = name
        super().__init__(
            task=task,
            args=tuple(args) if args else (),
            kwargs=dict(kwargs) if kwargs else {},
            options=dict(options or (), **more) if options or more else {},
            subtask_type=subtask_type,
            immutable=immutable,
        )

    @classmethod
    def register_type(cls, name: str | None = None) -> Callable[[type[S]], type[S]]:
        """Return a decorator by which ``from_dict`` finds a class of one's own by its ``subtask_type``."""

        def register(kind: type[S]) -> type[S]:
            cls.TYPES[name or kind.__name__] = kind
            return kind

        return register

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: FastQ | None = None) -> Signature[Any]:
        """Make the signature that a dict describes."""
        name = d.get("subtask_type")
        if name:
            kind = Signature.TYPES.get(name)
            if kind is None:
                raise ValueError(f"subtask_type {name!r} is none of {', '.join(sorted(Signature.TYPES))}")
            if kind is not cls and kind.from_dict.__func__ is not Signature.from_dict.__func__:  # type: ignore[attr-defined]
                return kind.from_dict(d, app=app)
            return kind(_checked(d), app=app)
        return Signature(_checked(d), app=app)

    # --- whose it is ---

    @property
    def app(self) -> FastQ:
        """Return the application that it was made for, else its task's, else the current one."""
        return self._known_app() or _current_app()

    def _known_app(self) -> FastQ | None:
        if self._app is None and self._type is not None:
            return self._type.app
        return self._app

    @property
    def type(self) -> Task[..., Any]:
        """Return the task; NotRegistered (a KeyError) if the application does not know it."""
        return self._type if self._type is not None else self.app.tasks[self.task]

    @property
    def AsyncResult(self) -> Callable[[str], Result[R]]:
        return self.app.AsyncResult

    # --- completing it ---

    def _merge(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        force: bool = False,
    ) -> tuple[tuple[Any, ...], dict[str, Any], dict[str, Any]]:
        """Return its parts with these in front of, and over, its own; ``force``: also where it is immutable."""
        own: dict[str, Any] = self["options"]
        if options:
            kept = _KEPT.intersection(own)
            if "stamped_headers" in own:
                kept = kept.union(own["stamped_headers"])
            own = {**own, **{key: value for key, value in options.items() if key not in kept}}
        if self["immutable"] and not force:
            return self["args"], self["kwargs"], own
        return (
            (*args, *self["args"]) if args else self["args"],
            {**self["kwargs"], **kwargs} if kwargs else self["kwargs"],
            own,
        )

    def clone(self: S, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any) -> S:
        """Return a copy, completed by arguments and options. Changing it changes nothing of this one."""
        positional, named, merged = self._merge(args, kwargs, options)
        copy = self.__class__.__new__(self.__class__)
        dict.update(copy, self)
        copy["args"], copy["kwargs"], copy["options"] = tuple(positional), dict(named), _copied(merged)
        copy._app, copy._type = self._app, self._type
        return copy

    partial = clone

    def replace(
        self: S,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> S:
        """Return a copy with other args, kwargs or options instead of its own, where given."""
        copy = self.clone()
        if args is not None:
            copy.args = tuple(args)
        if kwargs is not None:
            copy.kwargs = dict(kwargs)
        if options is not None:
            copy.options = dict(options)
        return copy

    def set(self: S, immutable: bool | None = None, **options: Any) -> S:
        """Set options; return the signature itself."""
        if immutable is not None:
            self.set_immutable(immutable)
        self.options.update(options)
        return self

    def set_immutable(self, immutable: bool) -> None:
        """Say whether it takes no further arguments."""
        self.immutable = immutable

    def freeze(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
    ) -> Any:
        """Give it its task id now; return the result that it will have once it is sent. Send it once only after that."""
        options = self.options
        id = options.get("task_id") or _id or _new_id(self.app)
        options["task_id"] = id
        for key, value in (("root_id", root_id), ("parent_id", parent_id), ("group_index", group_index), ("chord", chord)):
            if value is not None:
                options[key] = value
        if group_id is not None:
            options.setdefault("group_id", group_id)
        return self.AsyncResult(id)

    _freeze = freeze

    # --- what follows it ---

    def _list_option(self, key: str) -> list[Any]:
        items = self.options[key] = as_list(self.options.get(key))
        return items

    def append_to_list_option(self, key: str, value: R2) -> R2:
        """Add a value to an option that is a list, unless it is in it."""
        items = self._list_option(key)
        if value not in items:
            items.append(value)
        return value

    def extend_list_option(self, key: str, value: Any) -> None:
        """Add a value, or all of a list, to an option that is a list."""
        self._list_option(key).extend(as_list(value))

    def link(self, callback: S) -> S:
        """Call ``callback`` with the result if this succeeds; return the callback."""
        return self.append_to_list_option("link", callback)

    def link_error(self, errback: S) -> S:
        """Call ``errback`` if this fails for good; return the errback."""
        return self.append_to_list_option("link_error", errback)

    def on_error(self: S, errback: Signature[Any]) -> S:
        """Call ``errback`` if this fails for good; return the signature itself."""
        self.link_error(errback)
        return self

    def flatten_links(self) -> list[Signature[Any]]:
        """Return it and, depth first, everything that is linked to it."""
        found: list[Signature[Any]] = [self]
        for callback in as_list(self.options.get("link")):
            found.extend(maybe_signature(callback, app=self._known_app()).flatten_links())
        return found

    @overload  # type: ignore[override]
    def __or__(self, other: Signature[R2], /) -> Signature[R2]: ...
    @overload
    def __or__(self, other: Any, /) -> Any: ...
    def __or__(self, other: Any, /) -> Any:
        """Return the chain of both."""
        other = maybe_signature(other, app=self._app)
        if not isinstance(other, Signature):
            return NotImplemented
        from fastq.canvas.chain import chain  # lazy: it imports this module

        return chain((self, other), app=self._known_app())

    def __ror__(self, other: Any, /) -> Any:
        return NotImplemented  # a dict's own would merge them

    def __ior__(self, other: Any, /) -> Any:  # type: ignore[misc]
        return self.__or__(other)

    # --- stamps ---

    def stamp(self, visitor: StampingVisitor | None = None, append_stamps: bool = False, **headers: Any) -> Any:
        """Put headers of one's own on every task in it, those linked to it included; see ``StampingVisitor``.

        ``append_stamps``: a stamp that is there already becomes a list of both, instead of being replaced.
        """
        from fastq.canvas import stamping  # lazy: it imports this module, and few use it

        return stamping.stamp(self, visitor, append_stamps, headers)

    def stamp_links(self, visitor: StampingVisitor | None = None, append_stamps: bool = False, **headers: Any) -> None:
        """Put headers on what is linked to it only."""
        from fastq.canvas import stamping  # lazy: as above

        stamping.stamp_links(self, visitor, append_stamps, headers)

    # --- calling it ---

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the task here and now, like a function."""
        positional, named, _ = self._merge(args, kwargs)
        return self.type(*positional, **named)

    def delay(self, *args: Any, **kwargs: Any) -> Result[R]:
        """Send it, completed by these arguments."""
        return self.apply_async(args, kwargs)

    async def adelay(self, *args: Any, **kwargs: Any) -> Result[R]:
        """``delay`` for an event loop."""
        return await self.aapply_async(args, kwargs)

    def apply_async(self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any) -> Result[R]:
        """Send it, completed by arguments and options (those of ``Task.apply_async``)."""
        from fastq.canvas import sending  # lazy: only where something is sent

        return sending.send(self, self.app, args, kwargs, options)  # type: ignore[no-any-return]

    async def aapply_async(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Result[R]:
        """``apply_async`` for an event loop."""
        from fastq.canvas import sending  # lazy: only where something is sent

        return await sending.asend(self, self.app, args, kwargs, options)  # type: ignore[no-any-return]

    def apply(self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Run it here and now and return an EagerResult."""
        from fastq.canvas import local  # lazy: only where something runs here

        return local.apply(self, args, kwargs, options)

    def __invert__(self) -> R:
        """Send it, wait, and return what it returned."""
        return self.apply_async().get()

    # --- as a value ---

    def reprcall(self, *args: Any, **kwargs: Any) -> str:
        """Return it as the text of a call, completed by these arguments."""
        positional, named, _ = self._merge(args, kwargs, force=True)
        return reprcall(self.task, positional, named)

    def __repr__(self) -> str:
        return self.reprcall()

    def __deepcopy__(self: S, memo: Any) -> S:
        return self.clone()

    def __reduce__(self) -> Any:
        return signature, (_plain(self),)

    def __json__(self) -> dict[str, Any]:
        return dict(self)


def signature(
    varies: Any,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    app: FastQ | None = None,
    **more: Any,
) -> Signature[Any]:
    """Make a signature of a task, its name, or a dict; a copy of a signature. Further keywords are options, or ``immutable``."""
    if isinstance(varies, Signature):
        return varies.clone()
    if isinstance(varies, Mapping):
        return Signature.from_dict(varies, app=app)
    return Signature(varies, args, kwargs, options, app=app, **more)


def maybe_signature(d: Any, app: FastQ | None = None, clone: bool = False) -> Any:
    """Make signatures of dicts (and of lists of them); return anything else as it is."""
    if isinstance(d, Signature):
        if clone:
            d = d.clone()
    elif isinstance(d, list | tuple):
        return [maybe_signature(item, app=app, clone=clone) for item in d]
    elif isinstance(d, Mapping):
        d = Signature.from_dict(d, app=app)
    else:
        return d
    if app is not None and d._app is None and d._type is None:
        d._app = app
    return d


def as_list(value: Any) -> list[Any]:
    """Return None as an empty list, a list as it is, anything else as a list of one."""
    if value is None:
        return []
    if isinstance(value, list):
        return value
    return list(value) if isinstance(value, tuple) else [value]


def linked(options: Mapping[str, Any] | None, app: FastQ | None) -> dict[str, Any]:
    """Return options in which callbacks are signatures, where they were dicts."""
    found = dict(options or ())
    for key in ("link", "link_error"):
        if key in found:
            found[key] = [maybe_signature(item, app=app) for item in as_list(found[key])]
    return found


def _checked(d: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(d.get("task"), str):
        raise ValueError(f"expected a dict with the name of a task under 'task', got {d!r}")
    return d if isinstance(d, dict) else dict(d)


def _copied(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of which no list, and no signature in it, is shared with the original."""
    copy = dict(options)
    for key in ("link", "link_error", "stamped_headers"):
        if key in copy:
            copy[key] = [item.clone() if isinstance(item, Signature) else item for item in as_list(copy[key])]
    return copy


def _plain(value: Any) -> Any:
    """Return a signature as dicts of plain types, for pickle."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item) for item in value) if type(value) in (list, tuple) else value
    return value


def _kind(value: object) -> str:
    return type(value).__name__


def _new_id(app: FastQ) -> str:
    from fastq import _core  # lazy: only where an id is made without being sent

    return _core.new_id(app.producer.clock_ms())


def _current_app() -> FastQ:
    from fastq.shared import get_current_app  # lazy: it imports the tasks

    return get_current_app()
