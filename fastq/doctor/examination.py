"""One examination of an application: its settings, its broker, its result backend."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING

from fastq.beat.shared import scope_of
from fastq.doctor.choices import choices
from fastq.doctor.periodic import sends_from_the_broker
from fastq.transports import open_examiner, scheme_of
from fastq.transports.base import Examiner, Finding, Scope
from fastq.transports.judging import counted

if TYPE_CHECKING:
    from fastq.app import FastQ

__all__ = ["LEVELS", "LIMIT", "Examination", "examine"]

#: the worst first
LEVELS = ("error", "warning", "note")

#: keys or messages looked at, at most
LIMIT = 100_000

#: schemes whose stores are shared by processes and can be examined
_EXAMINED = ("redis", "rediss", "unix", "redis+socket", "sentinel", "sentinel+tls", "sqlite")


def examine(app: FastQ, *, queues: Iterable[str] = (), limit: int = LIMIT) -> list[Finding]:
    """Return what is wrong, the worst first; [] is a clean bill of health.

    ``queues``: look at these alone. ``limit``: keys or messages looked at, at most. A server that does not answer is a finding.
    """
    examination = Examination(app, queues=queues, limit=limit)
    try:
        return examination.run()
    finally:
        examination.close()


class Examination:
    """An examination that can be repeated, and can put right what it has found. Close it at the end."""

    def __init__(self, app: FastQ, *, queues: Iterable[str] = (), limit: int = LIMIT, declared: bool = True) -> None:
        """``declared``: the application is the user's, so somebody should take from the queues that it names."""
        self.app = app
        self.findings: list[Finding] = []
        names = tuple(queue.name for queue in app.router.consumed() if not queue.broadcast) if declared else ()
        self._scope = Scope(declared=names, queues=tuple(queues), limit=limit)
        if declared:
            lease_ms = round(app.conf.beat_lease * 1000) if sends_from_the_broker(app) else 0
            self._scope = dataclasses.replace(self._scope, timetable=scope_of(app), beat_lease_ms=lease_ms)
        self._examiners = list(self._open())

    def _open(self) -> Iterable[Examiner]:
        app, options = self.app, self.app.transport_options()
        examiner = open_examiner(app.broker_url, options, self._scope)
        if examiner is not None:
            yield examiner
        if app.keeps_results and app.backend_url != app.broker_url and scheme_of(app.backend_url) in _EXAMINED:
            own = dataclasses.replace(options, extra=dict(app.conf.result_backend_transport_options))
            examiner = open_examiner(app.backend_url, own, dataclasses.replace(self._scope, messages=False))
            if examiner is not None:
                yield examiner

    def run(self) -> list[Finding]:
        """Look at everything, and return what was found, the worst first."""
        found = [*choices(self.app)]
        for examiner in self._examiners:
            found += examiner.examine()
        found.sort(key=lambda finding: LEVELS.index(finding.level))
        self.findings = found
        return found

    def mend(self) -> list[str]:
        """Put right what belongs to nobody (see ``Examiner.mend``); return what was done."""
        return [line for examiner in self._examiners for line in examiner.mend()]

    def count(self, level: str) -> int:
        return sum(finding.level == level for finding in self.findings)

    @property
    def summary(self) -> str:
        """Say what was looked at: "37 keys in 2 queues on Redis 7.0.15 at redis://localhost"."""
        if not self._examiners:
            return "the settings alone: this broker lives inside one process"
        parts = []
        for examiner in self._examiners:
            what = counted(examiner.looked, "row" if examiner.server.startswith("SQLite") else "key")
            queues = f" in {counted(len(examiner.queues), 'queue')}" if examiner.queues else ""
            parts.append(f"{what}{queues} on {examiner.server}" if examiner.looked or queues else examiner.server)
        return ", and ".join(parts)

    @property
    def looked(self) -> int:
        return sum(examiner.looked for examiner in self._examiners)

    @property
    def servers(self) -> list[str]:
        return [examiner.server for examiner in self._examiners]

    @property
    def queues(self) -> list[str]:
        return sorted({queue for examiner in self._examiners for queue in examiner.queues})

    def close(self) -> None:
        for examiner in self._examiners:
            examiner.close()
