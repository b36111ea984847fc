"""Pausing queues and task names, for the whole fleet: a record in the broker."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from fastq.control.stores import open_app_inspector

if TYPE_CHECKING:
    from fastq.app import FastQ
    from fastq.records import Paused

__all__ = ["Pausing"]


class Pausing:
    """What ``app.control`` does to let work rest.

    All of it holds until it is lifted, whatever restarts meanwhile; no worker need be online.
    """

    app: FastQ

    def pause_queue(self, *names: str) -> Paused:
        """Let no worker take anything from these queues; return all that is paused now.

        On return nothing more is taken there. What runs, or was taken and starts within some 50 ms, goes on; a worker that hears
        of the pause puts back what it holds and has not started. Messages still come in, and become due.
        """
        return self._change(True, _checked("pause_queue", names), [])

    def pause_task(self, *names: str) -> Paused:
        """Let no worker start a task of these names; return all that is paused now.

        What is sent waits in its queue; a worker that meets it puts it aside, unchanged and uncharged, and takes the next. So
        tasks of other names in the same queues run on. It holds from the next fetch of each worker on.
        """
        return self._change(True, [], _checked("pause_task", names))

    def resume_queue(self, *names: str) -> Paused:
        """Let workers take from these queues again, at once; return what is still paused."""
        return self._change(False, _checked("resume_queue", names), [])

    def resume_task(self, *names: str) -> Paused:
        """Let tasks of these names run again; return what is still paused.

        What was put aside goes back to the head of its queue and level, in its order, before this returns; until then nothing is
        taken from the queues where it is. Should this process die on the way, any node that runs, or the next that starts, puts
        back the rest.
        """
        return self._change(False, [], _checked("resume_task", names))

    def paused(self) -> Paused:
        """Return the queues and task names that are paused, each with the time since when (Unix ms)."""
        broker = self.app.open_broker()
        try:
            return broker.paused()
        finally:
            broker.close()

    def _change(self, pausing: bool, queues: list[str], tasks: list[str]) -> Paused:
        broker = self.app.open_broker()
        try:
            if pausing:
                paused = broker.pause(queues=queues, tasks=tasks)
            else:
                unknown = tasks and not {*tasks} & {*broker.paused().tasks}
                paused = broker.resume(queues=queues, tasks=tasks, lost=self._parked(tasks) if unknown else ())
            if not paused.resuming and not paused.held:
                return paused
            while broker.unpark():
                pass
            return broker.paused()
        finally:
            broker.close()

    def _parked(self, tasks: Collection[str]) -> list[str]:
        """Return the queues where something of these names is put aside; for names of which the broker's record says nothing."""
        inspector = open_app_inspector(self.app)
        try:
            return [queue for queue in inspector.queues() if not inspector.parked(queue).keys().isdisjoint(tasks)]
        finally:
            inspector.close()


def _checked(method: str, names: tuple[str, ...]) -> list[str]:
    if not names:
        raise TypeError(f"{method}() needs a name at least")
    for name in names:
        if not isinstance(name, str) or not name:
            raise TypeError(f"{method}() takes names, one per argument, not {name!r:.80}")
    return list(dict.fromkeys(names))
