"""Results of many tasks: ResultSet."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from fastq import states
from fastq.exceptions import TimeoutError
from fastq.result import AsyncResult
from fastq.waiting.arrivals import arrivals
from fastq.waiting.blocking import assert_will_not_block

if TYPE_CHECKING:
    from fastq.app import FastQ
    from fastq.store import ResultStore

__all__ = ["ResultSet"]

R = TypeVar("R")
#: (id, value)
Callback = Callable[[str, Any], object]


class ResultSet(Sequence[AsyncResult[R]]):
    """Results of many tasks, in the order in which the tasks were sent. Reads and waits for all of them at once.

    A member may be a ResultSet itself (a group within a group): then its value is a list.
    """

    #: the application of a class that is bound to one
    _app: FastQ | None = None

    def __init__(self, results: Iterable[AsyncResult[R]] = (), app: FastQ | None = None) -> None:
        self.results: list[AsyncResult[R]] = list(results)
        if app is not None:
            self._app = app

    @property
    def app(self) -> FastQ:
        if self._app is None:
            from fastq.shared import get_current_app  # lazy: shared imports app, which imports this module's user

            self._app = self.results[0].app if self.results else get_current_app()
        return self._app

    @property
    def backend(self) -> ResultStore:
        return self.app.backend

    # --- a sequence of results ---

    def __len__(self) -> int:
        return len(self.results)

    def __iter__(self) -> Iterator[AsyncResult[R]]:
        return iter(self.results)

    @overload
    def __getitem__(self, index: int) -> AsyncResult[R]: ...
    @overload
    def __getitem__(self, index: slice) -> ResultSet[R]: ...
    def __getitem__(self, index: int | slice) -> AsyncResult[R] | ResultSet[R]:
        if isinstance(index, slice):
            return ResultSet(self.results[index], self._app)
        return self.results[index]

    def __eq__(self, other: object) -> bool:
        return other.results == self.results if isinstance(other, ResultSet) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = ", ".join(result.id for result in self.results[:3])
        return f"<{type(self).__name__}: {len(self.results)} [{shown}{', ...' if len(self.results) > 3 else ''}]>"

    def add(self, result: AsyncResult[R]) -> None:
        """Add a result that is not in it yet."""
        if result not in self.results:
            self.results.append(result)

    def update(self, results: Iterable[AsyncResult[R]]) -> None:
        """Add those that are not in it yet."""
        known = {result.id for result in self.results if isinstance(result, AsyncResult)}
        for result in results:
            if getattr(result, "id", None) not in known and result not in self.results:
                self.results.append(result)
                known.add(result.id)

    def remove(self, result: AsyncResult[R] | str) -> None:
        """Take a result out (or the one of that id); KeyError if it is not there."""
        for index, own in enumerate(self.results):
            if own == result:
                del self.results[index]
                return
        raise KeyError(result)

    def discard(self, result: AsyncResult[R] | str) -> None:
        """Take a result out if it is there."""
        try:
            self.remove(result)
        except KeyError:
            return

    def clear(self) -> None:
        """Take all out."""
        self.results.clear()

    def _leaves(self) -> list[AsyncResult[Any]]:
        """Return the results of single tasks, those of the sets within too."""
        found: list[AsyncResult[Any]] = []
        for member in _members(self):
            if isinstance(member, ResultSet):
                found.extend(member._leaves())
            else:
                found.append(member)
        return found

    def _missing(self) -> list[AsyncResult[Any]]:
        return [result for result in self._leaves() if not result.ignored and not result.arrived()]

    # --- waiting ---

    @property
    def supports_native_join(self) -> bool:
        """Say True: every backend tells who waits."""
        return True

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        callback: Callback | None = None,
        no_ack: bool = True,
        on_message: Callable[[dict[str, Any]], object] | None = None,
        disable_sync_subtasks: bool = True,
        on_interval: Callable[[], object] | None = None,
    ) -> list[R]:
        """Wait for all and return their values in order.

        The first failure that comes is raised at once (``propagate``), or stands in its place. TimeoutError after ``timeout``
        seconds for all together. With ``callback`` nothing is returned: ``callback(id, value)`` is called for each that comes.
        ``interval``, ``on_interval`` and ``on_message`` as in ``AsyncResult.get``; ``no_ack`` is Celery's and means nothing here.
        """
        missing = self._missing()
        if missing:
            if disable_sync_subtasks:
                assert_will_not_block()
            if not propagate and callback is None and on_message is None and on_interval is None:
                self.backend.waiter.wait(missing, timeout)
                return self._values(False)
        elif callback is None and on_message is None:
            return self._values(propagate)
        for result in self._arrivals(timeout, interval, on_interval, on_message):
            _tell(result, propagate, callback)
        if callback is None:
            return self._values(propagate)
        if self._missing():
            raise TimeoutError
        return []

    join_native = get

    def join(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        callback: Callback | None = None,
        no_ack: bool = True,
        on_message: Callable[[dict[str, Any]], object] | None = None,
        disable_sync_subtasks: bool = True,
        on_interval: Callable[[], object] | None = None,
    ) -> list[R]:
        """``get`` in order: a failure is raised when all before it have come, ``callback`` is called in the order of the tasks."""
        if disable_sync_subtasks and self._missing():
            assert_will_not_block()
        values: list[R] = []
        leaves = self._leaves()
        # how many of them must have come for each member to be whole
        needed = list(accumulate(len(r._leaves()) if isinstance(r, ResultSet) else 1 for r in _members(self)))
        come = turn = 0

        def take_turns() -> None:
            nonlocal come, turn
            while come < len(leaves) and _has_come(leaves[come]):
                come += 1
            while turn < len(needed) and needed[turn] <= come:
                result = self.results[turn]
                turn += 1
                value = _value_of(result, propagate)
                if callback is not None:
                    callback(result.id, value)
                else:
                    values.append(value)

        for _ in self._arrivals(timeout, interval, on_interval, on_message):
            take_turns()
        take_turns()
        if turn < len(needed):
            raise TimeoutError
        return values

    def _arrivals(
        self,
        timeout: float | None,
        interval: float = 0.5,
        on_interval: Callable[[], object] | None = None,
        on_message: Callable[[dict[str, Any]], object] | None = None,
    ) -> Iterator[AsyncResult[Any]]:
        ignored: list[AsyncResult[Any]] = []
        awaited: list[AsyncResult[Any]] = []
        for result in self._leaves():
            (ignored if result.ignored else awaited).append(result)
        yield from ignored
        if awaited:
            yield from arrivals(awaited, timeout, interval, on_interval, on_message)

    def iter_native(
        self,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: Callable[[dict[str, Any]], object] | None = None,
        on_interval: Callable[[], object] | None = None,
        disable_sync_subtasks: bool = True,
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield (id, meta as ``backend.get_task_meta`` gives) of each task when it has ended; TimeoutError as in ``get``."""
        if disable_sync_subtasks and self._missing():
            assert_will_not_block()
        for result in self._arrivals(timeout, interval, on_interval, on_message):
            if not result.ignored:
                yield result.id, result._get_task_meta()
        if self._missing():
            raise TimeoutError

    def iterate(
        self, timeout: float | None = None, propagate: bool = True, interval: float = 0.5, *, disable_sync_subtasks: bool = True
    ) -> Iterator[R]:
        """Yield each value when it has come, in the order in which they come; a failure is raised (``propagate``)."""
        if disable_sync_subtasks and self._missing():
            assert_will_not_block()
        for result in self._arrivals(timeout, interval):
            yield _value_of(result, propagate)
        if self._missing():
            raise TimeoutError

    def iter_completed(self, timeout: float | None = None, *, disable_sync_subtasks: bool = True) -> Iterator[AsyncResult[R]]:
        """Yield each result when it has come, those that are there first; TimeoutError if that takes longer for all together."""
        if disable_sync_subtasks and self._missing():
            assert_will_not_block()
        yield from self._arrivals(timeout)
        if self._missing():
            raise TimeoutError

    as_completed = iter_completed

    async def aget(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        *,
        callback: Callback | None = None,
        disable_sync_subtasks: bool = True,
    ) -> list[R]:
        """``get`` for an event loop."""
        async with aclosing(self._aarrivals(timeout, disable_sync_subtasks)) as arriving:
            async for result in arriving:
                _tell(result, propagate, callback)
        return self._values(propagate) if callback is None else []

    ajoin = aget

    async def aiter_completed(
        self, timeout: float | None = None, *, disable_sync_subtasks: bool = True
    ) -> AsyncIterator[AsyncResult[R]]:
        """``iter_completed`` for an event loop."""
        async with aclosing(self._aarrivals(timeout, disable_sync_subtasks)) as arriving:
            async for result in arriving:
                yield result

    async def _aarrivals(self, timeout: float | None, disable_sync_subtasks: bool) -> AsyncGenerator[AsyncResult[Any]]:
        if disable_sync_subtasks and self._missing():
            assert_will_not_block()
        missing: list[AsyncResult[Any]] = []
        for result in self._leaves():
            if result.ignored or result.arrived():
                yield result
            else:
                missing.append(result)
        if missing:
            async with aclosing(self.backend.waiter.aarrivals(missing, timeout)) as arriving:
                async for came in arriving:
                    for result in came:
                        yield result
        if self._missing():
            raise TimeoutError

    def _values(self, propagate: bool) -> list[R]:
        values: list[R] = []
        for result in self.results:
            if not _has_come(result):
                raise TimeoutError
            values.append(_value_of(result, propagate))
        return values

    # --- looking ---

    def _look(self) -> list[AsyncResult[Any]]:
        """Read what has not come yet, in few round trips; return the results of single tasks."""
        leaves = self._leaves()
        missing = [result for result in leaves if not result.ignored and not result.arrived()]
        if missing:
            records = self.backend.records([result.id for result in missing])
            for result, record in zip(missing, records, strict=True):
                if record is not None and result.deliver(record):
                    result.fire()
        return leaves

    def _states(self) -> list[str]:
        return [result.known_state for result in self._look()]

    def ready(self) -> bool:
        """Say whether all have ended."""
        return all(result.ignored or result.arrived() for result in self._look())

    def successful(self) -> bool:
        """Say whether all have returned."""
        return all(state == states.SUCCESS for state in self._states())

    def failed(self) -> bool:
        """Say whether any has failed."""
        return any(state == states.FAILURE for state in self._states())

    def waiting(self) -> bool:
        """Say whether any has not ended."""
        return not self.ready()

    def completed_count(self) -> int:
        """Count those that have returned; a set within counts as one."""
        self._look()
        return sum(map(_has_returned, self.results))

    def maybe_throw(self, callback: Callback | None = None, propagate: bool = True) -> None:
        """Raise the first failure that is known, in order; never waits."""
        for result in self._look():
            if not result.ignored:
                result._outcome(propagate, callback)

    maybe_reraise = maybe_throw

    def then(
        self, callback: Callable[[Self], object], on_error: Callable[[Exception], object] | None = None, weak: bool = False
    ) -> None:
        """Call ``callback(self)`` when all have ended, as ``AsyncResult.then`` does."""
        missing = self._missing()
        left = len(missing) + 1
        lock = threading.Lock()

        def ended(_: object) -> None:
            nonlocal left
            with lock:  # several threads may read results at once
                left -= 1
                last = not left
            if last:
                callback(self)

        for result in missing:
            result.then(ended, on_error)
        try:
            ended(None)
        except Exception as exc:  # nothing is missing, and the callback raised: as ``then`` of one result
            if on_error is None:
                raise
            on_error(exc)

    def revoke(
        self,
        connection: Any = None,
        terminate: bool = False,
        signal: Any = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Keep all that have not started from starting, and with ``terminate`` end those that run, in one go.

        See ``AsyncResult.revoke``.
        """
        ids = []
        for result in self._leaves():
            if result.is_stored:
                ids.append(result.id)
            else:
                result.revoke()
        asked: dict[str, Any] = {"reply": True, "timeout": timeout or 1.0} if wait else {}
        self.app.control.revoke(ids, terminate=terminate, signal=signal or "SIGTERM", **asked)

    def terminate(self, connection: Any = None, signal: Any = None, wait: bool = False, timeout: float | None = None) -> None:
        """End all, whether they run or not: ``revoke`` with ``terminate``."""
        self.revoke(connection, True, signal, wait, timeout)

    def forget(self) -> None:
        """Delete the stored results."""
        leaves = self._leaves()
        if stored := [result.id for result in leaves if result.is_stored]:
            self.backend.forget(stored)
        for result in leaves:
            result.drop()


def _members(results: ResultSet[Any]) -> list[Any]:
    """Return the members, of which some may be sets (which the type of ``results`` does not say)."""
    return results.results


def _tell(result: AsyncResult[Any], propagate: bool, callback: Callback | None) -> None:
    """Raise a failure, or call back; a value that nobody wants yet is not decoded."""
    if callback is not None:
        callback(result.id, _value_of(result, propagate))
    elif propagate and result.known_state in states.PROPAGATE_STATES:
        result._outcome(True, None)


def _has_come(result: Any) -> bool:
    """Say whether a member, or all members of a set within, have ended."""
    if isinstance(result, ResultSet):
        return all(map(_has_come, result.results))
    return bool(result.ignored or result.arrived())


def _has_returned(result: Any) -> bool:
    if isinstance(result, ResultSet):
        return all(map(_has_returned, result.results))
    return bool(result.known_state == states.SUCCESS)


def _value_of(result: Any, propagate: bool) -> Any:
    if isinstance(result, ResultSet):
        return [_value_of(member, propagate) for member in result.results]
    return None if result.ignored else result._outcome(propagate, None)
