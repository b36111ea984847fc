"""The built-in tasks, whose names start with ``fastq.``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastq.app import FastQ

__all__ = ["register"]


def register(app: FastQ) -> None:
    """Register the built-in tasks with an application; harmless to call again."""
    from fastq.task import Task  # lazy: the tasks need not know canvases

    def builtin(name: str, function: Any, **options: Any) -> None:
        if name not in app._tasks:
            # Task itself, whatever the application's own class is: its hooks are for its own tasks
            app.task(name=name, base=Task, **options)(function)

    builtin("fastq.accumulate", accumulate, typing=False)
    builtin("fastq.map", xmap, bind=True)
    builtin("fastq.starmap", xstarmap, bind=True)
    builtin("fastq.chunks", chunks, bind=True)
    builtin("fastq.chain", chain, bind=True)
    builtin("fastq.group", group, bind=True)
    builtin("fastq.chord", chord, bind=True)
    builtin("fastq.chord_unlock", chord_unlock, ignore_result=True)
    builtin("fastq.backend_cleanup", backend_cleanup, bind=True)


def accumulate(*args: Any, index: int | None = None) -> Any:
    """Return the list of results that it is the body of; ``index`` picks one of them."""
    results = list(args[0]) if len(args) == 1 and isinstance(args[0], list | tuple) else list(args)
    return results if index is None else results[index]


def xmap(self: Any, task: Any, it: Iterable[Any]) -> list[Any]:
    """Call a task with each item."""
    return _called(self, task, ((item,) for item in it))


def xstarmap(self: Any, task: Any, it: Iterable[Sequence[Any]]) -> list[Any]:
    """Call a task with each list of arguments."""
    return _called(self, task, it)


def _called(self: Any, task: Any, calls: Iterable[Sequence[Any]]) -> list[Any]:
    import asyncio  # lazy: only where a map runs
    import inspect  # lazy: as above

    from fastq.canvas.signature import signature  # lazy: it is imported where canvases are used

    call = signature(task, app=self.app)
    values: list[Any] = []
    runner: asyncio.Runner | None = None
    try:
        for args in calls:
            value = call(*args)
            if inspect.iscoroutine(value):
                if runner is None:
                    runner = asyncio.Runner()
                value = runner.run(value)
            values.append(value)
    finally:
        if runner is not None:
            runner.close()
    return values


def chunks(self: Any, task: Any, it: Iterable[Sequence[Any]], n: int) -> Any:
    """Go on as the group of starmaps."""
    from fastq.canvas.maps import chunks as canvas  # lazy: as in _called

    return self.replace(canvas(task, it, n, app=self.app).group())


def chain(self: Any, *args: Any, tasks: Sequence[Any], **kwargs: Any) -> Any:
    """Go on as the chain: what a chain is when it is sent by its name and arguments."""
    from fastq.canvas.chain import chain as canvas  # lazy: as in _called

    return self.replace(canvas(list(tasks), app=self.app).clone(args, kwargs))


def group(self: Any, *args: Any, tasks: Sequence[Any], **kwargs: Any) -> Any:
    """Go on as the group."""
    from fastq.canvas.group import group as canvas  # lazy: as in _called

    return self.replace(canvas(list(tasks), app=self.app).clone(args, kwargs))


def chord(self: Any, *args: Any, header: Any, body: Any, **kwargs: Any) -> Any:
    """Go on as the chord."""
    from fastq.canvas.chord import chord as canvas  # lazy: as in _called

    return self.replace(canvas(header, body, args=args, kwargs=kwargs, app=self.app))


def chord_unlock(*args: Any, **kwargs: Any) -> None:
    """Do nothing: joins are counted by the settlements of their members. The name is kept for messages and routes that have it."""


def backend_cleanup(self: Any) -> None:
    """Delete what has expired in the result backend, as far as it does not do that by itself."""
    cleanup = getattr(self.app.backend, "cleanup", None)
    if cleanup is not None:
        cleanup()
