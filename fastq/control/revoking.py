"""Revoking tasks from outside: the record in the broker, and the sweep of what waits."""

from __future__ import annotations

import signal as signals
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastq import _core, states
from fastq.control.broadcasting import Broadcasting
from fastq.control.stores import open_app_inspector, queues_of
from fastq.exceptions import EnvelopeError
from fastq.records import StoredResult
from fastq.stamps import stamp_names, stamps_of

if TYPE_CHECKING:
    from fastq.app import FastQ
    from fastq.control.broadcasting import Reply
    from fastq.records import Swept
    from fastq.transports.base import Backend, Inspector

__all__ = ["TERMINATE_SIGNAL", "Revoking", "signal_name"]

#: how a task is ended that runs, unless told otherwise
TERMINATE_SIGNAL = "SIGTERM"

#: keywords that say whose answers are waited for, and how
_ASKING = frozenset({"callback", "channel", "connection", "limit", "matcher", "pattern", "timeout"})

#: messages of a queue that are looked at for stamps, of the ready and of the delayed ones
_LOOKED_AT = 10_000

#: a record of one of these does not say that the task runs
_NOT_STARTED = frozenset({states.PENDING, states.RECEIVED, states.RETRY})


class Revoking(Broadcasting):
    """What ``app.control`` does about single tasks."""

    def revoke(
        self,
        task_id: str | Iterable[str],
        destination: str | Iterable[str] | None = None,
        terminate: bool = False,
        signal: str | int = TERMINATE_SIGNAL,
        *,
        reply: bool = False,
        queues: Iterable[str] = (),
        **options: Any,
    ) -> list[Reply] | None:
        """Let one task, or several, not start any more. On return it is so, whether a worker is online or not.

        What waits is ended at once with the state REVOKED, delayed tasks and retries too. What runs goes on and keeps its state,
        unless ``terminate``: then it is interrupted on whatever node it runs, as far as its pool can, and ends as REVOKED too.
        With SIGTERM and others an exception comes that passes ``except Exception``, so that ``finally`` runs; with SIGUSR1 one
        that the task may catch; with SIGKILL and SIGQUIT a prefork process is killed. Nodes hear of it at once, one that is cut
        off when it is back.

        An id is remembered for ``worker_revoke_expires``: should a message of it come later, it is discarded. ``queues``: look
        there first, besides the application's own; the broker's others are looked at only if a task was found in none of these.

        With ``reply`` returns what nodes answer; ``destination`` and the other ``options`` say whose answers are waited for, as
        ``broadcast`` has them. The revocation itself concerns every node.
        """
        asking = _asking(options, "revoke")
        ids = _ids(task_id)
        name = signal_name(signal) if terminate else ""
        if not ids:
            return [] if reply else None
        _Revocation(self.app, ids, name).run(queues)
        if not (terminate or reply):
            return None
        arguments = {"task_id": ids, "terminate": terminate, "signal": name or None, "recorded": True}
        return self.broadcast("revoke", arguments, destination if reply else None, reply=reply, **asking)

    def terminate(
        self,
        task_id: str | Iterable[str],
        destination: str | Iterable[str] | None = None,
        signal: str | int = TERMINATE_SIGNAL,
        **options: Any,
    ) -> list[Reply] | None:
        """End tasks whether they run or not: ``revoke`` with ``terminate``."""
        return self.revoke(task_id, destination, True, signal, **options)

    def revoke_by_stamped_headers(
        self,
        headers: Mapping[str, Any],
        destination: str | Iterable[str] | None = None,
        terminate: bool = False,
        signal: str | int = TERMINATE_SIGNAL,
        *,
        reply: bool = False,
        queues: Iterable[str] = (),
        **options: Any,
    ) -> list[Reply] | None:
        """Revoke all tasks with one of these stamps: those that wait, those that come within ``worker_revoke_expires``, and with
        ``terminate`` those that run.

        ``headers``: stamps, each with a value or several. What waits is ended as far as it is found among the first 10,000 ready
        and delayed messages of the application's queues (and of ``queues``); of the others each is discarded when its turn comes.
        """
        if not isinstance(headers, Mapping) or not headers:
            raise TypeError(f"headers must be stamps and their values, as in {{'customer': 'acme'}}, not {headers!r:.80}")
        asking = _asking(options, "revoke_by_stamped_headers")
        names = [name for header, values in headers.items() for name in stamp_names(header, values)]
        name = signal_name(signal) if terminate else ""
        app, among = self.app, list(dict.fromkeys([*queues, *queues_of(self.app)]))
        broker = app.open_broker()
        try:
            broker.revoke(names, round(app.conf.worker_revoke_expires), signal=name)
        finally:
            broker.close()
        if ids := _waiting(app, among, frozenset(names)):
            _Revocation(app, ids, "").run(among)
        if not (terminate or reply):
            return None
        plain = (set, frozenset, tuple)
        stamps = {header: list(values) if isinstance(values, plain) else values for header, values in headers.items()}
        arguments = {"headers": stamps, "terminate": terminate, "signal": name or None, "recorded": True}
        return self.broadcast("revoke_by_stamped_headers", arguments, destination if reply else None, reply=reply, **asking)


class _Revocation:
    """One revocation of some tasks.

    First the record, so that from now on no worker starts any of them; then what waits is ended. So whatever moves meanwhile
    is met by one of the two.
    """

    def __init__(self, app: FastQ, ids: Sequence[str], signal: str) -> None:
        self._app = app
        self._ids = ids
        self._signal = signal
        #: those found nowhere so far
        self._missing = dict.fromkeys(ids)
        self._backend: Backend | None = app.backend.raw if app.keeps_results else None
        #: the broker's own store keeps the results
        self._together = False

    def run(self, queues: Iterable[str]) -> None:
        app = self._app
        broker, inspector = app.open_broker(), open_app_inspector(app)
        try:
            broker.revoke(self._ids, round(app.conf.worker_revoke_expires), signal=self._signal)
            self._together = self._backend is not None and self._backend.shares(broker)
            self._sweep(inspector, dict.fromkeys([*queues, *queues_of(app)]), self._ids)
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


def signal_name(signal: str | int) -> str:
    """Return the name of a signal, given as SIGTERM, TERM, signal.SIGTERM or 15."""
    if isinstance(signal, int):
        try:
            return signals.Signals(signal).name
        except ValueError:
            raise ValueError(f"{signal} is no signal of this system") from None
    name = str(signal).upper()
    for known in (name, f"SIG{name}"):
        if known in signals.Signals.__members__:
            return known
    raise ValueError(f"{signal!r} is no signal of this system: give a name as SIGTERM, SIGUSR1 or SIGKILL, or its number")


def _asking(options: dict[str, Any], method: str) -> dict[str, Any]:
    for name in options:
        if name not in _ASKING:
            raise TypeError(f"{method}() got an unexpected keyword argument {name!r}")
    return {name: value for name, value in options.items() if name not in ("channel", "connection")}


def _waiting(app: FastQ, queues: Iterable[str], stamps: frozenset[str]) -> list[str]:
    """Return the ids of waiting tasks with one of these stamps."""
    found: dict[str, None] = {}
    inspector = open_app_inspector(app)
    try:
        for queue in queues:
            delayed = [message for _, _, message in inspector.delayed(queue, _LOOKED_AT)]
            for message in (*delayed, *inspector.peek(queue, _LOOKED_AT)):
                try:
                    d = _core.peek(message)
                except EnvelopeError:
                    continue
                if any(stamp in stamps for stamp in stamps_of(d.options)):
                    found[d.id] = None
    finally:
        inspector.close()
    return list(found)
