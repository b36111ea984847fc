"""chord: tasks side by side, then one that is called with the list of their results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

from fastq.canvas.group import group, members
from fastq.canvas.signature import Signature, linked, maybe_signature
from fastq.canvas.texts import shortened

if TYPE_CHECKING:
    from fastq.app import FastQ

__all__ = ["chord"]

R = TypeVar("R")
R2 = TypeVar("R2")


@Signature.register_type()
class chord(Signature[R]):
    """Tasks side by side, then one called with the list of their results: ``chord(header, body)`` or ``chord(header)(body)``.

    The body is called once. If a task of the header fails, the body fails with ChordError. Options hold for the header and the
    body, but for ``countdown`` and ``eta`` (the header's), ``link``, ``link_error`` and ``task_id`` (the body's).
    """

    __slots__ = ()

    @overload
    def __init__(self, header: Any, body: Signature[R], **options: Any) -> None: ...
    @overload
    def __init__(self, header: Any, body: Any = None, *args: Any, **options: Any) -> None: ...
    def __init__(
        self,
        header: Any,
        body: Signature[R] | Mapping[str, Any] | None = None,
        task: str = "fastq.chord",
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        app: FastQ | None = None,
        **options: Any,
    ) -> None:
        """``header``: a group, a signature, or an iterable of signatures; ``kwargs`` are for its tasks."""
        super().__init__(task, args, None, options, subtask_type="chord", app=app)
        self["kwargs"] = {**(kwargs or {}), "header": _header(header, app), "body": _body(body, app)}

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: FastQ | None = None) -> chord[Any]:
        kwargs = dict(d["kwargs"])
        made = cls(kwargs.pop("header"), kwargs.pop("body", None), kwargs=kwargs, app=app)
        dict.update(made, {key: value for key, value in d.items() if key != "kwargs"})
        made["args"], made["options"] = tuple(d.get("args") or ()), linked(d.get("options"), app)
        return made

    @property
    def header(self) -> group[Any]:
        return self["kwargs"]["header"]  # type: ignore[no-any-return]

    @property
    def tasks(self) -> list[Signature[Any]]:
        """Return the tasks of the header."""
        return self.header.tasks

    @tasks.setter
    def tasks(self, tasks: Any) -> None:
        self["kwargs"]["header"] = _header(tasks, self._app)

    @property
    def body(self) -> Signature[R] | None:
        return self["kwargs"]["body"]  # type: ignore[no-any-return]

    @body.setter
    def body(self, body: Any) -> None:
        self["kwargs"]["body"] = _body(body, self._app)

    def _known_app(self) -> FastQ | None:
        found = super()._known_app() or self.header._known_app()
        return found if found is not None or self.body is None else self.body._known_app()

    def clone(self, args: Any = None, kwargs: Any = None, **options: Any) -> chord[R]:
        copy = super().clone(args, kwargs, **options)
        copy["kwargs"].update(header=self.header.clone(), body=None if self.body is None else self.body.clone())
        return copy

    def __call__(self, body: Any = None, **options: Any) -> Any:
        """Send it, with this body if it is given."""
        return self.apply_async((), {} if body is None else {"body": body}, **options)

    def with_body(self, kwargs: Mapping[str, Any] | None) -> tuple[chord[Any], dict[str, Any]]:
        """Return it with the body that is among ``kwargs``, and the other ones. ValueError for a chord without a body."""
        rest = dict(kwargs or {})
        body = rest.pop("body", None)
        completed = self if body is None else self.clone()
        if body is not None:
            completed.body = maybe_signature(body, app=self._app)
        if completed.body is None:
            raise ValueError(f"a chord needs a body: chord(header, body) or chord(header)(body); its header is {self.header!r}")
        return completed, rest

    @overload  # type: ignore[override]
    def __or__(self, other: Signature[R2], /) -> Signature[R2]: ...
    @overload
    def __or__(self, other: Any, /) -> Any: ...
    def __or__(self, other: Any, /) -> Any:
        """Return the chord with ``other`` behind its body; of a chain or group, the chain of both."""
        from fastq.canvas.chain import chain  # lazy: only for this operator

        other = maybe_signature(other, app=self._app)
        if not isinstance(other, Signature):
            return NotImplemented
        if isinstance(other, group) and len(other.tasks) == 1 and not other.options:
            other = other.tasks[0]
        if isinstance(other, chain | group) or self.body is None:
            return chain((self, other), app=self._app)
        copy = self.clone()
        copy.body = copy.body | other
        return copy

    def __length_hint__(self) -> int:
        """Count the tasks of the header."""
        return len(self.tasks)

    def freeze(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
    ) -> Any:
        """Give every task its id now; return the body's result, whose parent is the header's."""
        above = self.header.freeze(None, root_id=root_id, parent_id=parent_id)
        if self.body is None:
            return above
        self.body = self.body.clone()
        result = self.body.freeze(self.id or _id, group_id, chord, root_id, group_index=group_index)
        self.id = result.id
        first = result
        while first.parent is not None:
            first = first.parent
        first.parent = above
        return result

    _freeze = freeze

    def __repr__(self) -> str:
        if self.body is None:
            return f"<chord without body: {self.tasks!r}>"
        from fastq.canvas.chain import chain, first_name  # lazy: only for the text

        body: Signature[Any] = self.body
        parts = body.tasks if isinstance(body, chain) and body.tasks else [body]
        if isinstance(parts[0], group | chord | chain):
            return shortened(first_name([self.header]), " | ".join(map(repr, [self.header, *parts])))
        text = " | ".join([parts[0].reprcall(self.tasks), *map(repr, parts[1:])])
        return "%" + shortened(first_name([body]), text)


def _header(header: Any, app: FastQ | None) -> group[Any]:
    header = maybe_signature(header, app=app) if isinstance(header, Mapping) else header
    return header if isinstance(header, group) else group(members(header, app), app=app)


def _body(body: Any, app: FastQ | None) -> Any:
    body = maybe_signature(body, app=app)
    if body is not None and not isinstance(body, Signature):
        what = "an iterable" if isinstance(body, Iterable) else type(body).__name__
        raise TypeError(f"a chord's body is a signature, such as task.s(), not {what}: {body!r}")
    return body
