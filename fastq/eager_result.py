"""The result of a task that was run here, at once: no backend, nothing to wait for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from fastq import states
from fastq.exceptions import TaskRevokedError
from fastq.remote import stand_in_for
from fastq.result import AsyncResult

__all__ = ["EagerResult"]

R = TypeVar("R")


class EagerResult(AsyncResult[R]):
    """What ``task.apply()`` returns, and ``apply_async`` with ``task_always_eager``.

    ``ret_value`` is what the task returned, or the exception that ended it (FAILURE, REVOKED), or the one it wants to be retried
    for (RETRY).
    """

    __slots__ = ("_children", "_name")

    is_stored = False

    def __init__(
        self,
        id: str,
        ret_value: Any,
        state: str,
        traceback: str | None = None,
        name: str | None = None,
        *,
        parent: Any = None,
        children: list[Any] | None = None,
    ) -> None:
        super().__init__(id, parent=parent)
        self._meta = meta = (state, "", b"", None if traceback is None else str(traceback), time.time_ns() // 1_000_000, None)
        self._value = (meta, ret_value)
        self._name = name
        self._children = children

    def arrived(self) -> bool:
        return True

    def deliver(self, record: bytes) -> bool:
        return True

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        no_ack: bool = True,
        follow_parents: bool = True,
        callback: Callable[[str, Any], object] | None = None,
        on_message: Callable[[dict[str, Any]], object] | None = None,
        on_interval: Callable[[], object] | None = None,
        disable_sync_subtasks: bool = True,
    ) -> R:
        """Return what the task returned; raise what it raised (``propagate``). None where it has not ended (RETRY, Ignore)."""
        if self.state not in states.READY_STATES:
            return None  # type: ignore[return-value]
        return self._outcome(propagate, callback, follow_parents)

    wait = get

    async def aget(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        *,
        callback: Callable[[str, Any], object] | None = None,
        disable_sync_subtasks: bool = True,
    ) -> R:
        return self.get(propagate=propagate, callback=callback)

    def _raise(self, value: object) -> None:
        if self.state in states.PROPAGATE_STATES:
            # with the frames it was raised in: they are of this process
            raise value if isinstance(value, BaseException) else stand_in_for(value)

    def ready(self) -> bool:
        return True

    def exists(self) -> bool:
        """Say False: nothing is stored anywhere."""
        return False

    def forget(self) -> None:
        """Do nothing: nothing is stored."""

    def drop(self) -> None:
        """Do nothing, as ``forget``."""

    def revoke(self, *args: Any, **kwargs: Any) -> None:
        """Call it revoked; it has run already. Arguments are those of a control command and mean nothing here."""
        assert self._meta is not None
        self._meta = meta = (states.REVOKED, *self._meta[1:])
        self._value = (meta, TaskRevokedError("revoked"))

    @property
    def name(self) -> str | None:
        return self._name

    def known_children(self) -> list[Any] | None:
        return self._children

    def __copy__(self) -> EagerResult[R]:
        return _unpickle(*self.__reduce__()[1])

    def __reduce__(self) -> Any:
        meta = self._meta
        assert meta is not None
        return _unpickle, (self.id, self._decoded(), meta[0], meta[3], self._name, self.parent)


def _unpickle(id: str, ret_value: Any, state: str, traceback: str | None, name: str | None, parent: Any) -> EagerResult[Any]:
    return EagerResult(id, ret_value, state, traceback, name, parent=parent)
