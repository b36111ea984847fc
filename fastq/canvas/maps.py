"""map, starmap and chunks: many calls of one task in few messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

from fastq.canvas.group import group
from fastq.canvas.signature import Signature, linked, maybe_signature, signature

if TYPE_CHECKING:
    from fastq.app import FastQ

__all__ = ["chunks", "xmap", "xstarmap"]

#: characters of the items that a map's text shows
SHOWN = 100


class _Map(Signature[list[Any]]):
    __slots__ = ()

    _task: ClassVar[str]
    _call: ClassVar[str]

    def __init__(self, task: Any, it: Iterable[Any], app: FastQ | None = None, **options: Any) -> None:
        super().__init__(
            self._task, (), {"task": _inner(task, app), "it": list(it)}, options, subtask_type=type(self).__name__, immutable=True,
            app=app,
        )  # fmt: skip

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: FastQ | None = None) -> Signature[Any]:
        return cls(d["kwargs"]["task"], d["kwargs"]["it"], app=app, **linked(d.get("options"), app))

    @property
    def inner(self) -> Signature[Any]:
        """Return the signature that is called for each item."""
        return self["kwargs"]["task"]  # type: ignore[no-any-return]

    def _known_app(self) -> FastQ | None:
        return super()._known_app() or self.inner._known_app()

    def __repr__(self) -> str:
        return f"[{self.inner.task}({self._call}) for x in {_clipped(self['kwargs']['it'])}]"


@Signature.register_type()
class xmap(_Map):
    """Call a task with each item, one after the other, in one message; its result is the list of what they return."""

    __slots__ = ()
    _task, _call = "fastq.map", "x"


@Signature.register_type()
class xstarmap(_Map):
    """As ``xmap``, but each item is a list of arguments."""

    __slots__ = ()
    _task, _call = "fastq.starmap", "*x"


@Signature.register_type()
class chunks(Signature[list[Any]]):
    """As ``xstarmap``, but in messages of ``n`` items each, side by side: a group of starmaps."""

    __slots__ = ()

    def __init__(self, task: Any, it: Iterable[Any], n: int, app: FastQ | None = None, **options: Any) -> None:
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise ValueError(f"chunks of {n!r} items: expected a whole number, 1 or more")
        super().__init__(
            "fastq.chunks", (), {"task": _inner(task, app), "it": list(it), "n": n}, options, subtask_type="chunks", immutable=True,
            app=app,
        )  # fmt: skip

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: FastQ | None = None) -> Signature[Any]:
        kwargs = d["kwargs"]
        return cls(kwargs["task"], kwargs["it"], kwargs["n"], app=app, **linked(d.get("options"), app))

    @classmethod
    def apply_chunks(cls, task: Any, it: Iterable[Any], n: int, app: FastQ | None = None) -> Any:
        """Send the chunks."""
        return cls(task, it, n, app=app)()

    def _known_app(self) -> FastQ | None:
        return super()._known_app() or self["kwargs"]["task"]._known_app()

    def group(self) -> group[list[Any]]:
        """Return the group of starmaps that it is sent as."""
        task, items, n = (self["kwargs"][key] for key in ("task", "it", "n"))
        left = iter(items)
        parts = iter(lambda: list(islice(left, n)), [])
        return group([xstarmap(task, part, app=self._app) for part in parts], app=self._app, **self.options)

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Send it."""
        return self.apply_async(**options)

    def freeze(self, _id: str | None = None, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("chunks(...) have no id of their own: freeze chunks(...).group()")

    def __repr__(self) -> str:
        task, items, n = (self["kwargs"][key] for key in ("task", "it", "n"))
        return f"[{task.task}(*x) for x in {_clipped(items)}] in chunks of {n}"


def _inner(task: Any, app: FastQ | None) -> Signature[Any]:
    made = maybe_signature(task, app=app)
    return made if isinstance(made, Signature) else signature(made, app=app)


def _clipped(items: Sequence[Any]) -> str:
    text = repr(items)
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."
