"""The parts of a signature's dict, as attributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["Parts"]


class Parts(dict[str, Any]):
    """A dict with the keys of a signature: each is an attribute too."""

    __slots__ = ()

    @property
    def task(self) -> str:
        """Return the task's name."""
        return self["task"]  # type: ignore[no-any-return]

    @task.setter
    def task(self, name: str) -> None:
        self["task"] = name

    @property
    def name(self) -> str:
        return self.task

    @property
    def args(self) -> tuple[Any, ...]:
        return self["args"]  # type: ignore[no-any-return]

    @args.setter
    def args(self, args: Sequence[Any]) -> None:
        self["args"] = tuple(args)

    @property
    def kwargs(self) -> dict[str, Any]:
        return self["kwargs"]  # type: ignore[no-any-return]

    @kwargs.setter
    def kwargs(self, kwargs: Mapping[str, Any]) -> None:
        self["kwargs"] = dict(kwargs)

    @property
    def options(self) -> dict[str, Any]:
        """Return what ``apply_async`` will be told besides the arguments."""
        return self["options"]  # type: ignore[no-any-return]

    @options.setter
    def options(self, options: Mapping[str, Any]) -> None:
        self["options"] = dict(options)

    @property
    def subtask_type(self) -> str | None:
        return self["subtask_type"]  # type: ignore[no-any-return]

    @subtask_type.setter
    def subtask_type(self, name: str | None) -> None:
        self["subtask_type"] = name

    @property
    def immutable(self) -> bool:
        """Say whether it takes no further arguments."""
        return bool(self["immutable"])

    @immutable.setter
    def immutable(self, immutable: bool) -> None:
        self["immutable"] = immutable

    @property
    def id(self) -> str | None:
        """Return the task id that ``freeze`` gave it, None before."""
        return self.options.get("task_id")

    @id.setter
    def id(self, id: str) -> None:
        self.options["task_id"] = id

    @property
    def parent_id(self) -> str | None:
        return self.options.get("parent_id")

    @parent_id.setter
    def parent_id(self, id: str) -> None:
        self.options["parent_id"] = id

    @property
    def root_id(self) -> str | None:
        return self.options.get("root_id")

    @root_id.setter
    def root_id(self, id: str) -> None:
        self.options["root_id"] = id
