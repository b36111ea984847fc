"""Steering from outside: what ``app.control`` is. So far revoking tasks and emptying queues."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from fastq import _core, states
from fastq.records import StoredResult
from fastq.transports import open_inspector

if TYPE_CHECKING:
    from fastq.app import FastQ
    from fastq.records import Swept
    from fastq.transports.base import Backend, Inspector

__all__ = ["Control"]

#: keywords of Celery's that say how workers are told, and how they answer; here the broker is told
_MEANINGLESS = frozenset({"callback", "channel", "connection", "limit", "matcher", "pattern", "timeout"})

#: a record of one of these does not say that the task runs
_NOT_STARTED = frozenset({states.PENDING, states.RECEIVED, states.RETRY})


class Control:
    """Steer the workers of an application. Opens its connections for each call; safe from any thread."""

    def __init__(self, app: FastQ | None = None) -> None:
        if app is None:
            from fastq.shared import get_current_app  # lazy: shared imports app, which imports this module

            app = get_current_app()
        self.app = app

    def revoke(
        self,
        task_id: str | Iterable[str],
        destination: Any = None,
        terminate: bool = False,
        signal: Any = None,
        *,
        reply: bool = False,
        queues: Iterable[str] = (),
        **options: Any,
    ) -> None:
        """Let one task, or several, not start any more. On return it is so, whether a worker is online or not.

        What waits is ended at once with the state REVOKED, delayed tasks and retries too; what runs goes on, and keeps its state.
        An id is remembered for ``worker_revoke_expires``: should a message of it come later, it is discarded. ``queues``: look
        there first, besides the application's own; the broker's others are looked at only if a task was found in none of these.

        ``destination`` and what else Celery takes to reach single workers means nothing: every worker hears of it.
        """
        for name in options:
            if name not in _MEANINGLESS:
                raise TypeError(f"revoke() got an unexpected keyword argument {name!r}")
        if terminate:
            raise NotImplementedError(
                "revoke(terminate=True): a task that runs cannot be ended by a revocation yet, only kept from starting. Leave "
                "terminate out, or give the task a time limit."
            )
        if reply:
            raise NotImplementedError(
                "revoke(reply=True): workers do not answer yet. The broker has taken the revocation when revoke() returns: leave "
                "reply out."
            )
        ids = _ids(task_id)
        if ids:
            _Revoking(self.app, ids).run(queues)

    def purge(self, connection: Any = None) -> int:
        """Drop the ready and delayed messages of the application's queues; return how many. There is no undo."""
        inspector = _open_inspector(self.app)
        try:
            return sum(inspector.purge(name) for name in _queues(self.app))
        finally:
            inspector.close()

    discard_all = purge

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.app.name}>"


class _Revoking:
    """One revocation of some tasks.

    First the record, so that from now on no worker starts any of them; then what waits is ended. So whatever moves meanwhile
    is met by one of the two.
    """

    def __init__(self, app: FastQ, ids: Sequence[str]) -> None:
        self._app = app
        self._ids = ids
        #: those found nowhere so far
        self._missing = dict.fromkeys(ids)
        self._backend: Backend | None = app.backend.raw if app.keeps_results else None
        #: the broker's own store keeps the results
        self._together = False

    def run(self, queues: Iterable[str]) -> None:
        app = self._app
        broker, inspector = app.open_broker(), _open_inspector(app)
        try:
            broker.revoke(self._ids, round(app.conf.worker_revoke_expires))
            self._together = self._backend is not None and self._backend.shares(broker)
            self._sweep(inspector, dict.fromkeys([*queues, *_queues(app)]), self._ids)
            self._leave_out_known()
            if self._missing:
                self._sweep(inspector, inspector.queues(), list(self._missing))
        finally:
            inspector.close()
            broker.close()
        self._say_revoked()

    def _sweep(self, inspector: Inspector, queues: Iterable[str], ids: Sequence[str]) -> None:
        for queue in queues:
            swept: Swept = inspector.revoke_waiting(queue, ids, results=self._together)
            if swept.results and self._backend is not None:
                self._backend.store(swept.results)
            for id in swept.ended | swept.leased:
                self._missing.pop(id, None)

    def _leave_out_known(self) -> None:
        """Leave out what has ended or says that it runs: nothing of it waits."""
        if self._backend is None or not self._missing:
            return
        ids = list(self._missing)
        for id, record in zip(ids, self._app.backend.records(ids), strict=True):
            if record is not None and _core.decode_result(record)[0] not in _NOT_STARTED:
                del self._missing[id]

    def _say_revoked(self) -> None:
        """Store REVOKED for what was found nowhere: what comes later in a workflow, for one, has not been sent yet."""
        if self._backend is None or not self._missing:
            return
        self._leave_out_known()
        producer = self._app.producer
        record = _core.encode_result(states.REVOKED, "application/x-msgpack", b"", None, producer.clock_ms(), None)
        stored = [StoredResult(id, record, producer.name) for id in self._missing]
        if stored:
            self._backend.store(stored, final=False)


def _ids(given: Any) -> list[str]:
    ids = [given] if isinstance(given, str) else list(dict.fromkeys(given))
    for id in ids:
        if not isinstance(id, str):
            raise TypeError(f"a task id is text, not {type(id).__name__}: {id!r:.80}")
        if not 0 < len(id.encode("utf-8", "surrogatepass")) < 256:
            raise ValueError(f"a task id is 1 to 255 bytes long: {id!r:.80}")
    return ids


def _queues(app: FastQ) -> list[str]:
    """Return the names of the queues that the application's settings know."""
    return list(app.router.queues)


def _open_inspector(app: FastQ) -> Inspector:
    return open_inspector(app.broker_url, app.transport_options())
